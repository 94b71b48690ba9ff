"""``gelu`` against its definition, PyTorch and float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hyena_kernels import gelu
from hyena_kernels.testing import check, gelu_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_refused, assert_threads_do_not_matter

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("gelu")]


@pytest.mark.parametrize("shape", [(1024,), (7, 127), (3, 5, 67), (1000, 1024)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_error_is_within_budget(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check("gelu", gelu_inputs(*shape, dtype=dtype))


@pytest.mark.parametrize("scale", [1e-6, 0.1, 30.0, 1e4])
def test_small_and_large_arguments(scale: float) -> None:
    check("gelu", gelu_inputs(4096, scale=scale))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 15, 16, 17, 511, 512, 513])
def test_every_element_of_any_length(length: int) -> None:
    x = torch.linspace(-5, 5, length, dtype=torch.float64, requires_grad=True)
    dy = torch.linspace(1, 2, length, dtype=torch.float64)
    found = value_and_gradients(gelu, {"x": x}, dy)
    expected = value_and_gradients(lambda x: F.gelu(x, approximate="tanh"), {"x": x}, dy)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-13, atol=1e-15)


def test_by_hand() -> None:
    tanh = math.tanh(math.sqrt(2 / math.pi) * 1.044715)
    expected = torch.tensor([-0.5 * (1 - tanh), 0.0, 0.5 * (1 + tanh)], dtype=torch.float64)
    torch.testing.assert_close(gelu(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)), expected, rtol=1e-14, atol=0)


def test_limits() -> None:
    x = torch.tensor([-1e30, -100.0, -0.0, 100.0, 1e30, math.inf, math.nan])
    assert gelu(x)[:6].tolist() == [0.0, 0.0, 0.0, 100.0, float(x[4]), math.inf]
    assert gelu(x)[6].isnan()
    inputs = {"x": torch.tensor([-100.0, -20.0, 20.0, 100.0])}
    assert value_and_gradients(gelu, inputs, torch.ones(4))["dx"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_strides() -> None:
    x = torch.randn(6, 10, 8)
    for view in (x.transpose(0, 2), x[::2, 1:, ::3], x[:, :1].expand(6, 10, 8)):
        assert torch.equal(gelu(view), gelu(view.contiguous()))
        assert gelu(view).is_contiguous()


def test_nan_stays_in_its_element() -> None:
    x, dy = torch.randn(1000), torch.randn(1000)
    clean = value_and_gradients(gelu, {"x": x}, dy)
    x[300] = math.nan
    for name, value in value_and_gradients(gelu, {"x": x}, dy).items():
        assert value.isnan().nonzero().flatten().tolist() == [300]
        assert torch.equal(value.nan_to_num(), torch.where(x.isnan(), 0.0, clean[name]))


def test_threads_do_not_matter() -> None:
    assert_threads_do_not_matter(gelu, {"x": torch.randn(3, 65_536)}, torch.randn(3, 65_536))


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no tensor": ({"x": 1.0}, TypeError, "gelu: x must be a tensor of shape (…), got float"),
    "integers": ({"x": torch.arange(3)}, TypeError, "gelu: x (3,) has dtype torch.int64"),
    "backend": ({"x": torch.zeros(3), "backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(gelu, error, message, **arguments)
