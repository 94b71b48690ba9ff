"""Triton kernels of ``short_conv`` with an activation, an initial state, or more than 8 taps.

A tile is one of :mod:`hyena_kernels.backends.triton.short_conv_tiles`: each thread holds 8 neighbouring positions of a
channel. For any number of taps a loop takes 8 of them at a time. Each turn loads the next 8 samples of a thread, so
there is one load for 64 multiply-adds in registers.

- :func:`loop_kernel` is the convolution, forward and transposed. Forward it applies the activation. For the backward
  pass of an activation behind more than 8 taps it writes the gradient of the convolution to memory, in float32.
- :func:`few_taps_backward_kernel` is the backward pass of at most 8 taps. It computes the convolution and the slope of
  the activation again in registers.
- :func:`tap_gradient_kernel` makes the gradients of 8 of the taps in one program.

Predicted, bfloat16, B = 1, L = 2^20, D = 128 (not yet run on a GPU). With SiLU and 4 taps bytes decide, at 4.3 TB/s:
forward 0.54 GB, 0.125 ms; backward 0.81 GB, 0.19 ms, as without it. From some 16 taps on instructions decide. A turn
for 16 positions takes 236 of them forward and 208 transposed on sm_90, 128 of which are multiply-adds. The gradients of
8 taps at 8 positions take some 200. At full issue on an H200 (132 SMs, 1.755 GHz) this is:

===== ======= ========
taps  forward backward
===== ======= ========
64    0.53 ms 1.4 ms
256   2.1 ms  5.6 ms
===== ======= ========

SiLU adds another forward pass to the backward pass of more than 8 taps. A gated ``fftconv`` of that size was measured
at 2.95 ms forward and 5.8 ms backward, whatever K is. So the sum over taps is the faster up to 256 taps, and it is more
exact: NaN stays in its row, and chunks have the bits of the whole.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

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
    _signal_gradient,
    _store_eight,
    _store_totals,
)
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import only_needed
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.taps import MAX_TAPS, empty_signal, short_gradients, write_tap_gradients

# What loop_kernel writes: the convolution, its SiLU, or dy times the slope of SiLU there.
PLAIN, SILU, SLOPE = 0, 1, 2


@triton.jit
def _load_samples(  # type: ignore[no-untyped-def]
    x, state, t, x_t_stride, x_offset, state_t_stride, state_offset, in_range, length,
    BEFORE: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """As ``_load_eight``, and ``state`` at the BEFORE positions in front of the first one."""
    at = t[:, None] + tl.arange(0, 8)[None, :]
    inside = in_range[None, :, None]
    mask = ((at >= 0) & (at < length))[:, None, :] & inside
    tile = tl.load(x + (at * x_t_stride)[:, None, :] + x_offset[None, :, None], mask=mask, other=0.0)
    if HAS_STATE:
        mask = ((at < 0) & (at >= -BEFORE))[:, None, :] & inside
        place = ((at + BEFORE) * state_t_stride)[:, None, :] + state_offset[None, :, None]
        tile = tl.where((at < 0)[:, None, :], tl.load(state + place, mask=mask, other=0.0), tile)
    even, odd = tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1], 2, 2, 2)))
    even_0, even_1 = tl.split(even)
    odd_0, odd_1 = tl.split(odd)
    x0, x4 = tl.split(even_0)
    x2, x6 = tl.split(even_1)
    x1, x5 = tl.split(odd_0)
    x3, x7 = tl.split(odd_1)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _store_between(y, values, t, t_stride, c_offset, in_range, first, end):  # type: ignore[no-untyped-def]
    """As ``_store_eight`` for positions from ``first`` to ``end - 1``. ``y`` begins at ``first``."""
    even = tl.join(tl.join(values[0], values[4]), tl.join(values[2], values[6]))
    odd = tl.join(tl.join(values[1], values[5]), tl.join(values[3], values[7]))
    tile = tl.reshape(tl.join(even, odd), (even.shape[0], even.shape[1], 8))
    at = t[:, None] + tl.arange(0, 8)[None, :]
    mask = ((at >= first) & (at < end))[:, None, :] & in_range[None, :, None]
    place = ((at - first) * t_stride)[:, None, :] + c_offset[None, :, None]
    tl.store(y + place, tile.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _some_taps(weight, c_offset, k_stride, in_range, first, K: tl.constexpr, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """As ``_load_taps`` for COUNT taps from lag ``first`` on."""
    taps = ()
    for lag in tl.static_range(COUNT):
        tap = tl.load(weight + c_offset + (K - 1 - first - lag) * k_stride, mask=in_range, other=0.0)
        taps += (tap.to(tl.float32)[None, :],)  # type: ignore[assignment]
    return taps


@triton.jit
def _add_products(sums, window, taps, FLIP: tl.constexpr, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adds ``taps[lag] window[8 + i - lag]``, or ``taps[lag] window[i + lag]`` with FLIP, to sum i for COUNT lags."""
    values = ()
    for i in tl.static_range(8):
        value = sums[i]
        for lag in tl.static_range(COUNT):
            if FLIP:
                value += taps[lag] * window[i + lag].to(tl.float32)
            else:
                value += taps[lag] * window[8 + i - lag].to(tl.float32)
        values += (value,)  # type: ignore[assignment]
    return values


