"""``torch.compile``, ``torch.func``, autocast and checkpointing over the Triton kernels, interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from hyena_kernels import HyenaOperator, fftconv, use_backend
from hyena_kernels.backends.triton import implicit_filter as filter_kernels, short_conv as short_conv_kernels
from hyena_kernels.testing import fftconv_inputs, value_and_gradients

D_MODEL, L_MAX = 2, 40


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> HyenaOperator:
    """A small operator. Its inputs fit into a tile of every kernel, and the interpreter computes whole tiles."""
    for name in short_conv_kernels.CONFIGS:
        monkeypatch.setitem(short_conv_kernels.CONFIGS, name, (64, 32, 4))
    for width, config in filter_kernels.CONFIGS.items():
        monkeypatch.setitem(filter_kernels.CONFIGS, width, filter_kernels.Config(64, 64, config.warps))
    return HyenaOperator(D_MODEL, L_MAX, filter_order=16, emb_dim=5)


def operator_gradients(function: Callable[[Tensor], Tensor], module: HyenaOperator, length: int) -> dict[str, Tensor]:
    """Result and gradients of ``function``, which calls ``module``, for inputs of ``length``."""
    module.zero_grad()
    u = torch.randn(1, length, D_MODEL, generator=torch.Generator().manual_seed(length))
    results = value_and_gradients(function, {"u": u}, torch.linspace(-1, 1, D_MODEL))
    return results | {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def assert_same(results: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The results are bitwise equal."""
    assert results.keys() == expected.keys()
    for name, value in results.items():
        assert torch.equal(value, expected[name]), name


LENGTHS = (33, 40)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_fftconv_compiles_once_for_all_lengths() -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def function(**tensors: Tensor | None) -> Tensor:
        return 2 * fftconv(**tensors)

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for length in LENGTHS:
        inputs = fftconv_inputs(1, 2, length)
        dy = torch.randn(1, 2, length)
        assert_same(value_and_gradients(compiled, inputs, dy), value_and_gradients(function, inputs, dy))
        assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_the_operator_compiles_once_for_all_lengths(operator: HyenaOperator) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(operator, backend=counter, fullgraph=True, dynamic=True)
    compilations = []
    for length in LENGTHS:
        results = operator_gradients(compiled, operator, length)
        torch.testing.assert_close(results, operator_gradients(operator, operator, length))
        compilations.append(counter.frame_count)
    # A float argument makes dynamo restart once within the first call.
    assert compilations[0] in (1, 2)
    assert compilations[1] == compilations[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["u", "k"])
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
def test_vmap_and_grad_of_torch_func(name: str) -> None:
    inputs = fftconv_inputs(1, 2, 30)

    def loss(tensor: Tensor) -> Tensor:
        return fftconv(**{**inputs, name: tensor}).square().sum()

    points = torch.stack((inputs[name], 2 * inputs[name]))
    expected = []
    for point in points:
        leaf = point.clone().requires_grad_()
        loss(leaf).backward()
        expected.append(leaf.grad)
    assert torch.equal(torch.func.grad(loss)(points[0]), expected[0])
    assert torch.equal(torch.func.vmap(loss)(points), torch.stack([loss(point) for point in points]))
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(points), torch.stack(expected))


def test_autocast_casts_signals_and_no_filters() -> None:
    inputs = fftconv_inputs(1, 2, 30)
    dy = torch.randn(1, 2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        results = value_and_gradients(fftconv, inputs, dy)
    cast = {name: x if name in ("k", "D") else x.bfloat16() for name, x in inputs.items()}
    expected = value_and_gradients(fftconv, cast, dy)
    assert {name: value.dtype for name, value in results.items()} == {
        name: torch.bfloat16 if name == "y" else torch.float32 for name in results
    }
    assert_same(results, {name: value.to(results[name].dtype) for name, value in expected.items()})


@pytest.mark.slow
def test_autocast_of_the_operator_leaves_its_filters_in_float32(operator: HyenaOperator) -> None:
    expected = operator_gradients(operator, operator, L_MAX)
    with torch.autocast("cpu", torch.bfloat16):
        results = operator_gradients(operator, operator, L_MAX)
        k = operator.filter_fn.kernel(L_MAX)
    assert torch.equal(k, operator.filter_fn.kernel(L_MAX))
    assert results["y"].dtype == torch.bfloat16
    assert {value.dtype for name, value in results.items() if name != "y"} == {torch.float32}
    error = torch.linalg.vector_norm(results["y"].float() - expected["y"]) / torch.linalg.vector_norm(expected["y"])
    assert 0 < error <= 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.slow
def test_activation_checkpointing_changes_no_bit(operator: HyenaOperator) -> None:
    def checkpointed(u: Tensor) -> Tensor:
        return checkpoint(operator, u, use_reentrant=False)

    expected = operator_gradients(operator, operator, 20)
    assert_same(operator_gradients(checkpointed, operator, 20), expected)


@pytest.mark.slow
def test_opcheck() -> None:
    tensors = fftconv_inputs(1, 2, 9, 8, post_gate=False).values()
    given = [tensor is not None for tensor in tensors]
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]
    ops: Any = torch.ops.hyena_kernels
    torch.library.opcheck(ops.fftconv_fwd.default, (*leaves, False, "triton"))
    dy = torch.randn(1, 9, 2).transpose(1, 2)
    torch.library.opcheck(ops.fftconv_bwd.default, (dy, *tensors, False, given, "triton"))
