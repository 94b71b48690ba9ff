"""Triton kernels of ``layer_norm`` and ``add_layer_norm``.

A program holds whole rows in its registers, and each row lies in one warp where it is short enough. So it reads a row
once, takes the mean, then mean and mean square of the deviations, and writes. Backward computes both again. Each of its
programs adds up the gradients of weight and bias over its own rows, and a second kernel adds up the programs. No atomic
operation is used, so results do not depend on the order in which programs run.

Predicted, float32 residual, bfloat16 otherwise, L = 2^20, D = 128, at 4.3 TB/s: ``layer_norm`` 0.81 GB, 0.19 ms;
``add_layer_norm`` 1.61 GB, 0.38 ms; backward of either 2.15 GB, 0.50 ms, without the gradient of a sum 1.61 GB and
0.38 ms (and of ``layer_norm``, which needs no copy, 1.34 GB and 0.31 ms).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton.launch import Constants, constants, launch
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import AddLayerNormInputs, LayerNormInputs

# Elements of a row that a warp reads at a time, four neighbours a thread: pieces of 16 bytes of float32. With more
# neighbours of 16 bits, tiles would be exchanged between threads before they are stored.
SPAN = 128
# Most spans of a row that one warp holds. Wider rows lie in several warps, which exchange sums.
SPANS = 4

# Registers of a thread of the backward kernel for rows of up to two spans. With these it spills nowhere.
REGISTERS = 80
# Warps of the backward kernel on one multiprocessor, for such rows and for wider ones. They run at once on every GPU,
# and each of their programs has its own partial sums.
WARPS, WARPS_OF_WIDE_ROWS = 24, 12
# Multiprocessors that are assumed where there is no GPU.
MULTIPROCESSORS = 4

# Partial sums that a program of the last kernel adds at a time, and its columns.
SUMMED, COLUMNS = 64, 32


@triton.jit
def _columns(part, PART: tl.constexpr):  # type: ignore[no-untyped-def]
    """The columns of a part of a row, as neighbours of four."""
    return part * PART + tl.max_contiguous(tl.arange(0, PART), 4)


@triton.jit
def _load_parts(x, row, rows, stride, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tuple of the parts of rows in float32, zero outside."""
    parts = ()
    for part in tl.static_range(PARTS):
        column = _columns(part, PART)
        mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
        values = tl.load(x + row[:, None] * stride + column[None, :], mask=mask, other=0.0)
        parts += (values.to(tl.float32),)  # type: ignore[assignment]
    return parts


