"""Triton kernels of ``short_conv``, which ``hyena_mixer`` shares.

In reading order: pieces of kernels, kernels, launchers. A tile is positions × channels, read at any strides. Each
thread holds 8 neighbouring positions of one channel in its registers, as 8 tensors. So the shifts of the filter are
renamings, and sums over positions stay within a thread. A signal stored channel-first is read and written in 128-bit
pieces at any shift. One stored channel-last is transposed in shared memory. A filter of at most 9 taps reaches no
further than the next 8 positions. These are loaded too and come from the L1 cache.

Packed rows are one signal in which no tap reaches beyond a row's start. A byte marks where each row starts. A thread
gathers the marks around its positions as the bits of one word. Each product is then kept or dropped by one AND of the
word with a constant. The marks are read once a tile, a byte a position: below 1% of the bytes.

Predicted, bfloat16, B = 1, L = 2^20, D = 128, at 4.3 TB/s: forward 0.54 GB, 0.125 ms; backward with all gradients
0.81 GB, 0.19 ms.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.common.gradients import only_needed
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.taps import MAX_TAPS, empty_signal, final_state, short_gradients, write_tap_gradients

# Tiles (positions, channels, warps). With these no kernel spills, and all transpose by stmatrix or ldmatrix. Wide
# tiles write whole cache lines. Narrow ones waste less where there are few channels, and they leave the backward
# kernel enough registers for several programs on one multiprocessor.
CONFIGS = {"wide": (64, 64, 8), "narrow": (32, 32, 4)}

# Programs of the backward kernel, each with its own partial sums. They fill a GPU several times over, so the last,
# partly filled wave matters little. Yet they are few enough to keep the sums small at any length.
PROGRAMS = 4096


@triton.jit
def _load_eight(x, t, t_stride, c_offset, in_range, length):  # type: ignore[no-untyped-def]
    """``x`` at ``t``, ``t + 1``, …, ``t + 7`` as a tuple of eight tiles, zero outside ``0 … length - 1``."""
    at = t[:, None] + tl.arange(0, 8)[None, :]
    mask = ((at >= 0) & (at < length))[:, None, :] & in_range[None, :, None]
    tile = tl.load(x + (at * t_stride)[:, None, :] + c_offset[None, :, None], mask=mask, other=0.0)
    even, odd = tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1], 2, 2, 2)))
    even_0, even_1 = tl.split(even)
    odd_0, odd_1 = tl.split(odd)
    x0, x4 = tl.split(even_0)
    x2, x6 = tl.split(even_1)
    x1, x5 = tl.split(odd_0)
    x3, x7 = tl.split(odd_1)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _store_eight(y, values, t, t_stride, c_offset, in_range, length):  # type: ignore[no-untyped-def]
    """Inverse of :func:`_load_eight`: writes ``y`` where it is inside ``0 … length - 1``, rounded to its dtype."""
    even = tl.join(tl.join(values[0], values[4]), tl.join(values[2], values[6]))
    odd = tl.join(tl.join(values[1], values[5]), tl.join(values[3], values[7]))
    tile = tl.reshape(tl.join(even, odd), (even.shape[0], even.shape[1], 8))
    at = t[:, None] + tl.arange(0, 8)[None, :]
    mask = (at < length)[:, None, :] & in_range[None, :, None]
    tl.store(y + (at * t_stride)[:, None, :] + c_offset[None, :, None], tile.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _load_taps(weight, c_offset, k_stride, in_range, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tuple of the K taps by lag, lag 0 first. Each is a row over the channels of the tile."""
    taps = ()
    for lag in tl.static_range(K):
        tap = tl.load(weight + c_offset + (K - 1 - lag) * k_stride, mask=in_range, other=0.0)
        taps += (tap.to(tl.float32)[None, :],)  # type: ignore[assignment]
    return taps


@triton.jit
def _load_bias(bias, c_offset, in_range, HAS_BIAS: tl.constexpr):  # type: ignore[no-untyped-def]
    if HAS_BIAS:
        return tl.load(bias + c_offset, mask=in_range, other=0.0).to(tl.float32)[None, :]
    else:
        return 0.0


