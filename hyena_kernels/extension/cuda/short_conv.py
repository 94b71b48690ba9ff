"""``short_conv`` on CUDA, in whatever order the tensors are stored.

Tiles of 32 channels × 64 positions in shared memory; up to 4 taps, and rows that begin at multiples of 16 bytes, go in
patches in registers instead, which ``csrc/cuda/short_conv_patches.cu`` decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.extension.cuda import device as _device
from hyena_kernels.extension.cuda.schemas import ops
from hyena_kernels.short_conv import _gradients_like

TILE_CHANNELS, TILE_POSITIONS = 32, 64

# Blocks that a backward launch should have for each multiprocessor: each has a sum of its own, and they are added
# afterwards, in their order.
BLOCKS_PER_PROCESSOR = 8


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if y.numel():
        ops.short_conv_tiles(y, x, weight, bias, 1, 0, 0, 0, False)
    return y


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``hyena_kernels::short_conv_bwd``."""
    dx, dweight, dbias = grads = _gradients_like(x, weight, bias, needs)
    if not x.numel():
        for grad in grads[1:]:
            grad.zero_()
        return grads
    wants_taps = needs[1] or (needs[2] and bias is not None)
    if not (needs[0] or wants_taps):
        return grads
    total = tap_sums(dx if needs[0] else None, dy, x, weight, bias, 0, pair=False, wants_taps=wants_taps)
    if total is not None:
        if needs[1]:
            dweight.copy_(total[0, :-1].t())
        if needs[2] and bias is not None:
            dbias.copy_(total[0, -1])
    return grads


def tap_sums(
    dx: Tensor | None,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channels: int,
    *,
    pair: bool,
    wants_taps: bool,
) -> Tensor | None:
    """Gradients of a short convolution, or of the product of two, of which the other lies ``channels`` further on.

    Args:
        dx: ``(B, C, L)`` gradient of the first signal, to be written, or None. That of the other is behind it as in x.
        dy: ``(B, C, L)`` gradient of the result.
        x: ``(B, C, L)`` first signal.
        weight: ``(…, K)`` from the first row on.
        bias: ``(…,)`` or None.
        channels: channels between the two of a pair.
        pair: whether there are two.
        wants_taps: whether the sums are needed.

    Returns:
        ``(1 or 2, K + 1, C)`` float32 gradients of weight and bias, or None.
    """
    batch, count, length = x.shape
    tiles = -(-length // TILE_POSITIONS)
    columns = batch * -(-count // TILE_CHANNELS)
    spans = min(tiles, max(1, -(-BLOCKS_PER_PROCESSOR * _device.processors(x.device) // columns)))
    # As many spans as there are once each has a whole number of tiles: none is empty.
    spans = -(-tiles // -(-tiles // spans))
    sums = None
    if wants_taps:
        rows = (2 if pair else 1) * (weight.shape[1] + 1)
        sums = x.new_empty((batch * spans, rows, count), dtype=torch.float32)
    dx_part = 0 if dx is None else channels * dx.stride(1)
    ops.short_conv_tiles_backward(dx, sums, dy, x, weight, bias, channels * x.stride(1), channels, dx_part, spans, pair)
    return None if sums is None else sums.sum(dim=0).view(2 if pair else 1, -1, count)
