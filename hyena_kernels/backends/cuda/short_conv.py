"""``short_conv`` on CUDA, for channel-first and channel-last tensors.

The kernels take tiles of 32 channels × 64 positions into shared memory. With up to 4 taps and rows that begin at
multiples of 16 bytes they take patches into registers instead. ``csrc/cuda/short_conv_patches.cu`` decides this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cuda import device as _device
from hyena_kernels.backends.cuda.schemas import ops
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.taps import empty_signal, final_state, short_gradients, write_tap_gradients

TILE_CHANNELS, TILE_POSITIONS = 32, 64

# Blocks that a backward launch should have for each multiprocessor. Each block has its own sum. The sums are added
# afterwards, always in the same order.
BLOCKS_PER_PROCESSOR = 8


def forward(inputs: ShortConvInputs, silu: bool) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``, for at most 8 taps without a state and an activation."""
    x, weight, bias, _ = inputs
    y = empty_signal(x)
    if y.numel():
        ops.short_conv_tiles(y, x, weight, bias, 1, 0, 0, 0, False)
    return y


def forward_states(inputs: ShortConvInputs, silu: bool) -> tuple[Tensor, Tensor]:
    """As ``hyena_kernels::short_conv_states_fwd``, for what :func:`forward` takes."""
    return forward(inputs, silu), final_state(inputs.x, inputs.weight.shape[1], inputs.initial_state)


def backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``, for what :func:`forward` takes."""
    x, weight, bias, _ = inputs
    dx, dweight, dbias, _ = grads = short_gradients(inputs, needs)
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
    """Number of spans of positions, each with its own sum for a tile of channels of a batch entry."""
    batch, count, length = x.shape
    tiles = -(-length // TILE_POSITIONS)
    columns = batch * -(-count // TILE_CHANNELS)
    spans = min(tiles, max(1, -(-BLOCKS_PER_PROCESSOR * _device.processors(x.device) // columns)))
    # Each span has a whole number of tiles, so there may be fewer spans. None is empty.
    return -(-tiles // -(-tiles // spans))


def tap_sums(x: Tensor, parts: int, taps: int) -> Tensor:
    """Uninitialised sums, which :func:`backward_into` writes and ``write_tap_gradients`` adds.

    Returns:
        ``(spans, parts * (K + 1), C)`` in float32. Each part has the gradients of its K taps, then of its bias.
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
    """Write the gradients of a short convolution, or of the product of a pair of them.

    The second signal of a pair lies ``channels`` channels behind the first, in ``x`` as in ``dx``.

    Args:
        dx: ``(B, C, L)`` gradient of the first signal, written unless it is None.
        sums: :func:`tap_sums` of one or two parts, written unless it is None.
        dy: ``(B, C, L)`` gradient of the result.
        x: ``(B, C, L)`` first signal.
        weight: ``(…, K)``, from the row of the first signal on.
        bias: ``(…,)`` or None, from the same row on.
        channels: channels from the first to the second signal of a pair.
        pair: whether there are two signals.
    """
    dx_part = 0 if dx is None else channels * dx.stride(1)
    x_part, spans = channels * x.stride(1), _spans(x)
    ops.short_conv_tiles_backward(dx, sums, dy, x, weight, bias, x_part, channels, dx_part, spans, pair)
