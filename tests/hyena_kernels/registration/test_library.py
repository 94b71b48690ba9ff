"""What every registered op guarantees: derivatives, compilation, strides, determinism, memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from hyena_kernels.common import sizes
from hyena_kernels.common.inputs import (
    FarFieldConvInputs,
    FarMixerInputs,
    FftconvInputs,
    ImplicitFilterInputs,
    LayerNormInputs,
    MixerInputs,
    ShortConvInputs,
)
from hyena_kernels.registration import library
from hyena_kernels.testing import (
    OPS,
    Inputs,
    add_layer_norm_inputs,
    check,
    far_field_conv_inputs,
    fftconv_inputs,
    gelu_inputs,
    hyena_mixer_far_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    layer_norm_inputs,
    short_conv_inputs,
    value_and_gradients,
)
from tests.hyena_kernels.helpers import assert_same

pytestmark = pytest.mark.usefixtures("each_backend")

Case = tuple[str, Inputs, dict[str, Any]]

INPUTS: dict[str, Callable[..., Inputs]] = {
    "fftconv": lambda length, **options: fftconv_inputs(2, 3, length, **options),
    "short_conv": lambda length, **options: short_conv_inputs(2, 3, length, **options),
    "implicit_filter": lambda length, **options: implicit_filter_inputs(3, length, width=8, **options),
    "hyena_mixer": lambda length, **options: hyena_mixer_inputs(2, length, 3, **options),
    "far_field_conv": lambda length, **options: far_field_conv_inputs(2, 3, length, h=4, p=3, **options),
    "hyena_mixer_far": lambda length, **options: hyena_mixer_far_inputs(2, length, 3, h=4, p=3, **options),
    "gelu": lambda length, **options: gelu_inputs(2, 3, length, **options),
    "layer_norm": lambda length, **options: layer_norm_inputs(2, length, 8, **options),
    "add_layer_norm": lambda length, **options: add_layer_norm_inputs(2, length, 8, **options),
}
"""Small arguments of every op for one length."""

every_op = pytest.mark.parametrize("op", INPUTS)


def tiny_cases() -> dict[str, Case]:
    """Float64 arguments of a few elements: every op with each optional argument present and absent."""
    float64 = {"dtype": torch.float64}
    fftconv, mixer, far, mixer_far = "fftconv", "hyena_mixer", "far_field_conv", "hyena_mixer_far"
    network: dict[str, Any] = {"features": 3, "width": 4, **float64}
    return {
        "fftconv": (fftconv, fftconv_inputs(2, 2, 5, **float64), {}),
        "fftconv two-sided": (fftconv, fftconv_inputs(2, 2, 5, 4, **float64), {"causal": False}),
        "fftconv every lag": (fftconv, fftconv_inputs(2, 2, 5, 9, **float64), {"causal": False}),
        "fftconv short": (fftconv, fftconv_inputs(2, 2, 5, 3, **float64), {}),
        "fftconv L=1": (fftconv, fftconv_inputs(2, 2, 1, **float64), {"causal": False}),
        "fftconv no skip": (fftconv, fftconv_inputs(2, 2, 4, skip=False, **float64), {}),
        "fftconv no pre": (fftconv, fftconv_inputs(2, 2, 4, pre_gate=False, **float64), {}),
        "fftconv no post": (fftconv, fftconv_inputs(2, 2, 4, post_gate=False, **float64), {"causal": False}),
        "fftconv bare": (fftconv, fftconv_inputs(2, 2, 4, skip=False, pre_gate=False, post_gate=False, **float64), {}),
        "short_conv": ("short_conv", short_conv_inputs(2, 2, 5, **float64), {}),
        "short_conv no bias": ("short_conv", short_conv_inputs(2, 2, 5, 2, bias=False, **float64), {}),
        "short_conv K>L": ("short_conv", short_conv_inputs(2, 2, 3, 8, **float64), {}),
        "short_conv K=1": ("short_conv", short_conv_inputs(2, 2, 3, 1, **float64), {}),
        "short_conv K=9": ("short_conv", short_conv_inputs(2, 2, 11, 9, **float64), {"activation": "silu"}),
        "short_conv silu": ("short_conv", short_conv_inputs(2, 2, 5, **float64), {"activation": "silu"}),
        "short_conv state": ("short_conv", short_conv_inputs(2, 2, 5, state=True, **float64), {"activation": "silu"}),
        "short_conv state K>L": ("short_conv", short_conv_inputs(1, 2, 3, 11, state=True, **float64), {}),
        "implicit_filter": ("implicit_filter", implicit_filter_inputs(2, 5, **network), {"shift": 0.05}),
        "implicit_filter no window": ("implicit_filter", implicit_filter_inputs(2, 4, window=False, **network), {}),
        "implicit_filter no hidden": ("implicit_filter", implicit_filter_inputs(2, 4, layers=0, **network), {}),
        "mixer": (mixer, hyena_mixer_inputs(2, 5, 2, **float64), {}),
        "mixer order 3": (mixer, hyena_mixer_inputs(1, 4, 2, order=3, **float64), {}),
        "mixer K<L": (mixer, hyena_mixer_inputs(2, 5, 2, taps=2, short_taps=1, **float64), {}),
        "mixer L<Ks": (mixer, hyena_mixer_inputs(2, 2, 2, short_taps=4, **float64), {}),
        "mixer bare": (mixer, hyena_mixer_inputs(2, 4, 2, bias=False, skip=False, **float64), {}),
        "far": (far, far_field_conv_inputs(1, 2, 7, h=3, p=2, spare=1, **float64), {}),
        "far one block": (
            far,
            far_field_conv_inputs(2, 2, 3, h=4, p=3, skip=False, pre_gate=False, post_gate=False, **float64),
            {},
        ),
        "mixer far": (mixer_far, hyena_mixer_far_inputs(1, 4, 2, order=3, h=3, p=2, spare=1, **float64), {}),
        "mixer far bare": (mixer_far, hyena_mixer_far_inputs(2, 5, 2, h=2, p=2, bias=False, skip=False, **float64), {}),
        "gelu": ("gelu", gelu_inputs(3, 5, **float64), {}),
        "layer_norm": ("layer_norm", layer_norm_inputs(2, 2, 4, **float64), {}),
        "layer_norm D=1": ("layer_norm", layer_norm_inputs(3, 1, **float64), {"eps": 0.1}),
        "add_layer_norm": ("add_layer_norm", add_layer_norm_inputs(2, 2, 4, **float64), {}),
        "add_layer_norm one row": ("add_layer_norm", add_layer_norm_inputs(4, **float64), {"eps": 0.1}),
    }


every_tiny_case = pytest.mark.parametrize("case", tiny_cases().values(), ids=list(tiny_cases()))


def present(inputs: Inputs) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in inputs.items() if tensor is not None}


def run(case: Case, dy: Tensor | None = None, frozen: tuple[str, ...] = ()) -> dict[str, Tensor]:
    op, inputs, options = case
    return value_and_gradients(OPS[op].function, inputs, dy, frozen=frozen, **options)


def output_gradient(case: Case) -> Tensor:
    return torch.randn_like(run(case)["y"])


@every_tiny_case
def test_gradcheck(case: Case) -> None:
    op, inputs, options = case
    names = list(present(inputs))

    def function(*tensors: Tensor) -> Tensor:
        return OPS[op].function(**{**inputs, **dict(zip(names, tensors, strict=True))}, **options)

    leaves = [inputs[name].detach().requires_grad_() for name in names]
    # A second run inside gradcheck compares bit for bit (nondet_tol is 0).
    assert torch.autograd.gradcheck(function, leaves)


@every_tiny_case
def test_each_tensor_alone_gets_the_gradient_that_it_gets_among_others(case: Case) -> None:
    names = present(case[1])
    dy = output_gradient(case)
    full = run(case, dy)
    assert full.keys() == {"y", *(f"d{name}" for name in names)}
    for name in names:
        alone = run(case, dy, frozen=tuple(names.keys() - {name}))
        assert_same(alone, {key: full[key] for key in ("y", f"d{name}")})


def registered(case: Case, suffix: str, **values: Any) -> tuple[Any, tuple[Any, ...]]:
    """The registered op behind a case, and its arguments in the order of its schema.

    ``dy`` among the values is the gradient of the result, whatever the op calls it.
    """
    op, inputs, options = case
    overload = getattr(torch.ops.hyena_kernels, f"{op}_{suffix}").default
    dtype = next(iter(present(inputs).values())).dtype
    known = {
        "causal": True,
        "shift": 0.0,
        "eps": 1e-5,
        "dtype": dtype,
        "initial_state": None,
        "silu": options.get("activation") == "silu",
        **inputs,
        **options,
        **values,
        "backend": "auto",
    }
    known["dk"] = known.get("dy")
    if op == "short_conv" and suffix == "bwd":
        known["needs"] = [*values["needs"], *[False] * (4 - len(values["needs"]))]
    if op == "add_layer_norm" and suffix == "bwd":
        # Backward takes the sum in place of both summands. dy is the gradient of both results, side by side.
        known["dy"], known["dsum"] = values["dy"].chunk(2, dim=-1)
        known["copy"], *known["needs"] = torch.bfloat16 if values["needs"][0] else None, *values["needs"][1:]
    return overload, tuple(known[argument.name] for argument in overload._schema.arguments)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("fftconv", FftconvInputs),
        ("short_conv", ShortConvInputs),
        ("implicit_filter", ImplicitFilterInputs),
        ("hyena_mixer", MixerInputs),
        ("far_field_conv", FarFieldConvInputs),
        ("hyena_mixer_far", FarMixerInputs),
        ("layer_norm", LayerNormInputs),
    ],
)
def test_schemas_have_the_fields_that_backends_take(op: str, inputs: Any) -> None:
    fields = list(inputs._fields)
    for suffix, first in (("fwd", 0), ("bwd", 1)):
        schema = getattr(torch.ops.hyena_kernels, f"{op}_{suffix}").default._schema
        names = [argument.name for argument in schema.arguments]
        assert names[first : first + len(fields)] == fields
        assert names[-1] == "backend"
    # One gradient for each field.
    assert len(schema.returns) == len(fields)
    assert names[-2] == "needs"


@pytest.mark.slow
@every_tiny_case
def test_forward_passes_opcheck(case: Case) -> None:
    overload, arguments = registered(case, "fwd")
    torch.library.opcheck(overload, [a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in arguments])


@pytest.mark.slow
@every_tiny_case
def test_backward_passes_opcheck(case: Case) -> None:
    dy = output_gradient(case)
    given = [tensor is not None for tensor in case[1].values()]
    torch.library.opcheck(*registered(case, "bwd", needs=given, dy=dy))
    # The results that stand for gradients nobody asked for have to be known beforehand too.
    some = [needed and index % 2 == 1 for index, needed in enumerate(given)]
    torch.library.opcheck(*registered(case, "bwd", needs=some, dy=dy), test_utils=("test_schema", "test_faketensor"))


# Every length but the first is new to what was compiled before.
LENGTHS = (33, 64, 100, 47, 256)


@pytest.mark.slow
@every_op
@pytest.mark.usefixtures("fresh_dynamo")
def test_dynamic_compilation_serves_every_length(op: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def function(**tensors: Tensor | None) -> Tensor:
        return 2 * OPS[op].function(**tensors)

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    compilations = []
    for length in LENGTHS:
        inputs = INPUTS[op](length)
        dy = torch.randn_like(function(**inputs))
        assert_same(value_and_gradients(compiled, inputs, dy), value_and_gradients(function, inputs, dy))
        compilations.append(counter.frame_count)
    # A float argument makes dynamo start over once within the first call.
    assert compilations[0] in (1, 2)
    assert set(compilations) == {compilations[0]}


@every_op
@pytest.mark.usefixtures("fresh_dynamo")
def test_default_compilation_stops_at_the_second_length(op: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(OPS[op].function, backend=counter, fullgraph=True)
    compilations = []
    for length in LENGTHS:
        inputs = INPUTS[op](length)
        assert_same(value_and_gradients(compiled, inputs), value_and_gradients(OPS[op].function, inputs))
        compilations.append(counter.frame_count)
    assert set(compilations[1:]) == {2}


def permuted(tensor: Tensor) -> Tensor:
    """The same values with the first dimension's stride the smallest, as channel-last views have."""
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0)


