"""cuDNN's two convolutions against the sums of its documentation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from hyena_kernels.compat.cudnn import causal_conv1d, fft_causal_conv1d
from tests.hyena_kernels.compat.helpers import assert_means, assert_rounds_once, normal
from tests.hyena_kernels.helpers import assert_refused


def newest_first(x: Tensor, weight: Tensor) -> Tensor:
    """``y[t] = sum(x[t - j] * weight[j])``, with x zero outside."""
    y = torch.zeros_like(x)
    for j in range(min(weight.shape[1], x.shape[2])):
        y = y + weight[:, j, None] * torch.nn.functional.pad(x, (j, 0))[..., : x.shape[2]]
    return y


def oldest_first(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity") -> Tensor:
    y = newest_first(x, weight.flip(1)) + (0 if bias is None else bias[:, None])
    return silu(y) if activation == "silu" else y


@pytest.mark.parametrize("taps", [1, 5, 9, 14])
def test_the_first_tap_of_the_long_one_weights_the_present_sample(taps: int) -> None:
    assert_means(fft_causal_conv1d, newest_first, {"x": normal(2, 3, 9), "weight": normal(3, taps)})


@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("taps", [1, 4, 20])
def test_the_first_tap_of_the_short_one_weights_the_oldest_sample(taps: int, activation: str) -> None:
    inputs = {"x": normal(2, 3, 9), "weight": normal(3, taps), "bias": normal(3)}
    assert_means(causal_conv1d, oldest_first, inputs, activation=activation)
    assert_means(causal_conv1d, oldest_first, {"x": inputs["x"], "weight": inputs["weight"]})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounds_once_and_ignores_autocast(dtype: torch.dtype) -> None:
    inputs: dict[str, Any] = {"x": normal(2, 3, 40, dtype=dtype), "weight": normal(3, 50, dtype=dtype)}
    with torch.autocast("cpu", torch.bfloat16):
        assert_rounds_once(fft_causal_conv1d, newest_first, inputs)
        assert_rounds_once(causal_conv1d, oldest_first, inputs, activation="silu")
        assert fft_causal_conv1d(**inputs).dtype == causal_conv1d(**inputs).dtype == dtype


def test_refuses_another_activation() -> None:
    arguments = {"x": torch.zeros(1, 2, 4), "weight": torch.zeros(2, 3), "activation": "swish"}
    assert_refused(causal_conv1d, ValueError, "must be 'identity' or 'silu', got 'swish'", **arguments)
