"""``short_conv``: causal depthwise convolution with a short filter. ``short_conv_update``: one step of it.

The taps are in the order of ``torch.nn.Conv1d`` with ``padding=K-1`` and its output cut to L. The last tap weights the
present position.

Any number of taps is a sum over them. On a CPU ``fftconv`` is the faster from some 128 taps on (docs/kernels/cpu.md).
On a GPU it is not, by count (``backends/triton/short_conv_loop.py``). It is never used in place of the sum, which keeps
a NaN in its place and the bits of chunks.

Results and gradients of a channel-last signal are channel-last: ``x.transpose(1, 2)`` of a tensor ``(B, L, D)`` gives
such a view again. With an activation, backward computes the convolution again, so that nothing but the inputs is saved.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import short_conv as torch_short_conv
from hyena_kernels.common.inputs import ShortConvInputs, ShortConvUpdate
from hyena_kernels.common.reasons import joined, more_than_taps, no_float64
from hyena_kernels.common.taps import MAX_TAPS, MOST_TAPS, empty_signal, short_gradients
from hyena_kernels.registration import checks, library

ACTIVATIONS = (None, "silu")
"""What ``activation`` may be."""

UPDATE_BACKENDS = ("torch",)
"""The backends that have ``short_conv_update``."""


def _few_taps_on_gpu(*args: Any) -> str | None:
    return joined(no_float64(*args), more_than_taps(args[1], args[3], args[4], MAX_TAPS))


_backend.register_op(
    "short_conv",
    torch_short_conv,
    supports={"triton": no_float64, "cuda": _few_taps_on_gpu},
    supports_backward={
        "triton": no_float64,
        "cuda": lambda dy, *args: _few_taps_on_gpu(*args),
    },
)


def _fake(inputs: ShortConvInputs, silu: bool) -> Tensor:
    return empty_signal(inputs.x)


_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, bool silu"

_short_conv_fwd = library.define_op("short_conv", _ARGUMENTS, ShortConvInputs, _fake, gradients=short_gradients)

_backend.register("short_conv_states_fwd", "torch", torch_short_conv.forward_states)
for _name, _supports in (("cpp", None), ("triton", no_float64), ("cuda", _few_taps_on_gpu)):
    _place = f"hyena_kernels.backends.{_name}.short_conv:forward_states"
    _backend.register("short_conv_states_fwd", _name, _place, _supports)


def _states_fake(inputs: ShortConvInputs, silu: bool) -> tuple[Tensor, Tensor]:
    x, taps = inputs.x, inputs.weight.shape[1]
    return _fake(inputs, silu), x.new_empty((*x.shape[:2], taps - 1))


def _states_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu, ctx.backend = inputs
    # Zeros for the gradient of an unused y would be as large as x.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _states_derivative(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of ``short_conv_bwd``, and the gradient of the final state added to those of its samples."""
    x, weight, bias, initial_state = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:4])
    if dy is None:
        dx, dweight, dbias, dstate = (
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip((x, weight, bias, initial_state), needs, strict=True)
        )
    else:
        backward = torch.ops.hyena_kernels.short_conv_bwd
        grads = backward(dy, x, weight, bias, initial_state, ctx.silu, needs, ctx.backend)
        dx, dweight, dbias, dstate = (grad if needed else None for grad, needed in zip(grads, needs, strict=True))
    if dfinal is not None:
        length, before = x.shape[2], weight.shape[1] - 1
        kept = min(length, before)
        if dx is not None:
            dx.narrow(2, length - kept, kept).add_(dfinal.narrow(2, before - kept, kept))
        if dstate is not None and kept < before:
            dstate.narrow(2, kept, before - kept).add_(dfinal.narrow(2, 0, before - kept))
    return dx, dweight, dbias, dstate, None, None


_short_conv_states_fwd = library.define(
    "short_conv_states_fwd",
    _ARGUMENTS,
    ShortConvInputs,
    _states_fake,
    results=2,
    derivative=(_states_derivative, _states_save),
)

_backend.register("short_conv_update", "torch", torch_short_conv.update)

_short_conv_update, _ = library.define_update(
    "short_conv_update",
    "Tensor x, Tensor(a!) state, Tensor weight, Tensor? bias, bool silu",
    ShortConvUpdate,
    lambda inputs, silu: torch.empty_like(inputs.x, memory_format=torch.contiguous_format),
    writes=("state",),
)


def _is_silu(op: str, activation: Any) -> bool:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation is {activation!r}, expected None or 'silu'")
    return activation is not None