def sliced(tensor: Tensor) -> Tensor:
    """The same values as every other element of a longer tensor, with an offset."""
    larger = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 3), float("nan"), dtype=tensor.dtype)
    view = larger[..., 3::2][..., : tensor.shape[-1]]
    return view.copy_(tensor)


def transposed(tensor: Tensor) -> Tensor:
    """The same values with the last two dimensions swapped in memory."""
    return tensor.transpose(-2, -1).contiguous().transpose(-2, -1) if tensor.dim() > 1 else tensor


def expanded(tensor: Tensor) -> Tensor:
    """The first entry of the first dimension for all of it, with stride 0."""
    return tensor[:1].expand_as(tensor)


def overlapping(tensor: Tensor) -> Tensor:
    """Other values. Neighbours along the first dimension overlap in all but one element."""
    return tensor.as_strided(tensor.shape, (1,) * tensor.dim()) if tensor.dim() > 1 else tensor


WIDE = {"fftconv": fftconv_inputs, "far_field_conv": far_field_conv_inputs}


@every_op
@pytest.mark.parametrize("view", [permuted, transposed, sliced, expanded, overlapping], ids=lambda view: view.__name__)
def test_strides_do_not_matter(op: str, view: Callable[[Tensor], Tensor]) -> None:
    # The gradient of a skip of three channels has an error of chance, and so has its budget.
    made = WIDE[op](2, 40, 100) if op in WIDE else INPUTS[op](100)
    inputs = {name: None if tensor is None else view(tensor) for name, tensor in made.items()}
    assert any(not tensor.is_contiguous() for tensor in present(inputs).values())
    # The result of a channel-last short_conv is channel-last: test_short_conv.py.
    result = (lambda y: y) if op == "short_conv" and view is transposed else contiguous
    check(op, inputs, function=lambda **tensors: result(OPS[op].function(**tensors)))


