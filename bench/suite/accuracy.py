"""Errors of an op against float64 on some of its channels. At large sizes, not all channels fit in float64.

The op runs on all channels, as it is timed. Plain PyTorch and the float64 oracle only get the inputs of a few channels,
which determine the results and gradients of these channels. The oracle is the reference in float64 with ``torch.fft``,
because the definition takes L² operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.testing import OPS, error_budget, relative_error, value_and_gradients

MIN_ELEMENTS = 32
"""Smaller results are left out: their errors, and the errors in their budgets, are mostly chance."""

# The channel axis of arguments and result. Gradients of other arguments are sums over all channels and left out.
_AXES = {
    "fftconv": {"u": 1, "k": 0, "D": 0, "pre_gate": 1, "post_gate": 1, "y": 1},
    "short_conv": {"x": 1, "weight": 0, "bias": 0, "y": 1},
    "hyena_mixer": {"x": 2, "short_weight": 0, "short_bias": 0, "k": 1, "D": 1, "y": 2},
    "implicit_filter": {"w_out": 0, "deltas": 0, "y": 0},
}
# On their channel axis, these arguments of the mixer have all projections one after another.
_PROJECTED = ("x", "short_weight", "short_bias")


def _argument(result: str) -> str:
    """The argument whose gradient a result is; ``"y"`` for the result itself."""
    return result if result == "y" else result.removeprefix("d")


def errors_on_channels(
    op: str,
    inputs: Mapping[str, Any],
    dy: Tensor | None,
    channels: Sequence[int],
    function: Callable[..., Tensor] | None = None,
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Relative L2 error and budget of ``"y"`` and, with ``dy``, of every ``"d<name>"`` that belongs to a channel.

    Args:
        op: a name of ``hyena_kernels.testing.OPS``.
        inputs: tensors of the op by name.
        dy: gradient of the result, with its shape and dtype; None to check the result only.
        channels: channels to check.
        function: function to check; default the op.
        options: further arguments of ``function`` and, except ``backend``, of the reference.
    """
    known, axes = OPS[op], _AXES[op]
    plain_options = {name: value for name, value in options.items() if name != "backend"}

    def select(name: str, tensor: Any) -> Any:
        if tensor is None or name not in axes:
            return tensor
        wanted = list(channels)
        if op == "hyena_mixer" and name in _PROJECTED:
            width = inputs["k"].shape[1]
            wanted = [part + channel for part in range(0, tensor.shape[axes[name]], width) for channel in channels]
        return tensor.index_select(axes[name], torch.tensor(wanted, device=tensor.device))

    full = value_and_gradients(function or known.function, inputs, dy, **options)
    ours = {name: select(_argument(name), value) for name, value in full.items() if _argument(name) in axes}
    del full
    part = {name: select(name, tensor) for name, tensor in inputs.items()}
    dy = select("y", dy)
    plain = value_and_gradients(known.reference, part, dy, **plain_options)
    wide = {name: None if tensor is None else tensor.double() for name, tensor in part.items()}
    oracle = value_and_gradients(known.reference, wide, dy, **plain_options)
    return {
        name: (relative_error(value, oracle[name]), error_budget(plain[name], oracle[name]))
        for name, value in ours.items()
        if value.numel() >= MIN_ELEMENTS
    }


def faults(errors: Mapping[str, tuple[float, float]]) -> list[str]:
    """One line per error that is NaN or above its budget."""
    return [
        f"{name} has the relative error {error:.3g}, above its budget of {budget:.3g}"
        for name, (error, budget) in errors.items()
        if not error <= budget
    ]
