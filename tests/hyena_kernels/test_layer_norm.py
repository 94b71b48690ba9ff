"""``layer_norm`` and ``add_layer_norm`` against ``torch.nn.LayerNorm`` and float64."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels import add_layer_norm, backend as _backend, layer_norm, use_backend
from hyena_kernels.testing import (
    OPS,
    add_layer_norm_inputs,
    check,
    layer_norm_inputs,
    reference_add_layer_norm,
    value_and_gradients,
)
from tests.hyena_kernels.helpers import assert_refused, assert_same

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("layer_norm")]

FP16, BF16, FP32, FP64 = DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize("width", [1, 2, 7, 16, 97, 128, 256, 1000, 5000])
def test_error_is_within_budget(width: int) -> None:
    rows = max(3, 500 // width)
    check("layer_norm", layer_norm_inputs(rows, width))
    check("add_layer_norm", add_layer_norm_inputs(rows, width))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("x_dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    # A result of float64 has a budget of float64, so what it is made from must have it too.
    wide = FP64 in (dtype, x_dtype)
    for weight_dtype, result in ((FP64, None),) if wide else ((None, None), (BF16, None), (FP32, FP16)):
        inputs = add_layer_norm_inputs(21, 40, dtype=dtype, x_dtype=x_dtype, weight_dtype=weight_dtype)
        check("add_layer_norm", inputs, dtype=result)
        if dtype == x_dtype:
            del inputs["x"]
            check("layer_norm", inputs, dtype=result)


@pytest.mark.parametrize("which", [0, 1], ids=["norm", "sum"])
def test_one_result_alone(which: int) -> None:
    """The other result has no gradient then, and the op gives each tensor the same as plain PyTorch."""
    inputs = add_layer_norm_inputs(2, 30, 16, x_dtype=BF16)
    dy = torch.randn(2, 30, 16)
    ours = value_and_gradients(lambda **tensors: add_layer_norm(**tensors)[which], inputs, dy)
    plain = value_and_gradients(lambda **tensors: reference_add_layer_norm(**tensors)[which], inputs, dy)
    assert (
        ours.keys()
        == plain.keys()
        == ({"y", "dx", "dresidual", "dweight", "dbias"} if which == 0 else {"y", "dx", "dresidual"})
    )
    for name, value in ours.items():
        assert value.dtype == plain[name].dtype
        torch.testing.assert_close(value, plain[name], rtol=1.6e-2 if value.dtype == BF16 else 1e-5, atol=1e-5)
    if which == 1:
        assert_same(ours, plain)


@pytest.mark.parametrize("width", [16, 300])
def test_variance_is_that_of_deviations(width: int) -> None:
    """Means of rows are 1000 times their deviations: the mean of the squares has no digit left for the variance."""
    inputs: Any = layer_norm_inputs(100, width)
    inputs["residual"] += 1000
    check("layer_norm", inputs)


def test_by_hand() -> None:
    one, zero = torch.ones(2), torch.zeros(2)
    y = layer_norm(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), 2 * one, zero + 0.5, eps=0.0)
    assert y[0].tolist() == [-1.5, 2.5]
    # A row without deviations has none to divide by.
    assert y[1].isnan().all()
    assert layer_norm(torch.tensor([5.0, 5.0]), one, zero + 0.5).tolist() == [0.5, 0.5]
    y, total = add_layer_norm(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 1.0]]), one, zero, eps=3.0)
    assert total.tolist() == [[3.0, 5.0]]
    assert y.tolist() == [[-0.5, 0.5]]


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_the_norm_is_that_of_the_sum_as_it_is_returned(dtype: torch.dtype) -> None:
    inputs = add_layer_norm_inputs(50, 24, dtype=dtype)
    y, total = add_layer_norm(**inputs)
    assert total.dtype == dtype
    assert torch.equal(total, inputs["residual"] + inputs["x"])
    assert torch.equal(y, layer_norm(total, inputs["weight"], inputs["bias"]))


def test_dtype_of_the_result() -> None:
    wide, weight = torch.randn(3, 8), torch.randn(8)

    def made(residual: Tensor, weight: Tensor, **options: Any) -> tuple[torch.dtype, ...]:
        y, total = add_layer_norm(residual, residual, weight, weight, **options)
        assert layer_norm(residual, weight, weight, **options).dtype == y.dtype
        return y.dtype, total.dtype

    assert made(wide, weight) == (FP32, FP32)
    assert made(wide, weight.bfloat16()) == (BF16, FP32)
    assert made(wide, weight, dtype=FP16) == (FP16, FP32)
    assert made(wide.half(), weight) == (FP32, FP16)
    assert made(wide.double(), weight) == (FP32, FP64)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(wide, weight) == (BF16, FP32)
        assert made(wide, weight, dtype=FP32) == (FP32, FP32)
        assert made(wide.double(), weight.double()) == (FP64, FP64)


def test_autocast_changes_the_dtype_of_the_result_and_nothing_else() -> None:
    inputs = add_layer_norm_inputs(40, 24, x_dtype=BF16)
    dy = torch.randn(40, 48)
    with torch.autocast("cpu", torch.bfloat16):
        results = value_and_gradients(OPS["add_layer_norm"].function, inputs, dy)
    assert_same(results, value_and_gradients(OPS["add_layer_norm"].function, inputs, dy, dtype=BF16))


def test_gradients_of_both_summands_are_one_tensor_in_one_dtype() -> None:
    """The narrow one is a rounded copy of the wide one, and where there is nothing to round it is no copy."""
    seen: list[tuple[Tensor | None, ...]] = []
    for x_dtype in (FP32, BF16):
        leaves = [tensor.requires_grad_() for tensor in add_layer_norm_inputs(20, 16, x_dtype=x_dtype).values()]
        y, total = add_layer_norm(*leaves)
        node = y.grad_fn
        node.register_hook(lambda grads, _: seen.append(grads))
        torch.autograd.grad([y, total], leaves, [torch.randn(20, 16), torch.randn(20, 16)])
    (same, wide, *_), (narrow, other, *_) = seen
    assert same.data_ptr() == wide.data_ptr()
    assert torch.equal(narrow, other.bfloat16())


def test_saves_the_sum_and_no_summand() -> None:
    x, residual, weight, bias = (t.requires_grad_() for t in add_layer_norm_inputs(20, 16, x_dtype=BF16).values())
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        _, total = add_layer_norm(x, residual, weight, bias)
    assert {tensor.data_ptr() for tensor in saved} == {tensor.data_ptr() for tensor in (total, weight, bias)}


def test_in_a_block_it_replaces_sum_norm_and_casts() -> None:
    """Two layers with their residual give what they give with ``torch.nn.LayerNorm``, and the same gradients."""
    torch.manual_seed(0)
    norms = [torch.nn.LayerNorm(16) for _ in range(2)]
    first, second = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
    parameters = [p for module in (*norms, first, second) for p in module.parameters()]
    residual = torch.randn(2, 50, 16, requires_grad=True)

    def fused() -> Tensor:
        u = layer_norm(residual, norms[0].weight, norms[0].bias, norms[0].eps)
        h, total = add_layer_norm(first(u), residual, norms[1].weight, norms[1].bias, norms[1].eps)
        return total + second(h)

    def plain() -> Tensor:
        total = residual + first(norms[0](residual))
        return total + second(norms[1](total))

    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            results = [
                (y := block(), *torch.autograd.grad(y.sum(), [residual, *parameters])) for block in (fused, plain)
            ]
        rounding = 0.05 if context._enabled else 1e-5
        for value, expected in zip(*results, strict=True):
            assert value.dtype == expected.dtype
            assert (value - expected).norm() <= rounding * expected.norm()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_with_a_changing_length_and_one_result_unused() -> None:
    compiled = torch.compile(lambda **tensors: add_layer_norm(**tensors)[0], backend="aot_eager", fullgraph=True)
    for length in (5, 9, 12):
        inputs = add_layer_norm_inputs(2, length, 16, x_dtype=BF16)
        dy = torch.randn(2, length, 16)
        expected = value_and_gradients(lambda **tensors: add_layer_norm(**tensors)[0], inputs, dy)
        results = value_and_gradients(compiled, inputs, dy)
        assert results.keys() == expected.keys()
        for name, value in results.items():
            torch.testing.assert_close(value, expected[name])


X, W = torch.zeros(2, 5, 8), torch.zeros(8)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no dimension": ({"residual": X[0, 0, 0]}, ValueError, "residual has shape (), expected (…, D)"),
    "D of 0": ({"residual": X[..., :0]}, ValueError, "residual (…, D) has shape (2, 5, 0): expected D ≥ 1"),
    "residual integer": ({"residual": X.int()}, TypeError, "residual (2, 5, 8) has dtype torch.int32"),
    "weight shape": ({"weight": W[:7]}, ValueError, "weight has shape (7,), expected (D,) = (8,)"),
    "weight None": ({"weight": None}, TypeError, "weight must be a tensor of shape (D,), got NoneType"),
    "bias shape": ({"bias": W[None]}, ValueError, "bias has shape (1, 8), expected (D,)"),
    "x shape": ({"x": X[:1]}, ValueError, "add_layer_norm: x has shape (1, 5, 8), expected (…, D) = (2, 5, 8)"),
    "x rank": ({"x": X[0]}, ValueError, "add_layer_norm: x has shape (5, 8), expected (…, D) = (2, 5, 8)"),
    "device": ({"weight": W.to("meta")}, ValueError, "residual (2, 5, 8) on cpu, "),
    "dtype": ({"dtype": torch.int8}, TypeError, "dtype is torch.int8, expected float16, bfloat16, float32 or float64"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"residual": X, "weight": W, "bias": W, **change}
    if "x" not in change:
        assert_refused(layer_norm, error, message, **arguments)
    assert_refused(add_layer_norm, error, message, **{"x": torch.zeros(2, 5, 8), **arguments})


@pytest.mark.usefixtures("unforced")
def test_no_version_in_cuda_is_missed(caplog: pytest.LogCaptureFixture) -> None:
    """There is none, and none is needed. Nobody is warned of it."""
    reasons = _backend._reasons("layer_norm_fwd", "cuda", torch.device("cpu"))
    assert "has no implementation for it" in reasons
    with caplog.at_level(logging.INFO, "hyena_kernels"), use_backend(None):
        layer_norm(X, W, W)
    assert [record.levelname for record in caplog.records if "layer_norm_fwd" in record.getMessage()] == ["INFO"]


def test_reference_is_torch_layer_norm() -> None:
    inputs: Any = layer_norm_inputs(20, 16)
    y = layer_norm(inputs["residual"], inputs["weight"], inputs["bias"], 0.25)
    torch.testing.assert_close(y, F.layer_norm(inputs["residual"], (16,), inputs["weight"], inputs["bias"], 0.25))