@every_op
def test_fakes_have_the_strides_of_the_results(op: str) -> None:
    inputs = {name: permuted(tensor) for name, tensor in present(INPUTS[op](16)).items()}
    dy = permuted(torch.randn_like(OPS[op].function(**inputs)))
    for suffix in ("fwd", "bwd"):
        arguments = registered((op, inputs, {}), suffix, needs=[True] * len(inputs), dy=dy)
        torch.library.opcheck(*arguments, test_utils="test_faketensor")


def contiguous(y: Tensor) -> Tensor:
    assert y.is_contiguous()
    return y


@every_op
def test_gradient_of_a_result_may_have_any_strides(op: str) -> None:
    inputs = INPUTS[op](64)
    y = OPS[op].function(**inputs)
    for dy in (torch.ones(()).expand_as(y), permuted(torch.randn_like(y)), sliced(torch.randn_like(y))):
        overload, arguments = registered((op, inputs, {}), "bwd", needs=[True] * len(inputs), dy=dy)
        results = overload(*arguments)
        arguments = tuple(a.contiguous() if isinstance(a, Tensor) else a for a in arguments)
        for result, expected in zip(results, overload(*arguments), strict=True):
            assert result.is_contiguous()
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@every_op
@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force_slices(monkeypatch, 1)
    for length in (1, 2, 37):
        inputs = INPUTS[op](length)
        results = value_and_gradients(OPS[op].function, inputs, torch.randn_like(OPS[op].function(**inputs)))
        for name, value in results.items():
            assert not value.isnan().any(), (length, name)


