"""``hyena_mixer_step``: one token through everything between in_proj and out_proj, for decoding.

The long convolutions are computed online, in tiles of powers of two. What the prompt and finished tiles add to the
output of every step lies in ``future``. A step adds the last few positions itself, those of its window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import mixer_step as torch_mixer_step
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import MixerStepInputs
from hyena_kernels.common.steps import check_step, number_of
from hyena_kernels.common.taps import MAX_TAPS
from hyena_kernels.registration import checks, eager, library

_OP = "hyena_mixer_step"
_BACKENDS = ("triton", "cpp", "torch")

_MODULE = "hyena_kernels.backends.{}.mixer_step:forward"
_backend.register(_OP, "torch", torch_mixer_step.forward)
_backend.register(_OP, "cpp", _MODULE.format("cpp"))
_backend.register(_OP, "triton", _MODULE.format("triton"), triton_support.hyena_mixer_step)


def _fake(inputs: MixerStepInputs, step: int, window: int) -> Tensor:
    return inputs.x.new_empty((inputs.x.shape[0], inputs.taps.shape[1]))


_step, _plain_step = library.define_update(
    "hyena_mixer_step",
    "Tensor x, Tensor(a!) short_state, Tensor short_weight, Tensor? short_bias, Tensor(b!) u, Tensor future, "
    "Tensor taps, Tensor? t, SymInt step, int window",
    MixerStepInputs,
    _fake,
    writes=("short_state", "u"),
)


_MAX_CHECKED = 1024
# What is known of arguments that have passed the checks.
_checked: set[tuple[Any, ...]] = set()


def hyena_mixer_step(
    x: Tensor,
    short_state: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    u: Tensor,
    future: Tensor,
    taps: Tensor,
    t: int | Tensor,
    *,
    window: int = 64,
    backend: str | None = None,
) -> Tensor:
    """Step ``t`` of a Hyena operator of order N: what :func:`hyena_kernels.hyena_mixer` gives at one new position.

    With ``p = bias + sum_j short_weight[j] h[j]`` of the last Ks projections ``h``, ``x`` the newest of them, split
    along its channels into ``x_0 | x_1 | … | x_{N-1} | v``, and with ``t0 = t - t mod window``::

        for o in 0 … N-2:  u[o, t] = v * x_{N-1-o}
                           v = future[o, t] + sum_{s = t0 … t} taps[o, t - s] u[o, s]
        y = v * x_0

    ``short_state`` is moved on by one position and ``u[..., t]`` is written, both in place. The positions of ``u``
    before ``t0`` and those from ``t`` on are not read. Computed in float32, or in float64 if ``x`` is float64. Autocast
    has no effect. A step has no derivative.

    ``future[o, t]`` has to hold what all positions before ``t0`` add to the convolution at ``t``. Steps count from the
    first token after the prompt. So ``future`` begins as what the prompt adds to every step, and each finished block of
    ``window`` steps is added to it by a tile: ``hyena_kernels.OnlineConv`` shows how.

    Args:
        x: ``(B, (N+1) d)``, the output of in_proj for the new tokens; float16, bfloat16, float32 or float64.
        short_state: ``(B, (N+1) d, Ks-1)``, the projections before ``x``, the oldest first; of ``x``'s dtype. Changed.
        short_weight: ``((N+1) d, Ks)`` short filters with 1 ≤ Ks ≤ 8, in the tap order of ``torch.nn.Conv1d``; float32
            or ``x``'s dtype.
        short_bias: ``((N+1) d,)`` or None; float32 or ``x``'s dtype.
        u: ``(N-1, B, d, G)``, the signals of the long convolutions at every step so far; float32, or float64 if ``x``
            is float64. Changed.
        future: ``(N-1, B, d, G)`` of ``u``'s dtype, what earlier positions add at every step.
        taps: ``(N-1, d, G)`` of ``u``'s dtype, the long filters. The skip weights D are added to lag 0.
        t: the step, from 0 to G-1: a number, or an int64 tensor without dimensions on the device of the others. Only
            the device reads such a tensor. So a CUDA graph of a step can be launched again with another ``t``.
        window: positions that a step adds up at most, a power of two.
        backend: ``"triton"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, d)``, the input of out_proj; contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above, or ``t`` is no whole number.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, a state
            overlaps itself in memory, ``window`` is no power of two, or ``backend`` is not the name of a backend.
        IndexError: the number ``t`` is out of range. Of a tensor this is known on a CPU alone.
        RuntimeError: autograd would record the call.
        BackendError: ``backend`` cannot run here.

    Source: Oncescu et al., "Flash Inference", 2024 (arXiv 2410.12982), and Agarwal et al., "FutureFill", 2024 (arXiv
    2410.03766).
    """
    if isinstance(t, Tensor):
        clock, step = t, -1
    else:
        clock, step = None, t if type(t) is int else number_of(_OP, t)
    tensors = (x, short_state, short_weight, short_bias, u, future, taps, clock)
    requested = _backend.requested(backend, _BACKENDS)
    if torch.compiler.is_compiling() or not eager.plain(tensors):
        _check(*tensors, window)
        if clock is None:
            check_step(_OP, step, taps.shape[2])
        return _step(*tensors, step, window, requested)
    # The checks take longer than some of the kernels, and a step of decoding looks like the one before.
    try:
        signature = (
            x.shape, x.dtype, x.device, short_state.shape, short_state.dtype, short_state.device,
            short_weight.shape, short_weight.dtype, short_weight.device, u.shape, u.dtype, u.device,
            future.shape, future.dtype, future.device, taps.shape, taps.dtype, taps.device, window,
            None if short_bias is None else (short_bias.shape, short_bias.dtype, short_bias.device),
            None if clock is None else (clock.shape, clock.dtype, clock.device),
        )  # fmt: skip
    except AttributeError:
        # One is no tensor.
        signature = None
    if not (signature in _checked and u.is_contiguous() and short_state.is_contiguous()):
        _check(*tensors, window)
        if len(_checked) >= _MAX_CHECKED:
            _checked.clear()
        assert signature is not None, "the checks take tensors only"
        _checked.add(signature)
    if clock is None:
        check_step(_OP, step, taps.shape[2])
    return _plain_step(*tensors, step, window, requested)


def _check(
    x: Tensor,
    short_state: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    u: Tensor,
    future: Tensor,
    taps: Tensor,
    clock: Tensor | None,
    window: int,
) -> None:
    """Raise what :func:`hyena_mixer_step` raises of its arguments, but for the value of ``t``.

    The ``clock`` is ``t`` if that is a tensor.
    """
    op = _OP
    checks.rank(op, "x", x, "(B, (N+1)d)")
    checks.rank(op, "short_weight", short_weight, "((N+1)d, Ks)")
    checks.rank(op, "taps", taps, "(N-1, d, G)")
    batch, width = x.shape
    steps, channels, horizon = taps.shape
    if width != (steps + 2) * channels or steps < 1 or horizon < 1:
        raise ValueError(
            f"{op}: x (B, (N+1)d) has shape {tuple(x.shape)} and taps (N-1, d, G) {tuple(taps.shape)}: "
            "the width of x must be (N+1)d, N ≥ 2 and G ≥ 1"
        )
    count = short_weight.shape[1]
    if short_weight.shape[0] != width or not 1 <= count <= MAX_TAPS:
        raise ValueError(
            f"{op}: short_weight ((N+1)d, Ks) has shape {tuple(short_weight.shape)}: "
            f"expected (N+1)d = {width} and 1 ≤ Ks ≤ {MAX_TAPS}"
        )
    checks.shape(op, "short_state", short_state, (batch, width, count - 1), "(B, (N+1)d, Ks-1)")
    if short_bias is not None:
        checks.shape(op, "short_bias", short_bias, (width,), "((N+1)d,)")
    checks.shape(op, "u", u, (steps, batch, channels, horizon), "(N-1, B, d, G)")
    checks.shape(op, "future", future, (steps, batch, channels, horizon), "(N-1, B, d, G)")
    checks.same_device(
        op,
        x=x,
        short_state=short_state,
        short_weight=short_weight,
        short_bias=short_bias,
        u=u,
        future=future,
        taps=taps,
        t=clock,
    )
    if clock is not None and (clock.dtype != torch.int64 or clock.dim()):
        raise ValueError(
            f"{op}: t has shape {tuple(clock.shape)} and dtype {clock.dtype}, expected a number or an int64 tensor "
            "without dimensions"
        )
    if window < 1 or window & (window - 1):
        raise ValueError(f"{op}: window is {window}, expected a power of two")
    for name, tensor in (("short_weight", short_weight), ("short_bias", short_bias)):
        if tensor is not None:
            checks.filter_dtype(op, name, tensor, x)
    if short_state.dtype != x.dtype:
        raise TypeError(f"{op}: short_state has dtype {short_state.dtype}, expected the {x.dtype} of x")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    for name, tensor in (("u", u), ("future", future), ("taps", taps)):
        if tensor.dtype != dtype:
            raise TypeError(f"{op}: {name} has dtype {tensor.dtype}, expected {dtype} for an x of {x.dtype}")
    for name, tensor in (("short_state", short_state), ("u", u)):
        if any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            raise ValueError(
                f"{op}: {name} {tuple(tensor.shape)} is written to, and its strides {tensor.stride()} let elements "
                "share their memory: pass a copy"
            )
