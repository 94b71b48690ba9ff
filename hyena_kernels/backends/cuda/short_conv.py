"""``short_conv`` on CUDA, in whatever order the tensors are stored.

Tiles of 32 channels × 64 positions in shared memory; up to 4 taps, and rows that begin at multiples of 16 bytes, go in
patches in registers instead, which ``csrc/cuda/short_conv_patches.cu`` decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cuda import device as _device
from hyena_kernels.backends.cuda.schemas import ops
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.taps import write_tap_gradients

TILE_CHANNELS, TILE_POSITIONS = 32, 64

# Blocks that a backward launch should have for each multiprocessor: each has a sum of its own, and they are added
# afterwards, in their order.
BLOCKS_PER_PROCESSOR = 8


def forward(inputs: ShortConvInputs) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    x, weight, bias = inputs
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if y.numel():
        ops.short_conv_tiles(y, x, weight, bias, 1, 0, 0, 0, False)
    return y


def backward(dy: Tensor, inputs: ShortConvInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``."""
    x, weight, bias = inputs
    dx, dweight, dbias = grads = gradients_like(inputs, needs)
    if not x.numel():
        for grad in grads[1:]:
            grad.zero_()
        return grads
    sums = tap_sums(x, 1, weight.shape[1]) if needs[1] or needs[2] else None
    if needs[0] or sums is not None:
        backward_into(dx if needs[0] else None, sums, dy, x, weight, bias, 0, pair=False)
    if sums is not None:
        write_tap_gradients(sums, dweight if needs[1] else None, dbias if needs[2] else None)
    return grads


def _spans(x: Tensor) -> int:
    """Sums of a tile of channels of a batch entry, each of a span of positions."""
    batch, count, length = x.shape
    tiles = -(-length // TILE_POSITIONS)
    columns = batch * -(-count // TILE_CHANNELS)
    spans = min(tiles, max(1, -(-BLOCKS_PER_PROCESSOR * _device.processors(x.device) // columns)))
    # As many spans as there are once each has a whole number of tiles: none is empty.
    return -(-tiles // -(-tiles // spans))


def tap_sums(x: Tensor, parts: int, taps: int) -> Tensor:
    """Where :func:`backward_into` leaves sums for several parts, to be added up by ``write_tap_gradients``.

    Returns:
        ``(spans, parts * (K + 1), C)`` in float32, not yet defined: of each part the taps' gradients, then the bias's.
    """
    batch, count, _ = x.shape
    return x.new_empty((batch * _spans(x), parts * (taps + 1), count), dtype=torch.float32)


def backward_into(
    dx: Tensor | None,
    sums: Tensor | None,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channels: int,
    *,
    pair: bool,
) -> None:
    """Gradients of a short convolution, or of the product of two, of which the other lies ``channels`` further on.

    Args:
        dx: ``(B, C, L)`` gradient of the first signal, to be written, or None. That of the other is behind it as in x.
        sums: where those of weight and bias are, :func:`tap_sums` of one or two parts, or None.
        dy: ``(B, C, L)`` gradient of the result.
        x: ``(B, C, L)`` first signal.
        weight: ``(…, K)`` from the first row on.
        bias: ``(…,)`` or None.
        channels: channels between the two of a pair.
        pair: whether there are two.
    """
    dx_part = 0 if dx is None else channels * dx.stride(1)
    x_part, spans = channels * x.stride(1), _spans(x)
    ops.short_conv_tiles_backward(dx, sums, dy, x, weight, bias, x_part, channels, dx_part, spans, pair)