@triton.jit
def _gate(v):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def _finished(values, grad, FINISH: tl.constexpr):  # type: ignore[no-untyped-def]
    results = ()
    for i in tl.static_range(8):
        v = values[i]
        if FINISH == 1:
            v = v * _gate(v)
        if FINISH == 2:
            gate = _gate(v)
            v = grad[i].to(tl.float32) * (gate + gate * (1.0 - gate) * v)
        results += (v,)  # type: ignore[assignment]
    return results


@triton.jit
def _times_slope(grad, values, t, length, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """COUNT gradients of the convolution. They are zero outside ``0 … length - 1``, even where a value is NaN."""
    results = ()
    for i in tl.static_range(COUNT):
        gate = _gate(values[i])
        at = (t + i)[:, None]
        product = grad[i].to(tl.float32) * (gate + gate * (1.0 - gate) * values[i])
        results += (tl.where((at >= 0) & (at < length), product, 0.0),)  # type: ignore[assignment]
    return results


@triton.jit
def _add_lags(totals, grad, window, left, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adds ``sum_i grad[i] window[8 + i - lag]`` to total ``lag`` for 8 lags, and ``sum_i grad[i]`` to total 8.

    WHOLE says that the tile ends before the signal does. Beyond the end gradients are zero, and a NaN in ``x`` must not
    be multiplied with them.
    """
    sums = ()
    for lag in tl.static_range(8):
        total = totals[lag]
        for i in tl.static_range(8):
            if WHOLE:
                total += grad[i].to(tl.float32) * window[8 + i - lag].to(tl.float32)
            else:
                total += tl.where(left > i, grad[i].to(tl.float32) * window[8 + i - lag].to(tl.float32), 0.0)
        sums += (total,)  # type: ignore[assignment]
    total = totals[8]
    for i in tl.static_range(8):
        total += grad[i].to(tl.float32)
    return sums + (total,)


@triton.jit
def loop_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, state, dy, y, length, count, channels, shift, x_b_stride, x_c_stride, x_t_stride,
    weight_c_stride, weight_k_stride, bias_stride, state_b_stride, state_c_stride, state_t_stride,
    dy_b_stride, dy_c_stride, dy_t_stride, y_b_stride, y_c_stride, y_t_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, FLIP: tl.constexpr, FINISH: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``count`` results of the convolution of ``x``, from position ``shift`` on, or of its transpose with FLIP."""
    pid = tl.program_id(0)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    t_tiles = tl.cdiv(count, BLOCK_T)
    tile = pid // c_tiles
    b = (tile // t_tiles).to(tl.int64)
    t = (tile % t_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T // 8) * 8
    c = (pid % c_tiles).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_range = c < channels

    x += b * x_b_stride
    if HAS_STATE:
        state += b * state_b_stride
    c_place = c * x_c_stride
    s_place = c * state_c_stride
    at = t + shift
    zero = tl.zeros((BLOCK_T // 8, BLOCK_C), tl.float32)
    sums = (zero + _load_bias(bias, c * bias_stride, in_range, HAS_BIAS),) * 8
    near = _load_samples(x, state, at, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE)
    if K >= 8:
        # A number of eights, so that the compiler knows that the samples of a thread begin at a multiple of 8.
        turn = 0
        # Not tl.static_range: the code would grow with K.
        while turn < K // 8:
            from_here = at + 8 + turn * 8 if FLIP else at - 8 - turn * 8
            far = _load_samples(
                x, state, from_here, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE
            )
            taps = _some_taps(weight, c * weight_c_stride, weight_k_stride, in_range, turn * 8, K, 8)
            if FLIP:
                sums = _add_products(sums, near + far, taps, FLIP, 8)
            else:
                sums = _add_products(sums, far + near, taps, FLIP, 8)
            near = far
            turn += 1
    if K % 8 > 0:
        from_here = at + 8 + K // 8 * 8 if FLIP else at - 8 - K // 8 * 8
        far = _load_samples(
            x, state, from_here, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE
        )
        taps = _some_taps(weight, c * weight_c_stride, weight_k_stride, in_range, K // 8 * 8, K, K % 8)
        if FLIP:
            sums = _add_products(sums, near + far, taps, FLIP, K % 8)
        else:
            sums = _add_products(sums, far + near, taps, FLIP, K % 8)
    grad = sums
    if FINISH == 2:
        grad = _load_eight(dy + b * dy_b_stride, t, dy_t_stride, c * dy_c_stride, in_range, length)
    _store_eight(y + b * y_b_stride, _finished(sums, grad, FINISH), t, y_t_stride, c * y_c_stride, in_range, count)


@triton.jit(do_not_specialize=["batch", "groups"])
def few_taps_backward_kernel(  # type: ignore[no-untyped-def]
    dy, x, weight, bias, state, dx, dstate, sums, length, channels, batch, groups, sums_stride, dy_b_stride,
    dy_c_stride, dy_t_stride, x_b_stride, x_c_stride, x_t_stride, weight_c_stride, weight_k_stride, bias_stride,
    state_b_stride, state_c_stride, state_t_stride, dx_b_stride, dx_c_stride, dx_t_stride, dstate_b_stride,
    dstate_c_stride, dstate_t_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, ACTIVE: tl.constexpr, NEEDS_X: tl.constexpr,
    NEEDS_STATE: tl.constexpr, NEEDS_TAPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of at most 8 taps, with an activation (ACTIVE) or a state. Programs and sums are as in short_conv.py.

    With a state the first tile begins 8 positions before the signal.
    """
    pid = tl.program_id(0)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    early = 8 if HAS_STATE else 0
    t_tiles = tl.cdiv(length + early, BLOCK_T)
    group = pid // c_tiles
    c = (pid % c_tiles).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_range = c < channels
    c_place = c * x_c_stride
    s_place = c * state_c_stride

    taps = _load_taps(weight, c * weight_c_stride, weight_k_stride, in_range, K)
    offset = _load_bias(bias, c * bias_stride, in_range, HAS_BIAS)
    zero = tl.zeros((BLOCK_T // 8, BLOCK_C), tl.float32)
    totals = (zero,) * (K + 1)
    tile = group
    while tile < t_tiles * batch:
        b = (tile // t_tiles).to(tl.int64)
        t = (tile % t_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T // 8) * 8 - early
        left = _left(t, length)
        dy_b = dy + b * dy_b_stride
        x_b = x + b * x_b_stride
        state_b = state
        if HAS_STATE:
            state_b = state + b * state_b_stride
        grad = _load_eight(dy_b, t, dy_t_stride, c * dy_c_stride, in_range, length)
        grad += _load_eight(dy_b, t + 8, dy_t_stride, c * dy_c_stride, in_range, length)
        here = _load_samples(
            x_b, state_b, t, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE
        )
        if ACTIVE:
            before = _load_samples(
                x_b, state_b, t - 8, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE
            )
            behind = _load_samples(
                x_b, state_b, t + 8, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE
            )
            values = _convolved(before + here + behind, taps, offset, 7 + K, K)
            grad = _times_slope(grad, values, t, length, 7 + K)
        if NEEDS_X or NEEDS_STATE:
            values = _signal_gradient(grad, taps, K)
            if NEEDS_X:
                _store_between(dx + b * dx_b_stride, values, t, dx_t_stride, c * dx_c_stride, in_range, 0, length)
            if NEEDS_STATE:
                to = dstate + b * dstate_b_stride
                _store_between(to, values, t, dstate_t_stride, c * dstate_c_stride, in_range, 1 - K, 0)
        if NEEDS_TAPS:
            totals = _add_tap_gradients(totals, grad, here, left, K)
        tile += groups
    if NEEDS_TAPS:
        _store_totals(sums + group * sums_stride, totals, c, channels, in_range, K)


@triton.jit(do_not_specialize=["batch", "groups"])
def tap_gradient_kernel(  # type: ignore[no-untyped-def]
    grad, x, state, sums, length, channels, batch, groups, sums_stride, grad_b_stride, grad_c_stride, grad_t_stride,
    x_b_stride, x_c_stride, x_t_stride, state_b_stride, state_c_stride, state_t_stride,
    K: tl.constexpr, HAS_STATE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums of short_conv.py for 8 lags of a tile of channels, over every ``groups``-th tile of positions."""
    pid = tl.program_id(0)
    c_tiles = tl.cdiv(channels, BLOCK_C)
    t_tiles = tl.cdiv(length, BLOCK_T)
    rest = pid // c_tiles
    first = rest % tl.cdiv(K, 8) * 8
    group = rest // tl.cdiv(K, 8)
    c = (pid % c_tiles).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_range = c < channels
    c_place = c * x_c_stride
    s_place = c * state_c_stride

    zero = tl.zeros((BLOCK_T // 8, BLOCK_C), tl.float32)
    totals = (zero,) * 9
    tile = group
    while tile < t_tiles * batch:
        b = (tile // t_tiles).to(tl.int64)
        t = (tile % t_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T // 8) * 8
        x_b = x + b * x_b_stride
        state_b = state
        if HAS_STATE:
            state_b = state + b * state_b_stride
        here = _load_eight(grad + b * grad_b_stride, t, grad_t_stride, c * grad_c_stride, in_range, length)
        window = _load_samples(
            x_b, state_b, t - first - 8, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1,
            HAS_STATE,
        ) + _load_samples(
            x_b, state_b, t - first, x_t_stride, c_place, state_t_stride, s_place, in_range, length, K - 1, HAS_STATE
        )  # fmt: skip
        if (tile % t_tiles + 1) * BLOCK_T <= length:
            totals = _add_lags(totals, here, window, _left(t, length), True)
        else:
            totals = _add_lags(totals, here, window, _left(t, length), False)
        tile += groups
    sums += group * sums_stride
    for lag in tl.static_range(8):
        place = sums + (K - 1 - first - lag) * channels + c
        tl.store(place, tl.sum(totals[lag], axis=0), mask=in_range & (first + lag < K))
    tl.store(sums + K * channels + c, tl.sum(totals[8], axis=0), mask=in_range & (first == 0))


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()


def _state(inputs: ShortConvInputs) -> Tensor | None:
    """The initial state, or None if it has no samples."""
    return None if inputs.weight.shape[1] == 1 else inputs.initial_state


def _loop(
    x: Tensor,
    inputs: ShortConvInputs,
    y: Tensor,
    *,
    finish: int,
    flip: bool = False,
    shift: int = 0,
    dy: Tensor | None = None,
) -> None:
    """Write the results of :func:`loop_kernel` to ``y``.

    Args:
        x: the signal ``(B, D, L)``, or the gradient of the convolution with ``flip``.
        inputs: the filter. Bias and state are used without ``flip`` only.
        y: ``(B, D, count)``.
        finish: :data:`PLAIN`, :data:`SILU` or :data:`SLOPE`.
        flip: whether to compute the transpose.
        shift: position of the first result.
        dy: with :data:`SLOPE` the gradient of the activation.
    """
    weight, bias, state = inputs.weight, None if flip else inputs.bias, None if flip else _state(inputs)
    batch, channels, count = y.shape
    block_t, block_c, warps = CONFIGS["narrow" if channels <= CONFIGS["narrow"][1] else "wide"]
    args = (
        x, weight, bias, state, dy, y, x.shape[2], count, channels, shift, *x.stride(), *weight.stride(),
        0 if bias is None else bias.stride(0), *_strides(state), *_strides(dy), *y.stride(),
    )  # fmt: skip
    own = constants(
        K=weight.shape[1],
        HAS_BIAS=bias is not None,
        HAS_STATE=state is not None,
        FLIP=flip,
        FINISH=finish,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    with torch.cuda.device_of(x):
        launch(loop_kernel, (batch * -(-count // block_t) * -(-channels // block_c),), args, own)


def forward(inputs: ShortConvInputs, silu: bool) -> Tensor:
    """``short_conv_fwd`` for any number of taps, with a state or an activation."""
    y = empty_signal(inputs.x)
    if y.numel():
        _loop(inputs.x, inputs, y, finish=SILU if silu else PLAIN)
    return y


def backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """``short_conv_bwd`` for any number of taps, with a state or an activation."""
    grads = short_gradients(inputs, needs)
    if not inputs.x.numel():
        for grad in grads:
            grad.zero_()
        return grads
    if inputs.weight.shape[1] <= MAX_TAPS:
        _few_taps_backward(dy, inputs, silu, only_needed(grads, needs))
    elif silu:
        batch_step, channel_step = sizes.tile(dy.shape[0], dy.shape[1], 4 * dy.shape[2], dy.device)
        for c in sizes.slices(dy.shape[1], channel_step):
            _sliced_backward(dy, inputs, only_needed(grads, needs), c, batch_step)
    else:
        _many_taps_backward(dy, inputs, only_needed(grads, needs))
    return grads


def _few_taps_backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, grads: tuple[Tensor | None, ...]) -> None:
    (x, weight, bias, _), state = inputs, _state(inputs)
    dx, dweight, dbias, dstate = grads
    dstate = dstate if state is not None else None
    batch, channels, length = x.shape
    block_t, block_c, warps = CONFIGS["narrow"]
    c_tiles, t_tiles = -(-channels // block_c), -(-(length + (8 if state is not None else 0)) // block_t)
    groups = min(batch * t_tiles, max(1, PROGRAMS // c_tiles))
    sums = None
    if dweight is not None or dbias is not None:
        sums = x.new_empty((groups, weight.shape[1] + 1, channels), dtype=torch.float32)
    args = (
        dy, x, weight, bias, state, dx, dstate, sums, length, channels, batch, groups,
        0 if sums is None else sums.stride(0), *dy.stride(), *x.stride(), *weight.stride(),
        0 if bias is None else bias.stride(0), *_strides(state), *_strides(dx), *_strides(dstate),
    )  # fmt: skip
    own = constants(
        K=weight.shape[1],
        HAS_BIAS=bias is not None,
        HAS_STATE=state is not None,
        ACTIVE=silu,
        NEEDS_X=dx is not None,
        NEEDS_STATE=dstate is not None,
        NEEDS_TAPS=sums is not None,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    with torch.cuda.device_of(x):
        launch(few_taps_backward_kernel, (groups * c_tiles,), args, own)
    if sums is not None:
        write_tap_gradients(sums, dweight, dbias)


def _part(inputs: ShortConvInputs, batch: slice, channels: slice) -> ShortConvInputs:
    x, weight, bias, state = inputs
    return ShortConvInputs(
        x[batch, channels],
        weight[channels],
        None if bias is None else bias[channels],
        None if state is None else state[batch, channels],
    )


def _sliced_backward(
    dy: Tensor, inputs: ShortConvInputs, grads: tuple[Tensor | None, ...], channels: slice, batch_step: int
) -> None:
    """Gradients of some channels with an activation. In memory are those of the convolution for some batch entries."""
    dx, dweight, dbias, dstate = grads
    sums = []
    for b in sizes.slices(dy.shape[0], batch_step):
        part = _part(inputs, b, channels)
        grad = empty_signal(part.x, torch.float32)
        _loop(part.x, part, grad, finish=SLOPE, dy=dy[b, channels])
        to_x, to_state = (None if each is None else each[b, channels] for each in (dx, dstate))
        sums.append(_convolution_backward(grad, part, to_x, to_state, dweight is not None or dbias is not None))
    if dweight is not None or dbias is not None:
        write_tap_gradients(torch.cat([each for each in sums if each is not None]), dweight, dbias, channels=channels)


def _many_taps_backward(dy: Tensor, inputs: ShortConvInputs, grads: tuple[Tensor | None, ...]) -> None:
    dx, dweight, dbias, dstate = grads
    sums = _convolution_backward(dy, inputs, dx, dstate, dweight is not None or dbias is not None)
    if sums is not None:
        write_tap_gradients(sums, dweight, dbias)


def _convolution_backward(
    grad: Tensor, inputs: ShortConvInputs, dx: Tensor | None, dstate: Tensor | None, for_taps: bool
) -> Tensor | None:
    """From the gradient of the convolution to that of signal and state, and the sums for ``write_tap_gradients``."""
    if dx is not None:
        _loop(grad, inputs, dx, finish=PLAIN, flip=True)
    if dstate is not None:
        _loop(grad, inputs, dstate, finish=PLAIN, flip=True, shift=1 - inputs.weight.shape[1])
    if not for_taps:
        return None
    x, taps, state = inputs.x, inputs.weight.shape[1], _state(inputs)
    batch, channels, length = x.shape
    block_t, block_c, warps = CONFIGS["narrow"]
    columns = -(-channels // block_c) * -(-taps // 8)
    groups = min(batch * -(-length // block_t), max(1, PROGRAMS // columns))
    sums = x.new_empty((groups, taps + 1, channels), dtype=torch.float32)
    args = (
        grad, x, state, sums, length, channels, batch, groups, sums.stride(0), *grad.stride(), *x.stride(),
        *_strides(state),
    )  # fmt: skip
    own = constants(K=taps, HAS_STATE=state is not None, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=warps)
    with torch.cuda.device_of(x):
        launch(tap_gradient_kernel, (groups * columns,), args, own)
    return sums