def force_slices(monkeypatch: pytest.MonkeyPatch, scratch: int) -> None:
    """Let one slice take ``scratch`` bytes, or a single row, or 7 positions of an implicit filter."""
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", scratch)
    monkeypatch.setitem(sys.modules["hyena_kernels.backends.torch.implicit_filter"]._POSITIONS, "cpu", 7)


@every_op
@pytest.mark.parametrize("scratch", [1, 30_000])
def test_slices_do_not_matter(op: str, scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    force_slices(monkeypatch, scratch)
    check(op, INPUTS[op](500))


@every_op
def test_bitwise_deterministic(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force_slices(monkeypatch, 20_000)
    inputs = INPUTS[op](300)
    dy = torch.randn_like(OPS[op].function(**inputs))
    first = value_and_gradients(OPS[op].function, inputs, dy)
    for _ in range(20):
        assert_same(value_and_gradients(OPS[op].function, inputs, dy), first)


@every_op
def test_inputs_are_left_unchanged(op: str) -> None:
    inputs = INPUTS[op](64)
    dy = torch.randn_like(OPS[op].function(**inputs))
    before = {name: tensor.clone() for name, tensor in (*present(inputs).items(), ("dy", dy))}
    value_and_gradients(OPS[op].function, inputs, dy)
    assert_same({**present(inputs), "dy": dy}, before)


@pytest.mark.parametrize("op", [op for op in INPUTS if op != "add_layer_norm"])
def test_saves_nothing_but_its_inputs(op: str) -> None:
    inputs = {name: tensor.requires_grad_() for name, tensor in present(INPUTS[op](64)).items()}
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        OPS[op].function(**inputs)
    assert {tensor.data_ptr() for tensor in saved} == {tensor.data_ptr() for tensor in inputs.values()}
    assert sum(tensor.nbytes for tensor in saved) == sum(tensor.nbytes for tensor in inputs.values())


@every_op
def test_second_derivative_raises_and_names_the_way_out(op: str) -> None:
    inputs = {name: tensor.requires_grad_() for name, tensor in present(INPUTS[op](8)).items()}
    gradients = torch.autograd.grad(OPS[op].function(**inputs).sum(), list(inputs.values()), create_graph=True)
    with pytest.raises(NotImplementedError, match=f"hyena_kernels.testing.reference_{op}"):
        sum(gradient.sum() for gradient in gradients).backward()


@every_op
@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_forward_mode_raises_and_names_the_way_out(op: str, which: int) -> None:
    """torch gives a result without a tangent where an op has no rule, or tangents of zero."""
    inputs = present(INPUTS[op](8))
    name = list(inputs)[which]
    value, tangent = inputs[name], torch.ones_like(inputs[name])

    def function(tensor: Tensor) -> Tensor:
        return OPS[op].function(**{**inputs, name: tensor})

    def dual(value: Tensor) -> None:
        with forward_ad.dual_level():
            function(forward_ad.make_dual(value, tangent))

    def dual_gradient() -> None:
        leaf = value.detach().requires_grad_()
        y = function(leaf)
        with forward_ad.dual_level():
            torch.autograd.grad(y, leaf, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))

    jacobian = partial(torch.autograd.functional.jacobian, vectorize=True, strategy="forward-mode")
    for refused in (
        lambda: dual(value.clone()),
        lambda: dual(value.detach().requires_grad_()),
        dual_gradient,
        lambda: torch.func.jvp(function, (value,), (tangent,)),
        lambda: torch.func.jacfwd(function)(value),
        lambda: torch.func.linearize(function, value),
        lambda: torch.func.hessian(lambda tensor: function(tensor).sum())(value),
        lambda: torch.vmap(lambda tensor: torch.func.jvp(function, (tensor,), (tensor,)))(value[None]),
        lambda: jacobian(function, value),
    ):
        with pytest.raises(NotImplementedError, match=f"forward mode.*hyena_kernels.testing.reference_{op}"):
            refused()
    for refused in (
        lambda: torch.autograd.functional.hessian(lambda tensor: function(tensor).sum(), value),
        lambda: torch.autograd.functional.jvp(function, value, tangent),
    ):
        with pytest.raises(NotImplementedError, match=f"hyena_kernels.testing.reference_{op}"):
            refused()


@every_op
def test_forward_mode_of_others_goes_past(op: str) -> None:
    inputs = present(INPUTS[op](8))
    expected = OPS[op].function(**inputs)
    with forward_ad.dual_level():
        forward_ad.make_dual(torch.ones(1), torch.ones(1))
        assert torch.equal(OPS[op].function(**inputs), expected)


@every_op
@pytest.mark.filterwarnings("error")
def test_vmap_and_fake_tensors(op: str) -> None:
    """Every input may have a batch dimension, and fake tensors go through vmap and gradients."""
    inputs = present(INPUTS[op](6))
    stacks = {name: torch.stack([tensor, 2 * tensor], dim=-1) for name, tensor in inputs.items()}
    expected = torch.stack(
        [OPS[op].function(**{name: stack[..., i] for name, stack in stacks.items()}) for i in range(2)]
    )
    together = torch.vmap(lambda tensors: OPS[op].function(**tensors), in_dims=-1)
    assert torch.equal(together(stacks), expected)
    nested = torch.vmap(together)({name: stack[None] for name, stack in stacks.items()})
    assert torch.equal(nested, expected[None])

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        return together(tensors).sum()

    gradients = torch.func.grad(loss)(stacks)
    with FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(stack) for name, stack in stacks.items()}
        assert together(fakes).shape == expected.shape
        found = torch.func.grad(loss)(fakes)
        assert {name: grad.shape for name, grad in found.items()} == {n: g.shape for n, g in gradients.items()}


