"""The last Triton kernel of ``implicit_filter``'s backward pass: from sums of programs to gradients of parameters.

In ``filter_kernels.py`` every program writes its own sums over positions. Here they are added up.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _total(sums, program, programs, stride, index):
    """Sum over all programs of the elements at ``index (N,)``."""
    offset = program.to(tl.int64)[:, None] * stride + index[None, :]
    return tl.sum(tl.load(sums + offset, mask=(program < programs)[:, None], other=0.0), axis=0)


@triton.jit
def _row_gradients(
    weight_sums, bias_sums, weight, bias, dweight, dbias, scale, sums_row, row, columns, program, programs, stride,
    N: tl.constexpr, NEEDS_FREQ: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a row of a layer, ``columns`` wide, and return its part of the gradient of ``freq``."""
    one = tl.zeros((1,), tl.int32)
    column = tl.arange(0, N)
    inside = column < columns
    of_freq = tl.zeros((1,), tl.float32)
    if NEEDS_FREQ or dweight is not None:
        of_weight = _total(weight_sums, program, programs, stride, sums_row * N + column)
        place = row * columns + column
        if NEEDS_FREQ:
            of_freq += tl.sum(of_weight * tl.load(weight + place, mask=inside, other=0.0), axis=0)
        if dweight is not None:
            tl.store(dweight + place, of_weight * scale, mask=inside)
    if NEEDS_FREQ or dbias is not None:
        of_bias = _total(bias_sums, program, programs, stride, sums_row + one)
        if NEEDS_FREQ:
            of_freq += of_bias * tl.load(bias + row + one)
        if dbias is not None:
            tl.store(dbias + row + one, of_bias * scale)
    return of_freq


@triton.jit(do_not_specialize=["programs", "width", "features", "layers"])
def parameters_kernel(
    w_in_sums, b_in_sums, w_hidden_sums, b_hidden_sums, w_out_sums, freq, w_in, b_in, w_hidden, b_hidden, dfreq,
    dw_in, db_in, dw_hidden, db_hidden, dw_out, programs, width, features, layers, sums_stride,
    H: tl.constexpr, E: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters, from the sums of each of ``programs``. None for a gradient that is not wanted.

    The first ``width`` programs take a row of all layers, the others a row of ``w_out`` each. The sums are gradients of
    ``freq * weight`` and ``freq * bias``. The argument of a sine is linear in these, so the gradient of ``freq`` is a
    sum over them.
    """
    row = tl.program_id(0)
    program = tl.arange(0, PROGRAMS)
    if row < width:
        scale = tl.load(freq + row)
        needs_freq: tl.constexpr = dfreq is not None
        of_freq = _row_gradients(
            w_in_sums, b_in_sums, w_in, b_in, dw_in, db_in, scale, row, row, features, program, programs, sums_stride,
            E, needs_freq,
        )  # fmt: skip
        layer = 0
        while layer < layers:
            of_freq += _row_gradients(
                w_hidden_sums, b_hidden_sums, w_hidden, b_hidden, dw_hidden, db_hidden, scale, layer * H + row,
                layer * width + row, width, program, programs, sums_stride, H, needs_freq,
            )  # fmt: skip
            layer += 1
        if dfreq is not None:
            tl.store(dfreq + row + tl.zeros((1,), tl.int32), of_freq)
    elif dw_out is not None:
        column = tl.arange(0, H)
        channel = row - width
        of_weight = _total(w_out_sums, program, programs, sums_stride, channel * H + column)
        tl.store(dw_out + channel * width + column, of_weight, mask=column < width)
