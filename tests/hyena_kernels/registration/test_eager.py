"""Calls that bypass torch's dispatcher, and calls that must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hyena_kernels import fftconv, short_conv, use_backend
from hyena_kernels.registration import eager
from hyena_kernels.testing import short_conv_inputs


@pytest.fixture(autouse=True)
def torch_backend() -> Iterator[None]:
    with use_backend("torch"):
        yield


class Seen(TorchDispatchMode):
    """Records the names of the ops that the dispatcher calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


class WithFunction(Tensor):
    """A subclass whose tensors have no dispatch key for it."""


class Function(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def negative() -> Tensor:
    """A view with the negative bit: the values in memory have the other sign."""
    tensor = torch.randn(2, 3, 8, dtype=torch.complex64).conj().imag
    assert tensor.is_neg()
    return tensor


@pytest.mark.parametrize("tensor", [torch.randn(3), torch.nn.Parameter(torch.randn(3)), torch.randn(3).double().t()])
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_plain(tensor: Tensor, mode: type[AbstractContextManager[Any]]) -> None:
    with mode():
        assert eager.plain((tensor, None, True, 0.5, [True], "auto", torch.ones(2)))
    with torch.autocast("cpu"):
        assert eager.plain((tensor,))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, device="meta"),
        FakeTensorMode().from_tensor(torch.randn(3)),
        torch.randn(3).as_subclass(WithFunction),
        negative(),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch._efficientzerotensor(3),
        torch.eye(3).to_sparse(),
    ],
    ids=["meta", "fake", "subclass", "negative", "conjugate", "zero", "sparse"],
)
def test_tensors_that_the_dispatcher_has_to_see(tensor: Tensor) -> None:
    assert not eager.plain((torch.ones(3), tensor))


@pytest.mark.parametrize("mode", [Seen, FakeTensorMode, Function, torch.profiler.profile])
def test_modes_that_the_dispatcher_has_to_see(mode: type[AbstractContextManager[Any]]) -> None:
    with mode():
        assert not eager.plain((1,))
    assert eager.plain((1,))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_transforms_that_the_dispatcher_has_to_see() -> None:
    found = []

    def function(x: Tensor) -> Tensor:
        found.append(eager.plain((x,)) or eager.plain((1,)))
        return x.sum()

    torch.func.grad(function)(torch.ones(2))
    torch.func.vmap(function)(torch.ones(2, 2))
    torch.jit.trace(function, torch.ones(2), check_trace=False)
    assert found == [False] * 3


def gradients(inputs: dict[str, Any]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs.values()]
    y = short_conv(*leaves)
    return [y, *torch.autograd.grad(y, leaves, torch.ones_like(y))]


def test_both_ways_give_the_same_bits() -> None:
    inputs = short_conv_inputs(2, 3, 20)
    plain = gradients(inputs)
    with Seen() as seen:
        dispatched = gradients(inputs)
    assert {"hyena_kernels::short_conv_fwd", "hyena_kernels::short_conv_bwd"} <= set(seen.names)
    for value, expected in zip(plain, dispatched, strict=True):
        assert torch.equal(value, expected)
        assert value.requires_grad == expected.requires_grad


def test_without_what_it_asks_torch_every_call_is_dispatched(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradients(short_conv_inputs(2, 3, 20))
    monkeypatch.setattr(eager, "AVAILABLE", False)
    assert not eager.plain((torch.ones(3),))
    for value, other in zip(gradients(short_conv_inputs(2, 3, 20)), expected, strict=True):
        assert torch.equal(value, other)


def test_the_node_of_a_result_has_the_name_of_its_op() -> None:
    y = short_conv(torch.randn(1, 2, 8, requires_grad=True), torch.randn(2, 3))
    assert "short_conv_fwd" in y.grad_fn.name()


def test_values_of_a_negative_view_are_not_those_in_memory() -> None:
    u, k = negative(), torch.randn(3, 8)
    torch.testing.assert_close(fftconv(u, k), fftconv(u.clone(), k))
    leaf = torch.randn(2, 3, 8, requires_grad=True)
    grads = [torch.autograd.grad(fftconv(leaf, k), leaf, dy)[0] for dy in (u, u.clone())]
    torch.testing.assert_close(*grads)


def test_a_profiler_sees_the_ops() -> None:
    inputs = short_conv_inputs(2, 3, 20)
    with torch.profiler.profile() as profiler:
        gradients(inputs)
    names = {event.key for event in profiler.key_averages()}
    assert {"hyena_kernels::short_conv_fwd", "hyena_kernels::short_conv_bwd"} <= names


def test_a_subclass_stays_one() -> None:
    inputs = short_conv_inputs(2, 3, 20)
    y = short_conv(inputs["x"].as_subclass(WithFunction), inputs["weight"])
    assert type(y) is WithFunction


def test_nothing_is_recorded_below_autograd() -> None:
    inputs = {name: tensor.requires_grad_() for name, tensor in short_conv_inputs(2, 3, 20).items()}
    assert short_conv(**inputs).requires_grad
    with torch._C._AutoDispatchBelowAutograd():
        assert not short_conv(**inputs).requires_grad
    with torch.inference_mode():
        assert short_conv(**inputs).is_inference()