@every_op
def test_torch_func(op: str) -> None:
    """torch.func.grad, vmap and jacrev give the same results as autograd."""
    inputs = present(INPUTS[op](6))
    first = next(iter(inputs))

    def loss(tensor: Tensor) -> Tensor:
        return OPS[op].function(**{**inputs, first: tensor}).square().sum()

    points = torch.stack([inputs[first], 2 * inputs[first]])
    expected = []
    for point in points:
        leaf = point.detach().requires_grad_()
        loss(leaf).backward()
        expected.append(leaf.grad)
    assert torch.equal(torch.func.grad(loss)(points[0]), expected[0])
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(points), torch.stack(expected))
    assert torch.equal(torch.func.vmap(loss)(points), torch.stack([loss(point) for point in points]))
    torch.testing.assert_close(torch.func.jacrev(loss)(points[1]), expected[1])
    with pytest.raises(NotImplementedError, match=f"hyena_kernels.testing.reference_{op}"):
        torch.func.grad(lambda tensor: torch.func.grad(loss)(tensor).sum())(points[0])


@every_op
def test_meta_tensors_give_shapes(op: str) -> None:
    inputs = present(INPUTS[op](50))
    meta = value_and_gradients(
        OPS[op].function, {name: tensor.to("meta") for name, tensor in inputs.items()}, torch.empty((), device="meta")
    )
    real = value_and_gradients(OPS[op].function, inputs, torch.zeros(()))
    assert {name: (v.shape, v.dtype) for name, v in meta.items()} == {n: (v.shape, v.dtype) for n, v in real.items()}
    assert {value.device.type for value in meta.values()} == {"meta"}