@triton.jit
def _load_marks(marks, t, length):  # type: ignore[no-untyped-def]
    """A column of words. Bit j is set where a packed row starts or the last one ends, at ``t - 8 + j``; j < 24."""
    j = tl.arange(0, 8)[None, :]
    words = tl.zeros((t.shape[0],), tl.int32)
    for group in tl.static_range(3):
        at = t[:, None] + (8 * group - 8) + j
        mark = tl.load(marks + at, mask=(at >= 0) & (at <= length), other=0).to(tl.int32)
        words += tl.sum(mark << (8 * group + j), axis=1)
    return words[:, None]


@triton.jit
def _within(value, words, i: tl.constexpr, lag: tl.constexpr):  # type: ignore[no-untyped-def]
    """``value`` where ``t + i`` and ``t + i - lag`` are in one packed row, else zero, even for a NaN."""
    if words is None:
        return value
    else:
        # Bits of the positions after t + i - lag up to t + i.
        between: tl.constexpr = ((1 << lag) - 1) << (9 + i - lag)
        return tl.where((words & between) == 0, value, 0.0)


@triton.jit
def _convolved(x, taps, bias, words, COUNT: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """``bias + sum_lag taps[lag] x[8 + i - lag]`` for ``i`` in ``0 … COUNT - 1``, in float32."""
    values = ()
    for i in tl.static_range(COUNT):
        value = taps[0] * x[8 + i].to(tl.float32) + bias
        for lag in tl.static_range(1, K):
            value += taps[lag] * _within(x[8 + i - lag].to(tl.float32), words, i, lag)
        values += (value,)  # type: ignore[assignment]
    return values


@triton.jit
def _left(t, length):  # type: ignore[no-untyped-def]
    """Number of positions from ``t`` on, a column for all channels of a tile. 32 bits are cheaper to compare."""
    return (length - t).to(tl.int32)[:, None]


@triton.jit
def _product(a, b, left, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """COUNT products of two tuples in float32. Those from ``left`` on are zero, even where a factor is NaN."""
    values = ()
    for i in tl.static_range(COUNT):
        values += (tl.where(left > i, a[i].to(tl.float32) * b[i], 0.0),)  # type: ignore[assignment]
    return values


@triton.jit
def _signal_gradient(grad, taps, words, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """``sum_lag taps[lag] grad[i + lag]`` for ``i`` in ``0 … 7``: the transpose of :func:`_convolved`."""
    values = ()
    for i in tl.static_range(8):
        value = taps[0] * grad[i].to(tl.float32)
        for lag in tl.static_range(1, K):
            value += taps[lag] * _within(grad[i + lag].to(tl.float32), words, i + lag, lag)
        values += (value,)  # type: ignore[assignment]
    return values


@triton.jit
def _add_tap_gradients(totals, grad, x, left, words, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adds ``sum_i grad[i + lag] x[i]`` to total ``lag`` for every lag, and ``sum_i grad[i]`` to total K."""
    sums = ()
    for lag in tl.static_range(K):
        total = totals[lag]
        for i in tl.static_range(8):
            # Gradients beyond the end are zero. A NaN in x must not be multiplied with them.
            if words is None:
                total += tl.where(left > i + lag, grad[i + lag].to(tl.float32) * x[i].to(tl.float32), 0.0)
            else:
                total += _within(grad[i + lag].to(tl.float32) * x[i].to(tl.float32), words, i + lag, lag)
        sums += (total,)  # type: ignore[assignment]
    total = totals[K]
    for i in tl.static_range(8):
        total += grad[i].to(tl.float32)
    return sums + (total,)


@triton.jit
def _store_totals(sums, totals, c, stride, in_range, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes the totals over all positions of a program: the taps in the order of ``weight``, then the bias."""
    for lag in tl.static_range(K):
        tl.store(sums + (K - 1 - lag) * stride + c, tl.sum(totals[lag], axis=0), mask=in_range)
    tl.store(sums + K * stride + c, tl.sum(totals[K], axis=0), mask=in_range)


@triton.jit(do_not_specialize=["parts"])
def forward_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, marks, y, length, y_length, channels, parts, part_channels, x_b_stride, x_c_stride, x_t_stride,
    weight_c_stride, weight_k_stride, bias_stride, y_part_stride, y_b_stride, y_c_stride, y_t_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, PAIR: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Convolution of ``parts`` signals, which start in ``x`` every ``part_channels`` channels.

    One program computes one tile of one part. With PAIR the last result is the product of the last part and the part
    after it. Positions of ``y`` from ``length`` to ``y_length`` are written too, but mean nothing. Rows of temporary
    memory are padded to whole tiles for this: without a mask they are written in 128-bit pieces at any length.

    ``marks`` is None, or 1 at the first position of every packed row, which no tap then reaches beyond.
    """
    pid = tl.program_id(0)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    t_tiles = tl.cdiv(length, BLOCK_T)
    part = (pid // c_tiles % parts).to(tl.int64)
    tile = pid // (c_tiles * parts)
    b = (tile // t_tiles).to(tl.int64)
    t = (tile % t_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T // 8) * 8
    c = (pid % c_tiles).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_range = c < channels

    words = None if marks is None else _load_marks(marks, t, length)

    x += b * x_b_stride
    row = part * part_channels + c
    taps = _load_taps(weight, row * weight_c_stride, weight_k_stride, in_range, K)
    offset = _load_bias(bias, row * bias_stride, in_range, HAS_BIAS)
    before = _load_eight(x, t - 8, x_t_stride, row * x_c_stride, in_range, length)
    here = _load_eight(x, t, x_t_stride, row * x_c_stride, in_range, length)
    values = _convolved(before + here, taps, offset, words, 8, K)
    if PAIR:
        if part == parts - 1:
            row += part_channels
            taps = _load_taps(weight, row * weight_c_stride, weight_k_stride, in_range, K)
            offset = _load_bias(bias, row * bias_stride, in_range, HAS_BIAS)
            before = _load_eight(x, t - 8, x_t_stride, row * x_c_stride, in_range, length)
            here = _load_eight(x, t, x_t_stride, row * x_c_stride, in_range, length)
            factors = _convolved(before + here, taps, offset, words, 8, K)
            product = ()
            for i in tl.static_range(8):
                product += (values[i] * factors[i],)  # type: ignore[assignment]
            values = product
    y += part * y_part_stride + b * y_b_stride
    _store_eight(y, values, t, y_t_stride, c * y_c_stride, in_range, y_length)


@triton.jit(do_not_specialize=["batch", "groups"])
def backward_kernel(  # type: ignore[no-untyped-def]
    dy, x, weight, bias, marks, dx, sums, length, channels, part_channels, batch, groups, sums_stride, dy_b_stride,
    dy_c_stride, dy_t_stride, x_b_stride, x_c_stride, x_t_stride, weight_c_stride, weight_k_stride, bias_stride,
    dx_b_stride, dx_c_stride, dx_t_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, PAIR: tl.constexpr, NEEDS_X: tl.constexpr, NEEDS_TAPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of one part of :func:`forward_kernel`, or of both factors of a pair, which are computed again.

    One program goes over every ``groups``-th tile of its channels. It writes its own sums of the gradients of the taps,
    see :func:`tap_sums`. So their size does not depend on the length, nor their order on when programs run.
    """
    pid = tl.program_id(0)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    t_tiles = tl.cdiv(length, BLOCK_T)
    group = pid // c_tiles
    c = (pid % c_tiles).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_range = c < channels

    taps = _load_taps(weight, c * weight_c_stride, weight_k_stride, in_range, K)
    zero = tl.zeros((BLOCK_T // 8, BLOCK_C), tl.float32)
    totals = (zero,) * (K + 1)
    if PAIR:
        offset = _load_bias(bias, c * bias_stride, in_range, HAS_BIAS)
        other = c + part_channels
        other_taps = _load_taps(weight, other * weight_c_stride, weight_k_stride, in_range, K)
        other_offset = _load_bias(bias, other * bias_stride, in_range, HAS_BIAS)
        other_totals = (zero,) * (K + 1)

    tile = group
    # Not tl.range: the interpreter refuses bounds that are known only at run time.
    while tile < t_tiles * batch:
        b = (tile // t_tiles).to(tl.int64)
        t = (tile % t_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T // 8) * 8
        left = _left(t, length)
        words = None if marks is None else _load_marks(marks, t, length)
        dy_b = dy + b * dy_b_stride
        x_b = x + b * x_b_stride
        grad = _load_eight(dy_b, t, dy_t_stride, c * dy_c_stride, in_range, length)
        grad += _load_eight(dy_b, t + 8, dy_t_stride, c * dy_c_stride, in_range, length)
        if PAIR or NEEDS_TAPS:
            here = _load_eight(x_b, t, x_t_stride, c * x_c_stride, in_range, length)
        if PAIR:
            before = _load_eight(x_b, t - 8, x_t_stride, c * x_c_stride, in_range, length)
            behind = _load_eight(x_b, t + 8, x_t_stride, c * x_c_stride, in_range, length)
            value = _convolved(before + here + behind, taps, offset, words, 7 + K, K)
            before = _load_eight(x_b, t - 8, x_t_stride, other * x_c_stride, in_range, length)
            other_here = _load_eight(x_b, t, x_t_stride, other * x_c_stride, in_range, length)
            behind = _load_eight(x_b, t + 8, x_t_stride, other * x_c_stride, in_range, length)
            other_value = _convolved(before + other_here + behind, other_taps, other_offset, words, 7 + K, K)
            other_grad = _product(grad, value, left, 7 + K)
            # The sums for the taps come before the gradient is stored: in this order no architecture spills.
            if NEEDS_TAPS:
                other_totals = _add_tap_gradients(other_totals, other_grad, other_here, left, words, K)
            grad = _product(grad, other_value, left, 7 + K)
            if NEEDS_X:
                at = dx + b * dx_b_stride
                values = _signal_gradient(other_grad, other_taps, words, K)
                _store_eight(at, values, t, dx_t_stride, other * dx_c_stride, in_range, length)
        if NEEDS_X:
            at = dx + b * dx_b_stride
            values = _signal_gradient(grad, taps, words, K)
            _store_eight(at, values, t, dx_t_stride, c * dx_c_stride, in_range, length)
        if NEEDS_TAPS:
            totals = _add_tap_gradients(totals, grad, here, left, words, K)
        tile += groups
    if NEEDS_TAPS:
        sums += group * sums_stride
        _store_totals(sums, totals, c, channels, in_range, K)
        if PAIR:
            _store_totals(sums + (K + 1) * channels, other_totals, c, channels, in_range, K)


def convolve(
    inputs: ShortConvInputs,
    y: Tensor,
    part_channels: int,
    *,
    pair: bool,
    y_length: int,
    marks: Tensor | None = None,
) -> None:
    """Write the convolution of ``parts`` signals of C channels each, see :func:`forward_kernel`.

    Args:
        inputs: ``x (B, ≥ C, L)``, in which part ``p`` starts at channel ``p * part_channels``, with the taps
            ``(≥ C, K)`` and biases ``(≥ C,)`` or None of the same channels.
        y: ``(parts, B, C, L)``.
        part_channels: channels from one part to the next.
        pair: whether the last result is the product of the last part and one more.
        y_length: positions of ``y`` that may be written, L or more.
        marks: ``(L + 1,)`` uint8: 1 where a packed row starts and at the end, else 0. None: no packed rows. B is 1.
    """
    x, weight, bias, _ = inputs
    parts, batch, channels, length = y.shape
    block_t, block_c, warps = CONFIGS["narrow" if channels <= CONFIGS["narrow"][1] else "wide"]
    grid = (batch * -(-length // block_t) * parts * -(-channels // block_c),)
    args = (
        x, weight, bias, marks, y, length, y_length, channels, parts, part_channels, *x.stride(), *weight.stride(),
        0 if bias is None else bias.stride(0), *y.stride(),
    )  # fmt: skip
    own = constants(
        K=weight.shape[1], HAS_BIAS=bias is not None, PAIR=pair, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=warps
    )
    with torch.cuda.device_of(x):
        launch(forward_kernel, grid, args, own)


def _groups(dy: Tensor) -> int:
    """Programs for one tile of channels in :func:`convolve_backward`. Each has its own sums."""
    batch, channels, length = dy.shape
    block_t, block_c, _ = CONFIGS["narrow"]
    return min(batch * -(-length // block_t), max(1, PROGRAMS // max(1, -(-channels // block_c))))


def tap_sums(dy: Tensor, parts: int, taps: int) -> Tensor:
    """Memory for the sums that :func:`convolve_backward` writes and ``write_tap_gradients`` adds up.

    Returns:
        ``(groups, parts * (K + 1), C)`` in float32, uninitialised. Each part has the gradients of its taps, then that
        of its bias.
    """
    return torch.empty((_groups(dy), parts * (taps + 1), dy.shape[1]), dtype=torch.float32, device=dy.device)


def convolve_backward(
    dy: Tensor,
    inputs: ShortConvInputs,
    part_channels: int,
    *,
    dx: Tensor | None,
    sums: Tensor | None,
    pair: bool,
    marks: Tensor | None = None,
) -> None:
    """Gradients of one part, or of a pair: parts 0 and 1, whose product was taken.

    Args:
        dy: ``(B, C, L)``, gradient of the result.
        inputs: as for :func:`convolve`.
        part_channels: channels from one part to the next.
        dx: where the gradient of ``x`` is written, of the shape of ``x``; None if it is not needed.
        sums: where the sums for ``weight`` and ``bias`` are written: :func:`tap_sums` from the first row of this part
            on. None if they are not needed.
        pair: whether the result was a product.
        marks: as for :func:`convolve`.
    """
    x, weight, bias, _ = inputs
    batch, channels, length = dy.shape
    block_t, block_c, warps = CONFIGS["narrow"]
    groups = _groups(dy)
    args = (
        dy, x, weight, bias, marks, dx, sums, length, channels, part_channels, batch, groups,
        0 if sums is None else sums.stride(0), *dy.stride(), *x.stride(), *weight.stride(),
        0 if bias is None else bias.stride(0), *((0, 0, 0) if dx is None else dx.stride()),
    )  # fmt: skip
    own = constants(
        K=weight.shape[1],
        HAS_BIAS=bias is not None,
        PAIR=pair,
        NEEDS_X=dx is not None,
        NEEDS_TAPS=sums is not None,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    with torch.cuda.device_of(x):
        launch(backward_kernel, (groups * -(-channels // block_c),), args, own)


def _is_plain(inputs: ShortConvInputs, silu: bool) -> bool:
    return not silu and inputs.initial_state is None and inputs.weight.shape[1] <= MAX_TAPS


def _beyond_plain() -> Any:
    """The kernels for everything else. They are made of pieces of this module, so it cannot import them at its top."""
    from hyena_kernels.backends.triton import short_conv_loop

    return short_conv_loop


def forward_states(inputs: ShortConvInputs, silu: bool) -> tuple[Tensor, Tensor]:
    """``short_conv_states_fwd``: the result of :func:`forward`, and the last samples."""
    return forward(inputs, silu), final_state(inputs.x, inputs.weight.shape[1], inputs.initial_state)


def forward(inputs: ShortConvInputs, silu: bool) -> Tensor:
    """``short_conv_fwd``: shapes, dtypes and result of :func:`hyena_kernels.short_conv`, except float64."""
    if not _is_plain(inputs, silu):
        return _beyond_plain().forward(inputs, silu)
    y = empty_signal(inputs.x)
    convolve(inputs, y[None], 0, pair=False, y_length=y.shape[2])
    return y


def backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """``short_conv_bwd``: the gradients of all inputs, of length 0 where not needed."""
    if not _is_plain(inputs, silu):
        return _beyond_plain().backward(dy, inputs, silu, needs)
    grads = short_gradients(inputs, needs)
    dx, dweight, dbias, _ = only_needed(grads, needs)
    wants_taps = dweight is not None or dbias is not None
    if dx is not None or wants_taps:
        sums = tap_sums(dy, 1, inputs.weight.shape[1]) if wants_taps else None
        convolve_backward(dy, inputs, 0, dx=dx, sums=sums, pair=False)
        if sums is not None:
            write_tap_gradients(sums, dweight, dbias)
    return grads
