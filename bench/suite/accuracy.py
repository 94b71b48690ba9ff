"""Error of an op against float64 on some of its channels, for sizes at which all of them would not fit in float64.

The op is run on everything, as it is timed. What plain PyTorch and the float64 oracle get are the inputs of a few
channels, which determine the results and the gradients of these channels. The oracle is the reference in float64, with
``torch.fft``: the definition takes L² operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.testing import OPS, error_budget, relative_error, value_and_gradients

MIN_ELEMENTS = 32
"""A result of fewer elements is left out: its error is chance, and so is that of plain PyTorch in its budget."""

# Which axis of each argument, and of the result, belongs to the channels. Gradients of arguments that are not named are
# sums over all channels, and left out.
_AXES = {
    "fftconv": {"u": 1, "k": 0, "D": 0, "pre_gate": 1, "post_gate": 1, "y": 1},
    "short_conv": {"x": 1, "weight": 0, "bias": 0, "y": 1},
    "hyena_mixer": {"x": 2, "short_weight": 0, "short_bias": 0, "k": 1, "D": 1, "y": 2},
    "implicit_filter": {"w_out": 0, "deltas": 0, "y": 0},
}
# Of the mixer's these have all projections, one after the other, on that axis.
_PROJECTED = ("x", "short_weight", "short_bias")


def _argument(result: str) -> str:
    """The argument of which a result is the gradient; ``"y"`` of itself."""
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
        inputs: its tensors by name.
        dy: gradient of the result, of its shape and dtype; None to look at the result alone.
        channels: which channels are looked at.
        function: what is held against the budget, by default the op.
        options: further arguments of ``function`` and, but for ``backend``, of the reference.
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
    """A line for each error that is above its budget, or NaN."""
    return [
        f"{name} has the relative error {error:.3g}, above its budget of {budget:.3g}"
        for name, (error, budget) in errors.items()
        if not error <= budget
    ]
