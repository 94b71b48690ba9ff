"""Triton kernel of ``hyena_mixer_step``: a whole step of the mixer in one launch.

A program is one warp, which takes four channels of one batch entry: the short convolutions of all their projections,
the gates, and the windows of all N-1 recurrences. Only the newest position of a window depends on the gates. So a
program reads everything before it computes anything, and waits for memory once. A load of a window takes one whole
sector of 32 bytes of each of the four rows. Sums over a window stay within the warp.

A step may be that of a CUDA graph: ``t`` is a number, or a tensor that only the kernel reads. Out of range, the kernel
writes nothing but a result of NaN.

Predicted with a window of 64, half full on average, bfloat16, order 2 and 3 short taps, at 4.3 TB/s. A row reads 128
bytes of ``u`` and a sector of ``future``, and writes a sector of ``u``; projections, states and result are 32 bytes. A
channel adds 180 bytes of taps and weights, shared by the batch. B = 1, d = 256: 0.10 MB, 0.02 µs. B = 64, d = 256: 3.7
MB, 0.9 µs. So a step takes what a launch takes, some 2 to 3 µs in a CUDA graph. Plain PyTorch launches 14 kernels for
it, and 26 if ``t`` is a tensor. Not run on a GPU so far.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.common.inputs import MixerStepInputs

ROWS, WARPS = 4, 1
"""Channels and warps of a program. With more of either, sums go through shared memory, or loads take half a sector."""


@triton.jit
def _projection(  # type: ignore[no-untyped-def]
    x, short_state, weight, bias, row, here, x_c_stride, state_c_stride, state_k_stride, weight_c_stride,
    weight_k_stride, bias_stride, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Short convolution of ``row``, one channel of a part for each row of the tile, and its last TAPS projections."""
    newest = tl.load(x + row * x_c_stride, mask=here, other=0.0)
    weight += row * weight_c_stride
    value = newest.to(tl.float32) * tl.load(weight + (TAPS - 1) * weight_k_stride, mask=here, other=0.0).to(tl.float32)
    history = ()
    for k in tl.static_range(TAPS - 1):
        earlier = tl.load(short_state + row * state_c_stride + k * state_k_stride, mask=here, other=0.0)
        value += earlier.to(tl.float32) * tl.load(weight + k * weight_k_stride, mask=here, other=0.0).to(tl.float32)
        history += (earlier,)  # type: ignore[assignment]
    if HAS_BIAS:
        value += tl.load(bias + row * bias_stride, mask=here, other=0.0).to(tl.float32)
    return value, history + (newest,)


@triton.jit(do_not_specialize=["t"])
def step_kernel(  # type: ignore[no-untyped-def]
    x, short_state, weight, bias, u, future, taps, y, channels, horizon, x_b_stride, x_c_stride, state_b_stride,
    state_c_stride, state_k_stride, weight_c_stride, weight_k_stride, bias_stride, u_o_stride, u_b_stride, u_c_stride,
    u_t_stride, future_o_stride, future_b_stride, future_c_stride, future_t_stride, taps_o_stride, taps_c_stride,
    taps_t_stride, t,
    STEPS: tl.constexpr, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, T_IN_MEMORY: tl.constexpr, WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """One step of ROWS channels. STEPS is N-1, TAPS the number of short taps."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(channels, ROWS)
    b = (pid // tiles).to(tl.int64)
    c = (pid % tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    now = tl.load(t) if T_IN_MEMORY else t.to(tl.int64)
    inside = (now >= 0) & (now < horizon)
    here = (c < channels) & inside

    x += b * x_b_stride
    short_state += b * state_b_stride
    u += b * u_b_stride + c * u_c_stride
    future += b * future_b_stride + c * future_c_stride + now * future_t_stride
    taps += c * taps_c_stride

    parts = ()
    histories = ()
    for part in tl.static_range(STEPS + 2):
        value, history = _projection(
            x, short_state, weight, bias, part * channels + c, here, x_c_stride, state_c_stride, state_k_stride,
            weight_c_stride, weight_k_stride, bias_stride, TAPS, HAS_BIAS,
        )  # fmt: skip
        parts += (value,)  # type: ignore[assignment]
        histories += history
    # Signals are addressed by their lags, as taps are: else the two get different layouts, and one has to be converted.
    lags = now % WINDOW - tl.arange(0, WINDOW)
    past = here[:, None] & (lags > 0)[None, :]
    sums = ()
    newest_taps = ()
    for o in tl.static_range(STEPS):
        signal = tl.load(u[:, None] + o * u_o_stride + ((now - lags) * u_t_stride)[None, :], mask=past, other=0.0)
        tap = tl.load(taps[:, None] + o * taps_o_stride + (lags * taps_t_stride)[None, :], mask=past, other=0.0)
        earlier = tl.load(future + o * future_o_stride, mask=here, other=0.0)
        sums += (earlier + tl.sum(signal * tap, axis=1),)  # type: ignore[assignment]
        newest_taps += (tl.load(taps + o * taps_o_stride, mask=here, other=0.0),)  # type: ignore[assignment]

    # Several threads read the same short state, and one of them writes it.
    tl.debug_barrier()
    v = parts[STEPS + 1]  # type: ignore[var-annotated]
    for o in tl.static_range(STEPS):
        v *= parts[STEPS - o]
        tl.store(u + o * u_o_stride + now * u_t_stride, v, mask=here)
        v = sums[o] + newest_taps[o] * v
    v = tl.where(inside, v * parts[0], float("nan"))  # type: ignore[misc]
    tl.store(y + b * channels + c, v.to(y.dtype.element_ty), mask=c < channels)
    for part in tl.static_range(STEPS + 2):
        for k in tl.static_range(TAPS - 1):
            at = short_state + (part * channels + c) * state_c_stride + k * state_k_stride
            tl.store(at, histories[part * TAPS + k + 1], mask=here)


def forward(inputs: MixerStepInputs, step: int, window: int) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_step``, with a window of at most :data:`.support.MAX_WINDOW`, except float64."""
    x, short_state, weight, bias, u, future, taps, t = inputs
    batch, (steps, channels, horizon) = x.shape[0], taps.shape
    y = x.new_empty((batch, channels))
    if y.numel() == 0:
        return y
    args = (
        x, short_state, weight, bias, u, future, taps, y, channels, horizon, *x.stride(), *short_state.stride(),
        *weight.stride(), 0 if bias is None else bias.stride(0), *u.stride(), *future.stride(), *taps.stride(),
    )  # fmt: skip
    own = constants(
        STEPS=steps, TAPS=weight.shape[1], HAS_BIAS=bias is not None, T_IN_MEMORY=t is not None, WINDOW=window,
        ROWS=ROWS, num_warps=WARPS,
    )  # fmt: skip
    with torch.cuda.device_of(x):
        if t is None:
            launch(step_kernel, (batch * -(-channels // ROWS),), args, own, late=(step,))
        else:
            launch(step_kernel, (batch * -(-channels // ROWS),), (*args, t), own)
    return y
