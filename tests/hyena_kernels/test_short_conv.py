"""``short_conv`` against its definition, ``torch.nn.Conv1d`` and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hyena_kernels import short_conv
from hyena_kernels.testing import check, short_conv_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_products_need_not_fit, assert_refused

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("short_conv")]


@pytest.mark.parametrize(("length", "batch"), [(1, 64), (2, 64), (3, 64), (7, 32), (64, 8), (1000, 2), (4097, 1)])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 8])
def test_error_is_within_budget(length: int, batch: int, taps: int) -> None:
    check("short_conv", short_conv_inputs(batch, 32, length, taps))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype, bias: bool) -> None:
    for filter_dtype in {dtype, torch.float32}:
        check("short_conv", short_conv_inputs(2, 64, 100, dtype=dtype, filter_dtype=filter_dtype, bias=bias))


@pytest.mark.parametrize("length", [1, 2, 5, 20])
@pytest.mark.parametrize("taps", [1, 3, 8])
def test_takes_the_weights_of_conv1d(length: int, taps: int) -> None:
    conv = nn.Conv1d(6, 6, taps, padding=taps - 1, groups=6, dtype=torch.float64)
    x = torch.randn(2, 6, length, dtype=torch.float64)
    torch.testing.assert_close(
        short_conv(x, conv.weight[:, 0], conv.bias), conv(x)[..., :length], rtol=1e-13, atol=1e-14
    )


def test_is_the_convolution_of_numpy_with_taps_reversed() -> None:
    x, weight = torch.randn(1, 1, 30, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    expected = np.convolve(x[0, 0], weight[0].flip(0))[:30]
    np.testing.assert_allclose(short_conv(x, weight)[0, 0], expected, rtol=0, atol=1e-14)


def test_by_hand() -> None:
    x, weight = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[100.0, 10.0, 1.0]])
    assert short_conv(x, weight).tolist() == [[[1.0, 12.0, 123.0]]]
    assert short_conv(x, weight, torch.tensor([0.5])).tolist() == [[[1.5, 12.5, 123.5]]]


def test_nan_stays_in_its_row_and_behind_its_position() -> None:
    inputs = short_conv_inputs(3, 5, 50)
    dy = torch.randn(3, 5, 50)
    clean = value_and_gradients(short_conv, inputs, dy)
    inputs["x"][1, 2, 20] = float("nan")
    results = value_and_gradients(short_conv, inputs, dy)
    expected = torch.zeros(3, 5, 50, dtype=torch.bool)
    expected[1, 2, 20:23] = True
    assert torch.equal(results["y"].isnan(), expected)
    assert torch.equal(results["dx"], clean["dx"])
    assert torch.equal(results["dweight"].isnan().any(dim=1).nonzero(), torch.tensor([[2]]))
    assert torch.equal(results["dbias"], clean["dbias"])


X, W = torch.zeros(2, 3, 8), torch.zeros(3, 3)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x rank": ({"x": X[0]}, ValueError, "short_conv: x has shape (3, 8), expected (B, D, L)"),
    "weight rank": ({"weight": W[:, None]}, ValueError, "short_conv: weight has shape (3, 1, 3), expected (D, K)"),
    "channels": ({"weight": W[:2]}, ValueError, "x (B, D, L) has shape (2, 3, 8) and weight (D, K) (2, 3)"),
    "K of 257": (
        {"weight": torch.zeros(3, 257)},
        ValueError,
        "weight (D, K) (3, 257): both need the same D, L ≥ 1 and 1 ≤ K ≤ 256",
    ),
    "K of 0": ({"weight": W[:, :0]}, ValueError, "weight (D, K) (3, 0)"),
    "L of 0": ({"x": X[..., :0]}, ValueError, "has shape (2, 3, 0)"),
    "bias shape": ({"bias": torch.zeros(2)}, ValueError, "short_conv: bias has shape (2,), expected (D,) = (3,)"),
    "bias number": ({"bias": 0.0}, TypeError, "short_conv: bias must be a tensor of shape (D,), got float"),
    "x integer": ({"x": X.int()}, TypeError, "short_conv: x (2, 3, 8) has dtype torch.int32"),
    "weight dtype": ({"weight": W.bfloat16()}, TypeError, "short_conv: weight (3, 3) has dtype torch.bfloat16"),
    "bias dtype": ({"bias": torch.zeros(3).double()}, TypeError, "short_conv: bias (3,) has dtype torch.float64"),
    "device": ({"weight": W.to("meta")}, ValueError, "got x (2, 3, 8) on cpu, weight (3, 3) on meta"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
    "activation": (
        {"activation": "gelu"},
        ValueError,
        "short_conv: activation is 'gelu', expected None or 'silu'",
    ),
    "state shape": (
        {"initial_state": torch.zeros(2, 3, 3)},
        ValueError,
        "short_conv: initial_state has shape (2, 3, 3), expected (B, D, K-1) = (2, 3, 2)",
    ),
    "state dtype": (
        {"initial_state": torch.zeros(2, 3, 2).half()},
        TypeError,
        "short_conv: initial_state (2, 3, 2) has dtype torch.float16, expected that of x: torch.float32",
    ),
    "state device": (
        {"initial_state": torch.zeros(2, 3, 2, device="meta")},
        ValueError,
        "initial_state (2, 3, 2) on meta",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(short_conv, error, message, **{"x": X, "weight": W, **change})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_need_not_fit_the_dtype(dtype: torch.dtype) -> None:
    assert_products_need_not_fit("short_conv", dtype)
