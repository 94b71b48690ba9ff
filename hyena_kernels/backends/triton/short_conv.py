"""Triton kernels of ``short_conv``, which ``hyena_mixer`` shares.

In reading order: kernels, launchers. Their pieces are in short_conv_tiles.py. What is no plain convolution of at most 8
taps runs in short_conv_loop.py. A filter of at most 9 taps reaches no further than the next 8 positions. These are
loaded too and come from the L1 cache.

Predicted, bfloat16, B = 1, L = 2^20, D = 128, at 4.3 TB/s: forward 0.54 GB, 0.125 ms; backward with all gradients
0.81 GB, 0.19 ms.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton import short_conv_loop
from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.backends.triton.short_conv_tiles import (
    CONFIGS,
    PROGRAMS,
    _add_tap_gradients,
    _convolved,
    _left,
    _load_bias,
    _load_eight,
    _load_taps,
    _product,
    _signal_gradient,
    _store_eight,
    _store_totals,
)
from hyena_kernels.common.gradients import only_needed
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.taps import MAX_TAPS, empty_signal, final_state, short_gradients, write_tap_gradients


@triton.jit(do_not_specialize=["parts"])
def forward_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, y, length, y_length, channels, parts, part_channels, x_b_stride, x_c_stride, x_t_stride,
    weight_c_stride, weight_k_stride, bias_stride, y_part_stride, y_b_stride, y_c_stride, y_t_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, PAIR: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Convolution of ``parts`` signals, which start in ``x`` every ``part_channels`` channels.

    One program computes one tile of one part. With PAIR the last result is the product of the last part and the part
    after it. Positions of ``y`` from ``length`` to ``y_length`` are written too, but mean nothing. Rows of temporary
    memory are padded to whole tiles for this: without a mask they are written in 128-bit pieces at any length.
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

    x += b * x_b_stride
    row = part * part_channels + c
    taps = _load_taps(weight, row * weight_c_stride, weight_k_stride, in_range, K)
    offset = _load_bias(bias, row * bias_stride, in_range, HAS_BIAS)
    before = _load_eight(x, t - 8, x_t_stride, row * x_c_stride, in_range, length)
    here = _load_eight(x, t, x_t_stride, row * x_c_stride, in_range, length)
    values = _convolved(before + here, taps, offset, 8, K)
    if PAIR:
        if part == parts - 1:
            row += part_channels
            taps = _load_taps(weight, row * weight_c_stride, weight_k_stride, in_range, K)
            offset = _load_bias(bias, row * bias_stride, in_range, HAS_BIAS)
            before = _load_eight(x, t - 8, x_t_stride, row * x_c_stride, in_range, length)
            here = _load_eight(x, t, x_t_stride, row * x_c_stride, in_range, length)
            factors = _convolved(before + here, taps, offset, 8, K)
            product = ()
            for i in tl.static_range(8):
                product += (values[i] * factors[i],)  # type: ignore[assignment]
            values = product
    y += part * y_part_stride + b * y_b_stride
    _store_eight(y, values, t, y_t_stride, c * y_c_stride, in_range, y_length)


@triton.jit(do_not_specialize=["batch", "groups"])
def backward_kernel(  # type: ignore[no-untyped-def]
    dy, x, weight, bias, dx, sums, length, channels, part_channels, batch, groups, sums_stride, dy_b_stride,
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
        dy_b = dy + b * dy_b_stride
        x_b = x + b * x_b_stride
        grad = _load_eight(dy_b, t, dy_t_stride, c * dy_c_stride, in_range, length)
        grad += _load_eight(dy_b, t + 8, dy_t_stride, c * dy_c_stride, in_range, length)
        if PAIR or NEEDS_TAPS:
            here = _load_eight(x_b, t, x_t_stride, c * x_c_stride, in_range, length)
        if PAIR:
            before = _load_eight(x_b, t - 8, x_t_stride, c * x_c_stride, in_range, length)
            behind = _load_eight(x_b, t + 8, x_t_stride, c * x_c_stride, in_range, length)
            value = _convolved(before + here + behind, taps, offset, 7 + K, K)
            before = _load_eight(x_b, t - 8, x_t_stride, other * x_c_stride, in_range, length)
            other_here = _load_eight(x_b, t, x_t_stride, other * x_c_stride, in_range, length)
            behind = _load_eight(x_b, t + 8, x_t_stride, other * x_c_stride, in_range, length)
            other_value = _convolved(before + other_here + behind, other_taps, other_offset, 7 + K, K)
            other_grad = _product(grad, value, left, 7 + K)
            # The sums for the taps come before the gradient is stored: in this order no architecture spills.
            if NEEDS_TAPS:
                other_totals = _add_tap_gradients(other_totals, other_grad, other_here, left, K)
            grad = _product(grad, other_value, left, 7 + K)
            if NEEDS_X:
                at = dx + b * dx_b_stride
                values = _signal_gradient(other_grad, other_taps, K)
                _store_eight(at, values, t, dx_t_stride, other * dx_c_stride, in_range, length)
        if NEEDS_X:
            at = dx + b * dx_b_stride
            values = _signal_gradient(grad, taps, K)
            _store_eight(at, values, t, dx_t_stride, c * dx_c_stride, in_range, length)
        if NEEDS_TAPS:
            totals = _add_tap_gradients(totals, grad, here, left, K)
        tile += groups
    if NEEDS_TAPS:
        sums += group * sums_stride
        _store_totals(sums, totals, c, channels, in_range, K)
        if PAIR:
            _store_totals(sums + (K + 1) * channels, other_totals, c, channels, in_range, K)


def convolve(inputs: ShortConvInputs, y: Tensor, part_channels: int, *, pair: bool, y_length: int) -> None:
    """Write the convolution of ``parts`` signals of C channels each, see :func:`forward_kernel`.

    Args:
        inputs: ``x (B, ≥ C, L)``, in which part ``p`` starts at channel ``p * part_channels``, with the taps
            ``(≥ C, K)`` and biases ``(≥ C,)`` or None of the same channels.
        y: ``(parts, B, C, L)``.
        part_channels: channels from one part to the next.
        pair: whether the last result is the product of the last part and one more.
        y_length: positions of ``y`` that may be written, L or more.
    """
    x, weight, bias, _ = inputs
    parts, batch, channels, length = y.shape
    block_t, block_c, warps = CONFIGS["narrow" if channels <= CONFIGS["narrow"][1] else "wide"]
    grid = (batch * -(-length // block_t) * parts * -(-channels // block_c),)
    args = (
        x, weight, bias, y, length, y_length, channels, parts, part_channels, *x.stride(), *weight.stride(),
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
    dy: Tensor, inputs: ShortConvInputs, part_channels: int, *, dx: Tensor | None, sums: Tensor | None, pair: bool
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
    """
    x, weight, bias, _ = inputs
    batch, channels, length = dy.shape
    block_t, block_c, warps = CONFIGS["narrow"]
    groups = _groups(dy)
    args = (
        dy, x, weight, bias, dx, sums, length, channels, part_channels, batch, groups,
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


def forward_states(inputs: ShortConvInputs, silu: bool) -> tuple[Tensor, Tensor]:
    """``short_conv_states_fwd``: the result of :func:`forward`, and the last samples."""
    return forward(inputs, silu), final_state(inputs.x, inputs.weight.shape[1], inputs.initial_state)


def forward(inputs: ShortConvInputs, silu: bool) -> Tensor:
    """``short_conv_fwd``: shapes, dtypes and result of :func:`hyena_kernels.short_conv`, except float64."""
    if not _is_plain(inputs, silu):
        return short_conv_loop.forward(inputs, silu)
    y = empty_signal(inputs.x)
    convolve(inputs, y[None], 0, pair=False, y_length=y.shape[2])
    return y


def backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """``short_conv_bwd``: the gradients of all inputs, of length 0 where not needed."""
    if not _is_plain(inputs, silu):
        return short_conv_loop.backward(dy, inputs, silu, needs)
    grads = short_gradients(inputs, needs)
    dx, dweight, dbias, _ = only_needed(grads, needs)
    wants_taps = dweight is not None or dbias is not None
    if dx is not None or wants_taps:
        sums = tap_sums(dy, 1, inputs.weight.shape[1]) if wants_taps else None
        convolve_backward(dy, inputs, 0, dx=dx, sums=sums, pair=False)
        if sums is not None:
            write_tap_gradients(sums, dweight, dbias)
    return grads
