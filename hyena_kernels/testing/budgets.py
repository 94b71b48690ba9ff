"""The error of an op, and the error that it may have."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.embedding import embedding
from hyena_kernels.far_field_conv import far_field_conv
from hyena_kernels.fftconv import fftconv
from hyena_kernels.fftconv_varlen import fftconv_varlen
from hyena_kernels.gelu import gelu
from hyena_kernels.implicit_filter import implicit_filter
from hyena_kernels.layer_norm import add_layer_norm, layer_norm
from hyena_kernels.linear_cross_entropy import linear_cross_entropy
from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.mixer_far import hyena_mixer_far
from hyena_kernels.mixer_step import hyena_mixer_step
from hyena_kernels.mixer_varlen import hyena_mixer_varlen
from hyena_kernels.position_dropout import position_dropout
from hyena_kernels.short_conv import short_conv
from hyena_kernels.testing import long_double
from hyena_kernels.testing.inputs import Inputs
from hyena_kernels.testing.oracles import (
    oracle_far_field_conv,
    oracle_fftconv,
    oracle_fftconv_varlen,
    oracle_hyena_mixer,
    oracle_hyena_mixer_far,
    oracle_hyena_mixer_varlen,
)
from hyena_kernels.testing.references import (
    reference_add_layer_norm,
    reference_embedding,
    reference_far_field_conv,
    reference_fftconv,
    reference_fftconv_varlen,
    reference_gelu,
    reference_hyena_mixer,
    reference_hyena_mixer_far,
    reference_hyena_mixer_step,
    reference_hyena_mixer_varlen,
    reference_implicit_filter,
    reference_layer_norm,
    reference_linear_cross_entropy,
    reference_position_dropout,
    reference_short_conv,
)


@dataclass(frozen=True)
class Op:
    """An op with its reference and its oracle, which is called with float64 inputs."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    exact: Callable[..., Tensor] | None = None
    """An oracle more exact than float64, on platforms that have one."""