@overload
def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...
@overload
def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution ``y[t] = act(bias + sum_j weight[j] x[t - (K-1) + j])``.

    Before its start ``x`` is ``initial_state``, or zero. ``act`` is the identity, or ``silu(v) = v / (1 + exp(-v))``.
    Accumulates in float32, or in float64 if ``x`` or ``weight`` is float64, and rounds after the activation. Autocast
    casts ``x`` and ``initial_state`` only. Differentiable once in every tensor.

    A sequence in chunks, each with the final state of the one before, gives the result and the gradients of one call.
    The result has the same bits on ``"triton"`` and ``"cpp"``. On ``"torch"`` it has them with at most 8
    taps and no activation.

    Args:
        x: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides and any L ≥ 1.
        weight: ``(D, K)`` with 1 ≤ K ≤ 256, in the tap order of ``torch.nn.Conv1d``; float32 or ``x``'s dtype.
        bias: ``(D,)``; float32 or ``x``'s dtype.
        activation: None or ``"silu"``.
        initial_state: ``(B, D, K-1)``, the samples before ``x``, the oldest first; of ``x``'s dtype.
        return_final_state: whether to return the last K - 1 samples of ``initial_state`` and ``x`` too.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``y (B, D, L)`` of ``x``'s dtype: in ``(B, L, D)`` order of memory if ``x`` has it, else contiguous. With
        ``return_final_state`` it is ``(y, final_state)``, and ``final_state (B, D, K-1)`` is contiguous.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices,
            ``activation`` is another one, or ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here, or not with these arguments.

    Source: the short filter of Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3.
    """
    checks.rank("short_conv", "x", x, "(B, D, L)")
    checks.rank("short_conv", "weight", weight, "(D, K)")
    if x.shape[2] < 1 or not 1 <= weight.shape[1] <= MOST_TAPS or weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"short_conv: x (B, D, L) has shape {tuple(x.shape)} and weight (D, K) {tuple(weight.shape)}: "
            f"both need the same D, L ≥ 1 and 1 ≤ K ≤ {MOST_TAPS}"
        )
    if bias is not None:
        checks.shape("short_conv", "bias", bias, (x.shape[1],), "(D,)")
    silu = activation is not None and _is_silu("short_conv", activation)
    x = library.to_autocast(x)
    if initial_state is None:
        checks.same_device("short_conv", x=x, weight=weight, bias=bias)
    else:
        expected = (x.shape[0], x.shape[1], weight.shape[1] - 1)
        checks.shape("short_conv", "initial_state", initial_state, expected, "(B, D, K-1)")
        checks.same_device("short_conv", x=x, weight=weight, bias=bias, initial_state=initial_state)
        initial_state = library.to_autocast(initial_state)
        checks.dtype("short_conv", "initial_state", initial_state, "x", x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            checks.filter_dtype("short_conv", name, tensor, x)
    op = _short_conv_states_fwd if return_final_state else _short_conv_fwd
    result: Tensor | tuple[Tensor, Tensor] = op(x, weight, bias, initial_state, silu, _backend.requested(backend))
    return result


def short_conv_update(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """One step of :func:`short_conv`: the result for the sample after those of ``state``, which is rolled in place.

    ``state`` loses its oldest sample and gets ``x`` as its newest. For inference: there is no derivative.

    Args:
        x: ``(B, D)`` samples of one position; float16, bfloat16, float32 or float64.
        state: ``(B, D, S)`` with S ≥ K - 1, the samples before ``x``, the oldest first; of ``x``'s dtype. The first
            S - (K-1) are kept and not read.
        weight: ``(D, K)`` with 1 ≤ K ≤ 256, in the tap order of ``torch.nn.Conv1d``; float32 or ``x``'s dtype.
        bias: ``(D,)``; float32 or ``x``'s dtype.
        activation: None or ``"silu"``.
        backend: ``"torch"``. None takes it too.

    Returns:
        ``(B, D)``, contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices,
            ``activation`` is another one, or ``backend`` is not the name of a backend.
        NotImplementedError: a tensor needs a gradient.
        BackendError: ``backend`` cannot run here.

    Source: as for :func:`short_conv`.
    """
    op = "short_conv_update"
    checks.rank(op, "x", x, "(B, D)")
    checks.rank(op, "state", state, "(B, D, S)")
    checks.rank(op, "weight", weight, "(D, K)")
    if (
        state.shape[:2] != x.shape
        or weight.shape[0] != x.shape[1]
        or not 1 <= weight.shape[1] <= min(MOST_TAPS, state.shape[2] + 1)
    ):
        raise ValueError(
            f"{op}: x (B, D) has shape {tuple(x.shape)}, state (B, D, S) {tuple(state.shape)} and weight (D, K) "
            f"{tuple(weight.shape)}: all need the same D, x and state the same B, 1 ≤ K ≤ {MOST_TAPS} and S ≥ K - 1"
        )
    if bias is not None:
        checks.shape(op, "bias", bias, (x.shape[1],), "(D,)")
    checks.same_device(op, x=x, state=state, weight=weight, bias=bias)
    silu = _is_silu(op, activation)
    x = library.to_autocast(x)
    checks.dtype(op, "state", state, "x", x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            checks.filter_dtype(op, name, tensor, x)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, state, weight, bias)):
        raise NotImplementedError(
            f"{op} writes to its state and has no derivative: call it under torch.no_grad(), or short_conv with an "
            "initial_state"
        )
    return _short_conv_update(x, state, weight, bias, silu, _backend.requested(backend, UPDATE_BACKENDS))


# See the end of fftconv.py.
short_conv.short_conv = short_conv  # type: ignore[attr-defined]
short_conv.short_conv_update = short_conv_update  # type: ignore[attr-defined]