@pytest.mark.parametrize("op", ["fftconv", "short_conv", "hyena_mixer", "far_field_conv", "hyena_mixer_far"])
def test_autocast_casts_signals_and_no_filters(op: str) -> None:
    inputs = INPUTS[op](200)
    signals = {"u", "x", "pre_gate", "post_gate"}
    with torch.autocast("cpu", torch.bfloat16):
        dy = torch.randn_like(OPS[op].function(**inputs))
        results = value_and_gradients(OPS[op].function, inputs, dy)
    assert results["y"].dtype == torch.bfloat16
    cast = {n: t.bfloat16() if t is not None and n in signals else t for n, t in inputs.items()}
    expected = value_and_gradients(OPS[op].function, cast, dy)
    for name, value in results.items():
        # Gradients come back through the cast, in the dtype of the input.
        assert value.dtype == (torch.bfloat16 if name == "y" else torch.float32), name
        assert torch.equal(value, expected[name].to(value.dtype)), name


def test_autocast_leaves_implicit_filters_alone() -> None:
    inputs = INPUTS["implicit_filter"](200)
    dy = torch.randn(3, 200)
    with torch.autocast("cpu", torch.bfloat16):
        results = value_and_gradients(OPS["implicit_filter"].function, inputs, dy)
    assert results["y"].dtype == torch.float32
    assert_same(results, value_and_gradients(OPS["implicit_filter"].function, inputs, dy))


