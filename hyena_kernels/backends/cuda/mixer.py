"""``hyena_mixer`` on CUDA: short convolution, split and first gate in one kernel, then long convolutions with gates.

One launch reads the channel-last projections in tiles. It writes the gates and the product ``v * x_{N-1}``
channel-first for the long convolutions. The last long convolution multiplies with gate 0, and its result is transposed
back. Backward computes the product again. Its last kernel takes the gradients of gates and product and writes those of
the projections, channel-last.

Gates, products and their gradients are float32 in memory, also where the signal has 16 bits. A product of two float16
numbers may not fit float16, and only the results of the op are to be rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyena_kernels.backends.cuda import fftconv, short_conv
from hyena_kernels.backends.cuda.schemas import ops
from hyena_kernels.backends.cuda.short_conv import TILE_CHANNELS
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import MixerInputs
from hyena_kernels.common.taps import write_tap_gradients

# Temporary rows begin at multiples of 16 bytes, in any dtype.
ROW_ALIGNMENT = 8

# Bytes of an element between the input and the result: float32.
INNER_BYTES = 4

# Temporary memory that one slice of channels may take beyond a quarter of the projections. The scratch of the long
# convolutions is extra.
SCRATCH_BYTES = 512 << 20


def _padded(length: int) -> int:
    return -(-length // ROW_ALIGNMENT) * ROW_ALIGNMENT


def _rows(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor whose rows are aligned for vector loads and stores at any length."""
    return like.new_empty((*shape[:-1], _padded(shape[-1])), dtype=dtype)[..., : shape[-1]]


def _slices(x: Tensor, channels: int, channel_bytes: int) -> Iterator[slice]:
    """Slices of whole tiles of channels, with temporary tensors of ``channel_bytes`` a channel within a bound."""
    limit = SCRATCH_BYTES + x.nbytes // 4
    step = max(TILE_CHANNELS, limit // max(1, channel_bytes) // TILE_CHANNELS * TILE_CHANNELS)
    return sizes.slices(channels, step)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, steps: int, channels: int, c: slice) -> Tensor:
    """Gates ``x_0`` … ``x_{N-2}`` and the product ``v * x_{N-1}`` of a slice of channels, ``(N, B, C, L)``."""
    batch, length, _ = x.shape
    parts = _rows(x, steps + 1, batch, c.stop - c.start, length)
    signal = x.transpose(1, 2)[:, c]
    offset = None if bias is None else bias[c.start :]
    x_part, y_part = channels * x.stride(2), parts.stride(0)
    ops.short_conv_tiles(parts[0], signal, weight[c.start :], offset, steps + 1, x_part, channels, y_part, True)
    return parts


def forward(inputs: MixerInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_fwd``."""
    x, weight, bias, k, _ = inputs
    batch, length, _ = x.shape
    steps, channels = k.shape[:2]
    y = x.new_empty((batch, length, channels))
    if not y.numel():
        return y
    for c in _slices(x, channels, batch * _padded(length) * (2 * steps * INNER_BYTES + x.element_size())):
        *gates, v = _project(x, weight, bias, steps, channels, c)
        for o in range(steps):
            result = _rows(x, *v.shape, dtype=x.dtype if o == steps - 1 else torch.float32)
            fftconv.forward_into(result, inputs.convolution(o, v, c, gates[steps - 1 - o]), True)
            v = result
        ops.transpose(y[..., c].transpose(1, 2), v)
        # Free them before the next slice allocates its own.
        del gates, v, result
    return y


def backward(dy: Tensor, inputs: MixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_bwd``."""
    x, weight, bias, k, _ = inputs
    batch, length, _ = x.shape
    steps, channels = k.shape[:2]
    dx, dweight, dbias, dk, dD = grads = gradients_like(inputs, needs)
    if not (x.numel() and k.numel()):
        for grad in grads:
            grad.zero_()
        return grads
    wants_taps = needs[1] or needs[2]
    wants_projections = needs[0] or wants_taps
    if not (wants_projections or needs[3] or needs[4]):
        return grads

    rows_of_part = weight.shape[1] + 1

    def project_backward(grad: Tensor, part: int, c: slice, sums: Tensor | None, *, pair: bool) -> None:
        first, last = part * channels + c.start, part * channels + c.stop
        rows = slice(part * rows_of_part, (part + 2 if pair else part + 1) * rows_of_part)
        short_conv.backward_into(
            dx.transpose(1, 2)[:, first:last] if needs[0] else None,
            None if sums is None else sums[:, rows],
            grad,
            x.transpose(1, 2)[:, first:last],
            weight[first:],
            None if bias is None else bias[first:],
            channels,
            pair=pair,
        )

    for c in _slices(x, channels, batch * _padded(length) * ((3 * steps + 1) * INNER_BYTES + x.element_size())):
        *gates, v = _project(x, weight, bias, steps, channels, c)
        values = [v]
        for o in range(steps - 1):
            values.append(_rows(x, *v.shape))
            fftconv.forward_into(values[o + 1], inputs.convolution(o, values[o], c, gates[steps - 1 - o]), True)
        # A copy of dy rounds nothing.
        grad = _rows(x, *v.shape, dtype=x.dtype)
        ops.transpose(grad, dy[..., c].transpose(1, 2))
        sums = short_conv.tap_sums(grad, steps + 2, weight.shape[1]) if wants_taps else None
        for o in reversed(range(steps)):
            part = steps - 1 - o
            value_grad = _rows(x, *v.shape) if wants_projections or o > 0 else None
            gate_grad = _rows(x, *v.shape) if wants_projections else None
            of_filter = dk[o, c] if needs[3] else None, dD[o, c] if needs[4] else None
            convolution = inputs.convolution(o, values.pop(), c, gates[part])
            fftconv.backward_into((value_grad, *of_filter, None, gate_grad), grad, convolution, True)
            del convolution
            if gate_grad is not None:
                project_backward(gate_grad, part, c, sums, pair=False)
            if value_grad is not None:
                grad = value_grad
        if wants_projections:
            project_backward(grad, steps, c, sums, pair=True)
        if sums is not None:
            of_taps = dweight if needs[1] else None, dbias if needs[2] else None
            write_tap_gradients(sums, *of_taps, convolutions=steps + 2, channels=c)
        # Free them before the next slice allocates its own.
        del gates, v, values, grad, value_grad, gate_grad
    return grads
