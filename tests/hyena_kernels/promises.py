"""What ops of ids and of targets guarantee, as ``registration/test_library.py`` has it for the other ops."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hyena_kernels.testing import OPS, Inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_same

Make = Callable[..., Inputs]
"""Small arguments for one length: ``make(length)``, or ``make(length, dtype=...)``."""


def real(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors that have gradients."""
    return {name: tensor for name, tensor in inputs.items() if tensor.is_floating_point()}


def _gradient(op: str, inputs: Inputs, **options: Any) -> Tensor:
    return torch.randn_like(OPS[op].function(**inputs, **options))


def gradients_are_right(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(5, dtype=torch.float64)
    names = list(real(inputs))

    def function(*tensors: Tensor) -> Tensor:
        return OPS[op].function(**inputs | dict(zip(names, tensors, strict=True)), **options)

    assert torch.autograd.gradcheck(function, [inputs[name].requires_grad_() for name in names])


def each_alone_gets_the_same_gradient(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(40)
    dy = _gradient(op, inputs, **options)
    full = value_and_gradients(OPS[op].function, inputs, dy, **options)
    assert full.keys() == {"y", *(f"d{name}" for name in real(inputs))}
    for name in real(inputs):
        frozen = real(inputs).keys() - {name}
        alone = value_and_gradients(OPS[op].function, inputs, dy, frozen=frozen, **options)
        assert_same(alone, {key: full[key] for key in ("y", f"d{name}")})


def one_compilation_serves_every_length(op: str, make: Make, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(OPS[op].function, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for length in (33, 64, 47):
        inputs = make(length)
        dy = _gradient(op, inputs, **options)
        found = value_and_gradients(compiled, inputs, dy, **options)
        assert_same(found, value_and_gradients(OPS[op].function, inputs, dy, **options))
        counts.append(counter.frame_count)
    # A float argument makes dynamo start over once within the first call.
    assert counts[0] in (1, 2)
    assert set(counts) == {counts[0]}


def two_runs_give_the_same_bits_and_leave_the_inputs_alone(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(300)
    dy = _gradient(op, inputs, **options)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    first = value_and_gradients(OPS[op].function, inputs, dy, **options)
    for _ in range(5):
        assert_same(value_and_gradients(OPS[op].function, inputs, dy, **options), first)
    assert_same(inputs, before)


def nothing_but_the_inputs_is_saved(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(64)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        OPS[op].function(**{name: inputs[name].requires_grad_(name in real(inputs)) for name in inputs}, **options)
    assert {tensor.data_ptr() for tensor in saved if tensor.dim()} == {tensor.data_ptr() for tensor in inputs.values()}


def strides_do_not_matter(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(40)
    dy = _gradient(op, inputs, **options)
    expected = value_and_gradients(OPS[op].function, inputs, dy, **options)
    turned = {name: tensor.movedim(0, -1).contiguous().movedim(-1, 0) for name, tensor in inputs.items()}
    spread = {name: tensor.repeat_interleave(2, dim=-1)[..., ::2] for name, tensor in inputs.items()}
    for views in (turned, spread):
        for name, value in value_and_gradients(OPS[op].function, views, dy, **options).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
            assert value.is_contiguous() or name != "y"


def higher_and_forward_derivatives_are_refused(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(6)
    name = next(iter(real(inputs)))

    def function(tensor: Tensor) -> Tensor:
        return OPS[op].function(**inputs | {name: tensor}, **options).sum()

    way_out = re.escape(f"hyena_kernels.testing.reference_{op}")
    leaf = inputs[name].detach().requires_grad_()
    [gradient] = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match=way_out):
        gradient.square().sum().backward()
    with pytest.raises(NotImplementedError, match=f"forward mode.*{way_out}"):
        torch.func.jvp(function, (inputs[name],), (torch.ones_like(inputs[name]),))


def torch_func_gives_the_same(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(6)
    stacks = {name: torch.stack([tensor, tensor.flip(0)], dim=-1) for name, tensor in inputs.items()}
    expected = [OPS[op].function(**{n: stack[..., i] for n, stack in stacks.items()}, **options) for i in range(2)]
    together = torch.vmap(lambda tensors: OPS[op].function(**tensors, **options), in_dims=-1)
    torch.testing.assert_close(together(stacks), torch.stack(expected), rtol=1e-6, atol=1e-6)
    found = torch.func.grad(lambda some: OPS[op].function(**inputs | some, **options).square().sum())(real(inputs))
    plain = value_and_gradients(
        lambda **tensors: OPS[op].function(**tensors, **options).square().sum(), inputs, torch.ones(())
    )
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[f"d{name}"], rtol=1e-6, atol=1e-6)


def meta_tensors_give_shapes(op: str, make: Make, options: dict[str, Any]) -> None:
    inputs = make(20)
    meta = {name: tensor.to("meta") for name, tensor in inputs.items()}
    found = value_and_gradients(OPS[op].function, meta, torch.empty((), device="meta"), **options)
    for name, value in value_and_gradients(OPS[op].function, inputs, torch.zeros(()), **options).items():
        assert (found[name].shape, found[name].dtype, found[name].device.type) == (value.shape, value.dtype, "meta")


PROMISES = (
    gradients_are_right,
    each_alone_gets_the_same_gradient,
    two_runs_give_the_same_bits_and_leave_the_inputs_alone,
    nothing_but_the_inputs_is_saved,
    strides_do_not_matter,
    higher_and_forward_derivatives_are_refused,
    torch_func_gives_the_same,
    meta_tensors_give_shapes,
    pytest.param(one_compilation_serves_every_length, marks=pytest.mark.slow),
)

every_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)


def passes_opcheck(op: str, inputs: Inputs, *options: Any) -> None:
    """Forward and backward, with the flat arguments of the registered ops."""
    forward, backward = (getattr(torch.ops.hyena_kernels, f"{op}_{suffix}").default for suffix in ("fwd", "bwd"))
    tensors = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in inputs.values()]
    torch.library.opcheck(forward, (*tensors, *options, "auto"))
    dy = torch.randn_like(forward(*tensors, *options, "auto").detach())
    tensors = [tensor.detach() for tensor in tensors]
    needs = [tensor.is_floating_point() for tensor in tensors]
    torch.library.opcheck(backward, (dy, *tensors, *options, needs, "auto"))
