"""bench.suite.accuracy: errors are seen in the checked channels, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.suite import accuracy
from hyena_kernels.testing import (
    fftconv_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    short_conv_inputs,
    value_and_gradients,
)

INPUTS = {
    "fftconv": lambda: fftconv_inputs(2, 40, 50, 30),
    "short_conv": lambda: short_conv_inputs(2, 40, 50),
    "hyena_mixer": lambda: hyena_mixer_inputs(2, 50, 40, order=3),
    "implicit_filter": lambda: implicit_filter_inputs(40, 50),
}
RESULTS = {
    "fftconv": {"y", "du", "dk", "dD", "dpre_gate", "dpost_gate"},
    "short_conv": {"y", "dx", "dweight", "dbias"},
    "hyena_mixer": {"y", "dx", "dshort_weight", "dshort_bias", "dk", "dD"},
    "implicit_filter": {"y", "dw_out", "ddeltas"},
}


@pytest.mark.parametrize("op", INPUTS)
def test_errors_of_all_channels_are_within_budget(op: str) -> None:
    inputs = INPUTS[op]()
    dy = torch.randn(value_and_gradients(accuracy.OPS[op].function, inputs)["y"].shape)
    errors = accuracy.errors_on_channels(op, inputs, dy, range(40))
    assert errors.keys() == RESULTS[op]
    assert not accuracy.faults(errors)


@pytest.mark.parametrize("op", INPUTS)
def test_an_error_in_a_watched_channel_is_seen_and_no_other(op: str) -> None:
    inputs = INPUTS[op]()
    dy = torch.randn(value_and_gradients(accuracy.OPS[op].function, inputs)["y"].shape)
    axis = accuracy._AXES[op]["y"]

    def wrong(**tensors: Any) -> torch.Tensor:
        y = accuracy.OPS[op].function(**tensors)
        factors = torch.ones(40)
        factors[7] = 1.01
        return y * factors.view([-1 if dimension == axis else 1 for dimension in range(y.dim())])

    seen = accuracy.faults(accuracy.errors_on_channels(op, inputs, dy, [1, 7], wrong))
    assert any(fault.startswith("y has the relative error") for fault in seen)
    assert len(seen) >= 2, "only the result, and no gradient"
    assert not accuracy.faults(accuracy.errors_on_channels(op, inputs, dy, [0, 6, 8, 39], wrong))


def test_a_nan_is_a_fault() -> None:
    assert accuracy.faults({"y": (float("nan"), 1.0)})
    assert accuracy.faults({"y": (1e-3, float("nan"))})
    assert not accuracy.faults({"y": (1e-3, 1e-2)})