@pytest.mark.usefixtures("fresh_dynamo")
def test_autocast_is_asked_for_in_a_way_that_every_torch_compile_can_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo of torch 2.11 cannot trace ``torch.amp.is_autocast_available``. The test imitates this."""

    @torch._dynamo.disable
    def untraceable(device_type: str) -> bool:
        raise AssertionError("not to be called while a function is traced")

    monkeypatch.setattr(torch.amp, "is_autocast_available", untraceable)
    monkeypatch.setattr(torch.amp.autocast_mode, "is_autocast_available", untraceable)
    compiled = torch.compile(library.to_autocast, backend="eager", fullgraph=True)
    signal = torch.randn(3)
    for each in (library.to_autocast, compiled):
        assert each(signal).dtype == torch.float32
        assert each(signal.to("meta")).dtype == torch.float32
        torch.set_autocast_enabled("cpu", True)
        try:
            assert each(signal).dtype == torch.get_autocast_dtype("cpu") != torch.float32
            assert each(signal.double()).dtype == torch.float64
        finally:
            torch.set_autocast_enabled("cpu", False)


@pytest.mark.parametrize("op", [op for op in INPUTS if op != "implicit_filter"])
def test_autocast_leaves_float64_alone(op: str) -> None:
    inputs = INPUTS[op](20, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y = OPS[op].function(**inputs)
    assert torch.equal(y, OPS[op].function(**inputs))


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("fftconv", fftconv_inputs(0, 3, 8)),
        ("fftconv", fftconv_inputs(2, 0, 8)),
        ("short_conv", short_conv_inputs(0, 3, 8)),
        ("short_conv", short_conv_inputs(2, 0, 8)),
        ("hyena_mixer", hyena_mixer_inputs(0, 8, 3)),
        ("hyena_mixer", hyena_mixer_inputs(2, 8, 0)),
        ("far_field_conv", far_field_conv_inputs(0, 3, 20)),
        ("far_field_conv", far_field_conv_inputs(2, 0, 20)),
        ("hyena_mixer_far", hyena_mixer_far_inputs(0, 20, 3)),
        ("hyena_mixer_far", hyena_mixer_far_inputs(2, 20, 0)),
        ("implicit_filter", implicit_filter_inputs(0, 8)),
        ("layer_norm", layer_norm_inputs(2, 0, 8)),
        ("add_layer_norm", add_layer_norm_inputs(0, 8)),
    ],
    ids=[
        "fftconv B",
        "fftconv D",
        "short_conv B",
        "short_conv D",
        "mixer B",
        "mixer D",
        "far B",
        "far D",
        "mixer far B",
        "mixer far D",
        "implicit_filter D",
        "layer_norm rows",
        "add_layer_norm rows",
    ],
)
def test_empty_batch_or_no_channels(op: str, inputs: Inputs) -> None:
    """The result is empty, and every gradient exists and is zero."""
    results = value_and_gradients(OPS[op].function, inputs, torch.zeros(()))
    assert results.pop("y").numel() == 0
    assert results.keys() == {f"d{name}" for name in inputs}
    for name, tensor in present(inputs).items():
        assert torch.equal(results[f"d{name}"], torch.zeros_like(tensor)), name
