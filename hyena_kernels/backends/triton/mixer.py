"""Triton kernels around the long convolutions of ``hyena_mixer``.

In reading order: kernel, launchers. The channel-last projections are read in tiles and
turned round on the way: the kernels of :mod:`hyena_kernels.backends.triton.short_conv` convolve and split them,
multiply the value with its gate and write what the long convolutions read, channel-first, in one launch. Backward goes
the same way round: it computes the product again, takes the gradients that the long convolutions give channel-first,
and writes those of the projections channel-last.

Predicted for order 2, bfloat16, B = 1, L = 2^20, D = 128, at 4.3 TB/s, besides the long convolution:

    forward     convolve, split, gate    0.81 GB read, 0.54 GB written     0.31 ms
                turn the result round    0.27 GB read, 0.27 GB written     0.13 ms
    backward    the first of these again, and dy turned round              0.44 ms
                gradient of the gate     0.54 GB read, 0.27 GB written     0.19 ms
                gradient of the product  0.81 GB read, 0.54 GB written     0.31 ms
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton import fftconv
from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.backends.triton.short_conv import (
    CONFIGS,
    convolve,
    convolve_backward,
    tap_sums,
)
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import FftconvInputs, MixerInputs
from hyena_kernels.common.taps import write_tap_gradients

# Temporary memory that one slice of channels may take beyond a quarter of the projections; what the long convolutions
# take for themselves comes on top.
SCRATCH_BYTES = 256 << 20

# In 16-bit types so many channels are a sector of 32 bytes: slices of other widths would read and write parts of some.
SLICE_STEP = 16


@triton.jit
def copy_kernel(  # type: ignore[no-untyped-def]
    source,
    target,
    length,
    target_length,
    channels,
    source_b_stride,
    source_c_stride,
    source_t_stride,
    target_b_stride,
    target_c_stride,
    target_t_stride,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Copies ``(B, C, L)`` to other strides; positions from ``length`` to ``target_length`` become zero."""
    pid = tl.program_id(0)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    t_tiles = tl.cdiv(length, BLOCK_T)
    tile = pid // c_tiles
    b = (tile // t_tiles).to(tl.int64)
    t = (tile % t_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = (pid % c_tiles).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_range = (c < channels)[None, :]
    source += b * source_b_stride + (t * source_t_stride)[:, None] + (c * source_c_stride)[None, :]
    target += b * target_b_stride + (t * target_t_stride)[:, None] + (c * target_c_stride)[None, :]
    values = tl.load(source, mask=(t < length)[:, None] & in_range, other=0.0)
    tl.store(target, values, mask=(t < target_length)[:, None] & in_range)


def _copy(source: Tensor, target: Tensor, target_length: int) -> None:
    """Copy ``(B, C, L)``, of which one is stored channel-first and the other channel-last."""
    batch, channels, length = source.shape
    block_t, block_c, warps = CONFIGS["narrow" if channels <= CONFIGS["narrow"][1] else "wide"]
    grid = (batch * -(-length // block_t) * -(-channels // block_c),)
    args = (source, target, length, target_length, channels, *source.stride(), *target.stride())
    with torch.cuda.device_of(source):
        launch(copy_kernel, grid, args, constants(BLOCK_T=block_t, BLOCK_C=block_c, num_warps=warps))


def _padded(length: int) -> int:
    """Length of a temporary row: whole tiles, for the reason that ``forward_kernel`` gives."""
    tile = max(block_t for block_t, _, _ in CONFIGS.values())
    return -(-length // tile) * tile


def _slices(x: Tensor, channels: int, channel_bytes: int) -> Iterator[slice]:
    """Slices of channels whose temporary tensors, of ``channel_bytes`` a channel, stay within bounds."""
    limit = SCRATCH_BYTES + x.nbytes // 4
    step = max(SLICE_STEP, limit // max(1, channel_bytes) // SLICE_STEP * SLICE_STEP)
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, steps: int, channels: int, c: slice) -> Tensor:
    """Gates ``x_0`` … ``x_{N-2}`` and the product ``v * x_{N-1}`` of a slice of channels, ``(N, B, C, L)``."""
    batch, length, _ = x.shape
    rows = _padded(length)
    parts = x.new_empty((steps + 1, batch, c.stop - c.start, rows))[..., :length]
    signal = x.transpose(1, 2)[:, c.start :]
    offset = None if bias is None else bias[c.start :]
    convolve(signal, weight[c.start :], offset, parts, channels, pair=True, y_length=rows)
    return parts


def forward(inputs: MixerInputs) -> Tensor:
    """``hyena_mixer_fwd``: shapes, dtypes and result of :func:`hyena_kernels.hyena_mixer`, float64 excepted.

    Gates, the first product and the gated results of the long convolutions are each rounded to the dtype of ``x`` once;
    what lies between is in float32.
    """
    x, weight, bias, k, D = inputs
    batch, length, _ = x.shape
    steps, channels = k.shape[:2]
    y = x.new_empty((batch, length, channels))
    for c in _slices(x, channels, (2 * steps + 1) * batch * _padded(length) * x.element_size()):
        *gates, v = _project(x, weight, bias, steps, channels, c)
        for o in range(steps):
            skip = None if D is None else D[o, c]
            v = fftconv.forward(FftconvInputs(v, k[o, c], skip, None, gates[steps - 1 - o]), True)
        _copy(v, y[..., c].transpose(1, 2), length)
    return y


def backward(dy: Tensor, inputs: MixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """``hyena_mixer_bwd``: ``(dx, dweight, dbias, dk, dD)``, contiguous; one of length 0 for each not needed."""
    x, weight, bias, k, D = inputs
    batch, length, _ = x.shape
    steps, channels = k.shape[:2]
    dx, dweight, dbias, dk, dD = grads = gradients_like(inputs, needs)
    wants_bias, wants_skip = needs[2] and bias is not None, needs[4] and D is not None
    wants_taps = needs[1] or wants_bias
    wants_projections = needs[0] or wants_taps
    if not (wants_projections or needs[3] or wants_skip):
        return grads

    def project_backward(grad: Tensor, part: int, c: slice, sums: Tensor | None, *, pair: bool) -> None:
        first = part * channels + c.start
        convolve_backward(
            grad,
            x.transpose(1, 2)[:, first:],
            weight[first:],
            None if bias is None else bias[first:],
            dx.transpose(1, 2)[:, first:] if needs[0] else None,
            None if sums is None else sums[:, part * (weight.shape[1] + 1) :],
            channels,
            pair=pair,
        )

    channel_bytes = (3 * steps + 2) * batch * _padded(length) * x.element_size() + k.shape[2] * k.element_size()
    for c in _slices(x, channels, channel_bytes):
        *gates, v = _project(x, weight, bias, steps, channels, c)
        values = [v]
        for o in range(steps - 1):
            skip = None if D is None else D[o, c]
            step = FftconvInputs(values[o], k[o, c], skip, None, gates[steps - 1 - o])
            values.append(fftconv.forward(step, True))
        rows = _padded(length)
        grad = x.new_empty((batch, c.stop - c.start, rows))[..., :length]
        _copy(dy[..., c].transpose(1, 2), grad, rows)
        sums = tap_sums(grad, steps + 2, weight.shape[1]) if wants_taps else None
        for o in reversed(range(steps)):
            part = steps - 1 - o
            value_grad = x.new_empty(grad.shape) if wants_projections or o > 0 else None
            gate_grad = x.new_empty(grad.shape) if wants_projections else None
            of_filter = dk[o, c] if needs[3] else None, dD[o, c] if wants_skip else None
            step = FftconvInputs(values.pop(), k[o, c], None if D is None else D[o, c], None, gates[part])
            fftconv.backward_into((value_grad, *of_filter, None, gate_grad), grad, step, True)
            if gate_grad is not None:
                project_backward(gate_grad, part, c, sums, pair=False)
            if value_grad is not None:
                grad = value_grad
        if wants_projections:
            project_backward(grad, steps, c, sums, pair=True)
        if sums is not None:
            of_taps = dweight if needs[1] else None, dbias if wants_bias else None
            write_tap_gradients(sums, *of_taps, convolutions=steps + 2, channels=c)
        # Or they would live on beside those of the next slice.
        del gates, v, values, grad, value_grad, gate_grad, step
    return grads