@triton.jit
def _store_parts(y, parts, row, rows, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write parts of contiguous rows, rounded to the dtype of ``y``."""
    for part in tl.static_range(PARTS):
        column = _columns(part, PART)
        mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
        tl.store(y + row[:, None] * WIDTH + column[None, :], parts[part].to(y.dtype.element_ty), mask=mask)


@triton.jit
def _load_row(x, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tuple of the parts of a vector in float32, zero outside."""
    parts = ()
    for part in tl.static_range(PARTS):
        column = _columns(part, PART)
        parts += (tl.load(x + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :],)  # type: ignore[assignment]
    return parts


@triton.jit
def _total(parts, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums of rows, as a column."""
    total = parts[0]
    for part in tl.static_range(1, PARTS):
        total += parts[part]
    return tl.sum(total, axis=1)[:, None]


@triton.jit
def _products(a, b, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    parts = ()
    for part in tl.static_range(PARTS):
        parts += (a[part] * b[part],)  # type: ignore[assignment]
    return parts


@triton.jit
def _sums(a, b, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    parts = ()
    for part in tl.static_range(PARTS):
        parts += (a[part] + b[part],)  # type: ignore[assignment]
    return parts


@triton.jit
def _normalised(row, eps, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows less their means over their deviations, and one over the deviations as a column."""
    mean = _total(row, PARTS) * (1.0 / WIDTH)
    parts = ()
    for part in tl.static_range(PARTS):
        inside = (_columns(part, PART) < WIDTH)[None, :]
        parts += (tl.where(inside, row[part] - mean, 0.0),)  # type: ignore[assignment]
    # The sum of a row far from zero loses digits, and the deviations show how many.
    rest = _total(parts, PARTS) * (1.0 / WIDTH)
    variance = _total(_products(parts, parts, PARTS), PARTS) * (1.0 / WIDTH) - rest * rest
    scale = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    normalised = ()
    for part in tl.static_range(PARTS):
        normalised += ((parts[part] - rest) * scale,)  # type: ignore[assignment]
    return normalised, scale


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(  # type: ignore[no-untyped-def]
    residual, x, weight, bias, y, total, rows, residual_stride, x_stride, eps,
    WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Norm of ROWS rows of ``residual``, or of their sums with ``x``, which are written to ``total`` then."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    values = _load_parts(residual, row, rows, residual_stride, WIDTH, PART, PARTS)
    if x is not None:
        values = _sums(values, _load_parts(x, row, rows, x_stride, WIDTH, PART, PARTS), PARTS)
        _store_parts(total, values, row, rows, WIDTH, PART, PARTS)
        # The norm is that of the sum as it is returned, also in 16 bits.
        rounded = ()
        for part in tl.static_range(PARTS):
            rounded += (values[part].to(total.dtype.element_ty).to(tl.float32),)  # type: ignore[assignment]
        values = rounded
    normalised, _ = _normalised(values, eps, WIDTH, PART, PARTS)
    scaled = _products(normalised, _load_row(weight, WIDTH, PART, PARTS), PARTS)
    _store_parts(y, _sums(scaled, _load_row(bias, WIDTH, PART, PARTS), PARTS), row, rows, WIDTH, PART, PARTS)


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(  # type: ignore[no-untyped-def]
    dy, dsum, residual, weight, dresidual, copied, weight_sums, bias_sums, rows, dy_stride, dsum_stride,
    residual_stride, eps, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of rows, and sums over rows for weight and bias. None for what is absent or not needed.

    Each program takes ROWS rows, and the same number again after those of all programs. It writes one row of
    ``weight_sums`` and of ``bias_sums (programs, WIDTH)``.
    """
    program = tl.program_id(0)
    w = _load_row(weight, WIDTH, PART, PARTS)
    weight_total = (tl.zeros((ROWS, PART), tl.float32),) * PARTS
    bias_total = (tl.zeros((ROWS, PART), tl.float32),) * PARTS
    first = program.to(tl.int64) * ROWS
    # Not tl.range: the interpreter refuses bounds that are known only at run time.
    while first < rows:
        row = first + tl.arange(0, ROWS)
        g = _load_parts(dy, row, rows, dy_stride, WIDTH, PART, PARTS)
        values = _load_parts(residual, row, rows, residual_stride, WIDTH, PART, PARTS)
        if dsum is not None:
            more = _load_parts(dsum, row, rows, dsum_stride, WIDTH, PART, PARTS)
        normalised, scale = _normalised(values, eps, WIDTH, PART, PARTS)
        if weight_sums is not None:
            weight_total = _sums(weight_total, _products(g, normalised, PARTS), PARTS)
        if bias_sums is not None:
            bias_total = _sums(bias_total, g, PARTS)
        if dresidual is not None or copied is not None:
            g = _products(g, w, PARTS)
            slope = _total(_products(g, normalised, PARTS), PARTS) * (1.0 / WIDTH)
            mean = _total(g, PARTS) * (1.0 / WIDTH)
            grads = ()
            for part in tl.static_range(PARTS):
                grads += ((g[part] - mean - normalised[part] * slope) * scale,)  # type: ignore[assignment]
            if dsum is not None:
                grads = _sums(grads, more, PARTS)
            if dresidual is not None:
                _store_parts(dresidual, grads, row, rows, WIDTH, PART, PARTS)
            if copied is not None:
                _store_parts(copied, grads, row, rows, WIDTH, PART, PARTS)
        first += tl.num_programs(0).to(tl.int64) * ROWS
    for part in tl.static_range(PARTS):
        column = _columns(part, PART)
        if weight_sums is not None:
            sums = tl.sum(weight_total[part], axis=0)
            tl.store(weight_sums + program * WIDTH + column, sums, mask=column < WIDTH)
        if bias_sums is not None:
            sums = tl.sum(bias_total[part], axis=0)
            tl.store(bias_sums + program * WIDTH + column, sums, mask=column < WIDTH)


@triton.jit(do_not_specialize=["programs"])
def sums_kernel(  # type: ignore[no-untyped-def]
    weight_sums, bias_sums, dweight, dbias, programs, WIDTH: tl.constexpr, SUMMED: tl.constexpr, COLUMNS: tl.constexpr
):
    """Gradients of weight and bias from the sums of each of ``programs``. None for one that is not needed."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < WIDTH
    weight_total = tl.zeros((SUMMED, COLUMNS), tl.float32)
    bias_total = tl.zeros((SUMMED, COLUMNS), tl.float32)
    first = 0
    while first < programs:
        program = first + tl.arange(0, SUMMED)
        mask = (program < programs)[:, None] & inside[None, :]
        place = program[:, None] * WIDTH + column[None, :]
        if dweight is not None:
            weight_total += tl.load(weight_sums + place, mask=mask, other=0.0)
        if dbias is not None:
            bias_total += tl.load(bias_sums + place, mask=mask, other=0.0)
        first += SUMMED
    if dweight is not None:
        tl.store(dweight + column, tl.sum(weight_total, axis=0).to(dweight.dtype.element_ty), mask=inside)
    if dbias is not None:
        tl.store(dbias + column, tl.sum(bias_total, axis=0).to(dbias.dtype.element_ty), mask=inside)


@functools.cache
def tile(width: int, backward: bool) -> Constants:
    """How a program takes rows of D = ``width``: columns of a part, parts and rows, warps and a bound on registers.

    Four warps hold a row each, or several if they are short. Rows of more than 512 lie in two warps or more.
    """
    block = triton.next_power_of_2(width)
    parts = min(SPANS, max(1, block // SPAN))
    part = block // parts
    warps_of_row = max(1, part // SPAN)
    warps = max(4, warps_of_row)
    rows = warps // warps_of_row * max(1, SPAN // part)
    bound = REGISTERS if backward and parts <= 2 else None
    # Short rows leave registers for two tiles of rows.
    return Constants(
        WIDTH=width, PART=part, PARTS=parts, ROWS=rows * (2 if parts == 1 else 1), num_warps=warps, maxnreg=bound
    )


@functools.cache
def _multiprocessors(index: int | None) -> int:
    return MULTIPROCESSORS if index is None else torch.cuda.get_device_properties(index).multi_processor_count


def _programs(residual: Tensor, own: Constants) -> int:
    """Programs of the backward kernel for the rows ``(N, D)`` of a residual."""
    warps = WARPS if own.values["PARTS"] <= 2 else WARPS_OF_WIDE_ROWS
    most = warps // own.values["num_warps"] * _multiprocessors(residual.device.index if residual.is_cuda else None)
    return min(-(-residual.shape[0] // own.values["ROWS"]), most)


def _rows(tensor: Tensor) -> Tensor:
    """``(N, D)`` with neighbouring elements. The tensor is copied only if its strides allow no such view."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _forward(inputs: LayerNormInputs, x: Tensor | None, eps: float, y: Tensor, total: Tensor | None) -> None:
    residual, more = _rows(inputs.residual), None if x is None else _rows(x)
    count, width = residual.shape
    if count == 0:
        return
    own = tile(width, backward=False)
    args = (
        residual, more, inputs.weight.contiguous(), inputs.bias.contiguous(), y, total, count, residual.stride(0),
        0 if more is None else more.stride(0), eps,
    )  # fmt: skip
    with torch.cuda.device_of(residual):
        launch(forward_kernel, (-(-count // own.values["ROWS"]),), args, own)


def forward(inputs: LayerNormInputs, eps: float, dtype: torch.dtype) -> Tensor:
    """``layer_norm_fwd``: shapes, dtypes and result of :func:`hyena_kernels.layer_norm`, except float64."""
    y = torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)
    _forward(inputs, None, eps, y, None)
    return y


def add_forward(inputs: AddLayerNormInputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``add_layer_norm_fwd``: shapes, dtypes and results of :func:`hyena_kernels.add_layer_norm`, except float64."""
    x, *rest = inputs
    y = torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)
    total = torch.empty_like(y, dtype=torch.promote_types(inputs.residual.dtype, x.dtype))
    _forward(LayerNormInputs(*rest), x, eps, y, total)
    return y, total


def backward(
    dy: Tensor, inputs: LayerNormInputs, eps: float, dtype: torch.dtype, needs: list[bool]
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::layer_norm_bwd``."""
    return add_backward(dy, None, inputs, eps, None, needs)[:3]


def add_backward(
    dy: Tensor, dsum: Tensor | None, inputs: LayerNormInputs, eps: float, copy: torch.dtype | None, needs: list[bool]
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::add_layer_norm_bwd``."""
    grads = gradients_like(inputs, needs)
    dresidual, dweight, dbias = only_needed(grads, needs)
    copied = inputs.residual.new_empty(0 if copy is None else inputs.residual.shape, dtype=copy)
    residual, grad, more = _rows(inputs.residual), _rows(dy), None if dsum is None else _rows(dsum)
    count, width = residual.shape
    own = tile(width, backward=True)
    programs = _programs(residual, own)
    sums: dict[str, Any] = {
        name: None if gradient is None else torch.empty((programs, width), dtype=torch.float32, device=dy.device)
        for name, gradient in (("weight", dweight), ("bias", dbias))
    }
    if count:
        args = (
            grad, more, residual, inputs.weight.contiguous(), dresidual, None if copy is None else copied,
            sums["weight"], sums["bias"], count, grad.stride(0), 0 if more is None else more.stride(0),
            residual.stride(0), eps,
        )  # fmt: skip
        with torch.cuda.device_of(residual):
            launch(backward_kernel, (programs,), args, own)
    if dweight is not None or dbias is not None:
        with torch.cuda.device_of(residual):
            launch(
                sums_kernel,
                (-(-width // COLUMNS),),
                (sums["weight"], sums["bias"], dweight, dbias, programs),
                constants(WIDTH=width, SUMMED=SUMMED, COLUMNS=COLUMNS, num_warps=4),
            )
    return *grads, copied
