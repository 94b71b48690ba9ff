"""Triton kernels around the long convolutions of ``hyena_mixer``.

In reading order: kernel, launchers. The projections are channel-last, and the long convolutions read channel-first. The
kernels of :mod:`hyena_kernels.backends.triton.short_conv` read tiles of the projections and transpose them. In one
launch they convolve, split, multiply the value with its gate, and write the inputs of the long convolutions. Backward
computes the product again. It reads the gradients from the long convolutions channel-first and writes those of the
projections channel-last.

Gates, products and their gradients are float32 in memory, also where the signal has 16 bits. A product of two float16
numbers may not fit float16, and only the results of the op are to be rounded.

Predicted for order 2, bfloat16, B = 1, L = 2^20, D = 128, at 4.3 TB/s, without the long convolution:

    forward     convolve, split, gate    0.81 GB read, 1.07 GB written     0.44 ms
                transpose the result     0.27 GB read, 0.27 GB written     0.13 ms
    backward    the first of these again, and transpose dy                 0.56 ms
                gradient of the gate     0.81 GB read, 0.27 GB written     0.25 ms
                gradient of the product  1.07 GB read, 0.54 GB written     0.38 ms
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton import far_field_conv, fftconv, packed as packed_rows
from hyena_kernels.backends.triton.far_field_conv import Gradients as FarGradients
from hyena_kernels.backends.triton.fftconv import Gradients
from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.backends.triton.packed import Packed
from hyena_kernels.backends.triton.short_conv import convolve, convolve_backward, tap_sums
from hyena_kernels.backends.triton.short_conv_tiles import CONFIGS
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import (
    FarFieldConvInputs,
    FarMixerInputs,
    FftconvInputs,
    MixerInputs,
    ShortConvInputs,
)
from hyena_kernels.common.taps import write_tap_gradients

# Temporary memory that one slice of channels may take beyond a quarter of the projections. The scratch of the long
# convolutions is extra.
SCRATCH_BYTES = 512 << 20

INNER_BYTES = 4
"""Bytes of an element between the input and the result: float32."""

# So many channels of a 16-bit type fill a sector of 32 bytes. Slices of other widths would read and write partial ones.
SLICE_STEP = 16


@triton.jit
def copy_kernel(  # type: ignore[no-untyped-def]
    source, target, length, target_length, channels, source_b_stride, source_c_stride, source_t_stride,
    target_b_stride, target_c_stride, target_t_stride,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Copy ``(B, C, L)`` to other strides. Positions from ``length`` to ``target_length`` become zero."""
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
    """Copy ``(B, C, L)`` between a channel-first and a channel-last tensor."""
    batch, channels, length = source.shape
    block_t, block_c, warps = CONFIGS["narrow" if channels <= CONFIGS["narrow"][1] else "wide"]
    grid = (batch * -(-length // block_t) * -(-channels // block_c),)
    args = (source, target, length, target_length, channels, *source.stride(), *target.stride())
    with torch.cuda.device_of(source):
        launch(copy_kernel, grid, args, constants(BLOCK_T=block_t, BLOCK_C=block_c, num_warps=warps))


def _padded(length: int) -> int:
    """Length of a temporary row: whole tiles. ``forward_kernel`` says why."""
    tile = max(block_t for block_t, _, _ in CONFIGS.values())
    return -(-length // tile) * tile


def _slices(x: Tensor, channels: int, channel_bytes: int) -> Iterator[slice]:
    """Slices of channels whose temporary tensors stay within bounds, at ``channel_bytes`` a channel."""
    limit = SCRATCH_BYTES + x.nbytes // 4
    step = max(SLICE_STEP, limit // max(1, channel_bytes) // SLICE_STEP * SLICE_STEP)
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))


Inputs = MixerInputs | FarMixerInputs


def _from_channel(inputs: Inputs, first: int) -> ShortConvInputs:
    """Projections, channel-first, and short filters from one channel on."""
    bias = inputs.short_bias
    return ShortConvInputs(
        inputs.x.transpose(1, 2)[:, first:], inputs.short_weight[first:], None if bias is None else bias[first:]
    )


def _project(inputs: Inputs, marks: Tensor | None, c: slice) -> Tensor:
    """Gates ``x_0`` … ``x_{N-2}`` and the product ``v * x_{N-1}`` of a slice of channels, ``(N, B, C, L)``."""
    batch, length, _ = inputs.x.shape
    steps, channels = inputs.filters[0].shape[:2]
    rows = _padded(length)
    parts = inputs.x.new_empty((steps + 1, batch, c.stop - c.start, rows), dtype=torch.float32)[..., :length]
    convolve(_from_channel(inputs, c.start), parts, channels, pair=True, y_length=rows, marks=marks)
    return parts


def _convolve(y: Tensor, inputs: FftconvInputs | FarFieldConvInputs, packed: Packed | None) -> None:
    if isinstance(inputs, FarFieldConvInputs):
        far_field_conv.forward_into(y, inputs)
    elif packed is None:
        fftconv.forward_into(y, inputs, True)
    else:
        packed_rows.forward_into(y, inputs, packed)


def _convolve_backward(
    u: Tensor | None,
    filters: list[Tensor | None],
    D: Tensor | None,
    post_gate: Tensor | None,
    dy: Tensor,
    inputs: FftconvInputs | FarFieldConvInputs,
    packed: Packed | None,
) -> None:
    """Write the gradients of a long convolution, and of its filters. None: not needed."""
    if isinstance(inputs, FarFieldConvInputs):
        dnear, dnodes = filters
        far_field_conv.backward_into(FarGradients(u, dnear, dnodes, D, None, post_gate), dy, inputs)
        return
    [dk] = filters
    grads = Gradients(u, dk, D, None, post_gate)
    if packed is None:
        fftconv.backward_into(grads, dy, inputs, True)
    else:
        packed_rows.backward_into(grads, dy, inputs, packed)


def forward(inputs: Inputs, packed: Packed | None = None) -> Tensor:
    """``hyena_mixer_fwd``: shapes, dtypes and result of :func:`hyena_kernels.hyena_mixer`, except float64.

    Args:
        inputs: the op's tensors, or those of ``hyena_mixer_far``.
        packed: the rows of which the one row of ``x`` consists, or None. The filters are then cut for each of them.
    """
    x = inputs.x
    batch, length, _ = x.shape
    steps, channels = inputs.filters[0].shape[:2]
    marks = None if packed is None else packed.marks()
    y = x.new_empty((batch, length, channels))
    for c in _slices(x, channels, batch * _padded(length) * (2 * steps * INNER_BYTES + x.element_size())):
        *gates, v = _project(inputs, marks, c)
        for o in range(steps):
            result = v.new_empty(v.shape, dtype=x.dtype if o == steps - 1 else v.dtype)
            _convolve(result, inputs.convolution(o, v, c, gates[-1 - o]), packed)
            v = result
        _copy(v, y[..., c].transpose(1, 2), length)
    return y


def backward(dy: Tensor, inputs: Inputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """``hyena_mixer_bwd``: contiguous gradients of all tensors, of length 0 where not needed."""
    grads = gradients_like(inputs, needs)
    backward_into(only_needed(grads, needs), dy, inputs)
    return grads


def backward_into(grads: tuple[Tensor | None, ...], dy: Tensor, inputs: Inputs, packed: Packed | None = None) -> None:
    """Write the gradients of all tensors, which the caller has allocated. None: not needed.

    Args:
        grads: contiguous tensors like those of ``inputs``.
        dy: ``(B, L, d)`` gradient of the result.
        inputs: as in :func:`forward`.
        packed: as in :func:`forward`.
    """
    if all(grad is None for grad in grads):
        return
    x, weight, filters = inputs.x, inputs.short_weight, inputs.filters
    batch, length, _ = x.shape
    steps, channels = filters[0].shape[:2]
    marks = None if packed is None else packed.marks()
    dx, dweight, dbias, *dfilters, dD = grads
    wants_taps = dweight is not None or dbias is not None
    wants_projections = dx is not None or wants_taps

    def project_backward(grad: Tensor, part: int, c: slice, sums: Tensor | None, *, pair: bool) -> None:
        first = part * channels + c.start
        convolve_backward(
            grad,
            _from_channel(inputs, first),
            channels,
            dx=None if dx is None else dx.transpose(1, 2)[:, first:],
            sums=None if sums is None else sums[:, part * (weight.shape[1] + 1) :],
            pair=pair,
            marks=marks,
        )

    channel_bytes = batch * _padded(length) * ((3 * steps + 1) * INNER_BYTES + x.element_size())
    channel_bytes += sum(each[0, 0].nbytes for each in filters) if channels else 0
    for c in _slices(x, channels, channel_bytes):
        *gates, v = _project(inputs, marks, c)
        values = [v]
        for o in range(steps - 1):
            values.append(v.new_empty(v.shape))
            _convolve(values[-1], inputs.convolution(o, values[o], c, gates[-1 - o]), packed)
        rows = _padded(length)
        grad = x.new_empty((batch, c.stop - c.start, rows))[..., :length]
        _copy(dy[..., c].transpose(1, 2), grad, rows)
        sums = tap_sums(grad, steps + 2, weight.shape[1]) if wants_taps else None
        for o in reversed(range(steps)):
            du = v.new_empty(v.shape) if wants_projections or o > 0 else None
            dgate = v.new_empty(v.shape) if wants_projections else None
            of_step = [None if each is None else each[o, c] for each in dfilters]
            of_skip = None if dD is None else dD[o, c]
            convolution = inputs.convolution(o, values.pop(), c, gates[-1 - o])
            _convolve_backward(du, of_step, of_skip, dgate, grad, convolution, packed)
            if dgate is not None:
                project_backward(dgate, steps - 1 - o, c, sums, pair=False)
            if du is not None:
                grad = du
        if wants_projections:
            project_backward(grad, steps, c, sums, pair=True)
        if sums is not None:
            write_tap_gradients(sums, dweight, dbias, convolutions=steps + 2, channels=c)
        # Without this they would still exist while the next slice is computed.
        del gates, v, values, grad, du, dgate, convolution