def _side_by_side(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """The results of a function along their last dimension, in the widest of their dtypes."""

    @functools.wraps(function)
    def joined(*args: Any, **options: Any) -> Tensor:
        return torch.cat(function(*args, **options), dim=-1)

    return joined


def _without_states(x: Tensor, short_state: Tensor, *args: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``hyena_mixer_step`` on copies of the states, with the results of its reference."""
    short_state, named["u"] = short_state.clone(), named["u"].clone()
    return hyena_mixer_step(x, short_state, *args, **named), short_state, named["u"]


def _of_step(function: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[..., Tensor]:
    """All that a step writes, a row for each batch entry: the result, the short state, and ``u`` at ``t``."""

    @functools.wraps(function)
    def joined(*args: Any, t: Tensor, **named: Any) -> Tensor:
        y, short_state, u = function(*args, t=t, **named)
        return torch.cat([y, short_state.flatten(1), u[..., int(t)].movedim(0, 1).flatten(1)], dim=1)

    return joined


def _of_one_mask(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``position_dropout`` of tensors alone. Other options take the place of these."""

    @functools.wraps(function)
    def masked(x: Tensor, samples: Tensor, **options: Any) -> Tensor:
        return function(x, samples=samples, **{"p": 0.25, "seed": 7} | options)

    return masked


def _short_conv_states(*args: Any, **options: Any) -> tuple[Tensor, ...]:
    return short_conv(*args, return_final_state=True, **options)


OPS = {
    "fftconv": Op(fftconv, reference_fftconv, oracle_fftconv),
    "short_conv": Op(short_conv, reference_short_conv, reference_short_conv),
    "implicit_filter": Op(
        implicit_filter,
        reference_implicit_filter,
        reference_implicit_filter,
        long_double.implicit_filter if long_double.AVAILABLE else None,
    ),
    "hyena_mixer": Op(hyena_mixer, reference_hyena_mixer, oracle_hyena_mixer),
    "far_field_conv": Op(far_field_conv, reference_far_field_conv, oracle_far_field_conv),
    "hyena_mixer_far": Op(hyena_mixer_far, reference_hyena_mixer_far, oracle_hyena_mixer_far),
    "fftconv_varlen": Op(fftconv_varlen, reference_fftconv_varlen, oracle_fftconv_varlen),
    "hyena_mixer_varlen": Op(hyena_mixer_varlen, reference_hyena_mixer_varlen, oracle_hyena_mixer_varlen),
    "hyena_mixer_step": Op(*map(_of_step, (_without_states, *[reference_hyena_mixer_step] * 2))),
    "gelu": Op(gelu, reference_gelu, reference_gelu),
    "layer_norm": Op(layer_norm, reference_layer_norm, reference_layer_norm),
    "add_layer_norm": Op(*map(_side_by_side, (add_layer_norm, reference_add_layer_norm, reference_add_layer_norm))),
    "position_dropout": Op(
        *map(_of_one_mask, (position_dropout, reference_position_dropout, reference_position_dropout))
    ),
    "embedding": Op(embedding, reference_embedding, reference_embedding),
    "linear_cross_entropy": Op(linear_cross_entropy, reference_linear_cross_entropy, reference_linear_cross_entropy),
}
"""Every op by its public name. Those of several results give them side by side."""


def value_and_gradients(
    function: Callable[..., Tensor],
    inputs: Mapping[str, Tensor | None],
    dy: Tensor | None = None,
    *,
    frozen: Collection[str] = (),
    **options: Any,
) -> dict[str, Tensor]:
    """Result of a function of tensors and the gradients of ``sum(dy * result)``.

    Args:
        function: called with ``inputs`` and ``options`` by name.
        inputs: tensors by name. They are neither copied nor changed, and keep their strides.
        dy: gradient of the result, cast to its dtype and broadcast to its shape. None computes no gradients.
        frozen: names of inputs that require no gradient.
        options: further arguments.

    Returns:
        ``"y"``, and ``"d<name>"`` for every input that is present, is not frozen and has a gradient. Integers have
        none.
    """
    leaves = {name: None if tensor is None else tensor.detach() for name, tensor in inputs.items()}
    if dy is None:
        with torch.no_grad():
            return {"y": function(**leaves, **options)}
    for name, leaf in leaves.items():
        if leaf is not None and name not in frozen and leaf.is_floating_point():
            leaf.requires_grad_()
    y = function(**leaves, **options)
    y.backward(dy.to(y.dtype).expand_as(y))
    results = {"y": y.detach()}
    for name, leaf in leaves.items():
        if leaf is not None and leaf.grad is not None:
            results[f"d{name}"] = leaf.grad
    return results


def relative_error(value: Tensor, oracle: Tensor) -> float:
    """``‖value - oracle‖ / ‖oracle‖`` in float64. 0 if both are zero or empty, infinite if only the oracle is."""
    distance = torch.linalg.vector_norm(value.double() - oracle.double()).item()
    scale = torch.linalg.vector_norm(oracle.double()).item()
    return distance / scale if scale else (math.inf if distance else 0.0)


def error_budget(plain: Tensor, oracle: Tensor) -> float:
    """The largest error that an op may have: ``2 × (error of plain PyTorch + one rounding of the dtype)``.

    Args:
        plain: the result of plain PyTorch from the same inputs, in the dtype that the op returns.
        oracle: the result in float64.

    Returns:
        A bound for :func:`relative_error`. One rounding is half the dtype's machine epsilon.
    """
    return 2 * (relative_error(plain, oracle) + torch.finfo(plain.dtype).eps / 2)


def check(
    op: str,
    inputs: Mapping[str, Tensor | None],
    *,
    function: Callable[..., Tensor] | None = None,
    gradients: bool = True,
    frozen: Collection[str] = (),
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Compare the errors of an op with its budgets, for the result and for every gradient.

    A float64 oracle cannot measure the error of plain PyTorch in float64. For float64 inputs the oracle is therefore in
    long double, if the op and the platform have it. Otherwise the budget of a float64 result is the budget of the same
    inputs in float32, scaled by the ratio of the machine epsilons.

    Args:
        op: a name of :data:`OPS`.
        inputs: its tensors by name. The error of a few elements varies by chance, so each result should have some
            hundred elements.
        function: the function to check, by default the op itself.
        gradients: whether gradients are checked.
        frozen: names of inputs that require no gradient.
        options: further arguments of the op, such as ``causal``.

    Returns:
        (error, budget) of ``"y"`` and of every ``"d<name>"``.

    Raises:
        AssertionError: an error exceeds its budget, or a result differs from plain PyTorch in shape, dtype or presence.
            The message lists every fault.
    """
    known = OPS[op]
    dy = _output_gradient(known, inputs, options) if gradients else None

    def evaluate(each: Callable[..., Tensor], arguments: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        return value_and_gradients(each, arguments, dy, frozen=frozen, **options)

    ours = evaluate(function or known.function, inputs)
    float64 = any(value.dtype == torch.float64 for value in ours.values())
    exact = known.exact if float64 else None
    plain, oracle = evaluate(known.reference, inputs), evaluate(exact or known.oracle, _cast(inputs, torch.float64))
    # Plain PyTorch gives no gradient to an empty tensor, such as the weights of no hidden layers.
    ours = {name: value for name, value in ours.items() if name in plain or value.numel()}
    if ours.keys() != plain.keys():
        raise AssertionError(f"{op} gives {sorted(ours)}, plain PyTorch {sorted(plain)}")
    budgets = {name: error_budget(plain[name], oracle[name]) for name in ours}
    if float64 and exact is None:
        narrow = _cast(inputs, torch.float32)
        narrow_plain = evaluate(known.reference, narrow)
        narrow_oracle = evaluate(known.oracle, _cast(narrow, torch.float64))
        ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        for name, value in ours.items():
            if value.dtype == torch.float64:
                budgets[name] = error_budget(narrow_plain[name], narrow_oracle[name]) * ratio

    figures, faults = {}, []
    for name, value in ours.items():
        if value.shape != plain[name].shape or value.dtype != plain[name].dtype:
            faults.append(f"{name} is {_kind(value)}, expected {_kind(plain[name])}")
            continue
        figures[name] = relative_error(value, oracle[name]), budgets[name]
        # Written so that a NaN fails.
        if not figures[name][0] <= figures[name][1]:
            faults.append("{} has the relative error {:.3g}, above its budget of {:.3g}".format(name, *figures[name]))
    if faults:
        raise AssertionError(f"{op} on {', '.join(_given(inputs))}: " + "; ".join(faults))
    return figures


def _output_gradient(op: Op, inputs: Mapping[str, Tensor | None], options: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        y = op.reference(**inputs, **options)
    values = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # Rounded to the dtype of the result, so that every evaluation gets the same numbers.
    return values.float().to(device=y.device, dtype=y.dtype)


def _cast(inputs: Mapping[str, Tensor | None], dtype: torch.dtype) -> Inputs:
    """The inputs with another dtype. Integers keep theirs."""
    return {
        name: tensor if tensor is None or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in inputs.items()
    }


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _given(inputs: Mapping[str, Tensor | None]) -> Iterable[str]:
    return (f"{name} {_kind(tensor)}" for name, tensor in inputs.items() if tensor is not None)
