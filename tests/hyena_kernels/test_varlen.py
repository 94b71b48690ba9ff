"""``fftconv_varlen`` and ``hyena_mixer_varlen`` against one call a segment, and what every op guarantees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hyena_kernels import SegmentPlan, backend, fftconv, hyena_mixer, use_backend
from hyena_kernels.backends import extension
from hyena_kernels.common import packed, sizes
from hyena_kernels.common.inputs import FftconvVarlenInputs, MixerVarlenInputs
from hyena_kernels.testing import (
    OPS,
    Inputs,
    check,
    fftconv_varlen_inputs,
    hyena_mixer_varlen_inputs,
    relative_error,
    value_and_gradients,
)
from tests.hyena_kernels import promises
from tests.hyena_kernels.helpers import assert_refused, assert_same, assert_threads_do_not_matter

FFTCONV, MIXER = "fftconv_varlen", "hyena_mixer_varlen"
INPUTS: dict[str, Callable[..., Inputs]] = {FFTCONV: fftconv_varlen_inputs, MIXER: hyena_mixer_varlen_inputs}

every_op = pytest.mark.parametrize("op", INPUTS)


@pytest.fixture(params=["torch", "classes", "cpp"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Plain PyTorch as on a CPU, plain PyTorch by classes as on a GPU, and the C++ kernels."""
    if request.param == "cpp" and (reasons := extension.obstacles("cpp", torch.device("cpu"))):
        pytest.skip(f"backend 'cpp' {'; '.join(reasons)}")
    if request.param == "classes":
        monkeypatch.setattr(packed, "ONE_BY_ONE", set())
    with use_backend("cpp" if request.param == "cpp" else "torch"):
        yield request.param


pytestmark = pytest.mark.usefixtures("route")

once = pytest.mark.parametrize("route", ["torch"], indirect=True)
"""For what is the same for every backend."""


def segment(name: str, tensor: Tensor | None, op: str, part: slice) -> Tensor | None:
    """What one segment has of an argument or result."""
    if tensor is None or name.lstrip("d") not in ("u", "x", "y", "pre_gate", "post_gate"):
        return tensor
    return tensor[:, part] if op == FFTCONV else tensor[part]


def parts(lengths: Sequence[int]) -> list[slice]:
    plan = SegmentPlan(torch.tensor([0, *lengths]).cumsum(0))
    return [slice(start, start + length) for start, length in zip(plan.starts, plan.lengths, strict=True)]


def one_by_one(op: str, lengths: Sequence[int]) -> Callable[..., Tensor]:
    """The op as one call of ``fftconv`` or ``hyena_mixer`` a segment."""

    def function(cu_seqlens: Tensor, **inputs: Any) -> Tensor:
        results = []
        for part in parts(lengths):
            mine = {name: segment(name, tensor, op, part) for name, tensor in inputs.items()}
            mine["k"] = mine["k"][..., : part.stop - part.start]
            if op == FFTCONV:
                signals = ("u", "pre_gate", "post_gate")
                mine = {n: t if t is None or n not in signals else t[None] for n, t in mine.items()}
                results.append(fftconv(**mine)[0])
            else:
                results.append(hyena_mixer(**mine | {"x": mine["x"][None]})[0])
        return torch.cat(results, dim=1 if op == FFTCONV else 0)

    return function


SETS: dict[str, tuple[list[int], int | None]] = {
    "one": ([30], None),
    "one position each": ([1, 1, 1], None),
    "primes": ([31, 7, 13, 2, 101], None),
    "all equal": ([16, 16, 16], None),
    "mixed": ([1, 64, 3, 100, 65], None),
    "longer filters": ([5, 20, 9], 33),
    "partial filters": ([5, 20, 9], 7),
}


@every_op
@pytest.mark.parametrize(("lengths", "taps"), SETS.values(), ids=list(SETS))
def test_equals_one_call_a_segment(op: str, lengths: list[int], taps: int | None) -> None:
    inputs = INPUTS[op](lengths, 3, taps, dtype=torch.float64)
    dy = torch.randn_like(OPS[op].function(**inputs))
    found = value_and_gradients(OPS[op].function, inputs, dy)
    expected = value_and_gradients(one_by_one(op, lengths), inputs, dy)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert relative_error(value, expected[name]) <= 1e-12, name


@pytest.mark.parametrize("order", [3, 4])
def test_equals_one_call_a_segment_in_any_order(order: int) -> None:
    lengths = [5, 40, 17]
    inputs = hyena_mixer_varlen_inputs(lengths, 3, order=order, short_taps=5, bias=False, dtype=torch.float64)
    dy = torch.randn(62, 3)
    expected = value_and_gradients(one_by_one(MIXER, lengths), inputs, dy)
    for name, value in value_and_gradients(OPS[MIXER].function, inputs, dy).items():
        assert relative_error(value, expected[name]) <= 1e-12, name


@every_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_error_is_within_budget(op: str, dtype: torch.dtype) -> None:
    for filter_dtype in {dtype, torch.float32}:
        # Many segments: their gradients of the filters must not be summed in 16 bits.
        check(op, INPUTS[op]([40, 1, 70] + [3] * 10, 16, dtype=dtype, filter_dtype=filter_dtype))


@every_op
def test_optional_tensors_may_be_absent(op: str) -> None:
    absent: dict[str, Any] = {FFTCONV: {"pre_gate": False, "post_gate": False}, MIXER: {"bias": False}}[op]
    check(op, INPUTS[op]([40, 7, 100], 16, skip=False, **absent))


@every_op
def test_permuted_segments_have_permuted_bits(op: str, route: str) -> None:
    """A segment's bits depend neither on the others nor on its place, nor on taps that it does not reach."""
    lengths = [33, 7, 100, 64, 1, 33]
    inputs = INPUTS[op](lengths, 5)
    dy = torch.randn_like(OPS[op].function(**inputs))
    whole = value_and_gradients(OPS[op].function, inputs, dy)
    for chosen in ([4, 2, 0, 5, 1, 3], [3], [1, 0]):
        bounds = torch.tensor([0, *(lengths[s] for s in chosen)]).cumsum(0)
        axis = 1 if op == FFTCONV else 0

        def some(name: str, tensor: Tensor | None, chosen: Sequence[int] = chosen, axis: int = axis) -> Tensor | None:
            mine = [segment(name, tensor, op, parts(lengths)[s]) for s in chosen]
            return mine[0] if mine[0] is tensor else torch.cat(mine, axis)

        fewer = {name: some(name, tensor) for name, tensor in inputs.items()} | {"cu_seqlens": bounds}
        if route != "classes":
            # A class has the taps of its length, if the filter has them.
            fewer["k"] = fewer["k"][..., : bounds.diff().max()]
        found = value_and_gradients(OPS[op].function, fewer, some("y", dy))
        for name, value in found.items():
            if some(name, whole[name]) is not whole[name]:
                assert torch.equal(value, some(name, whole[name])), (name, chosen)


@every_op
def test_nan_stays_in_its_segment(op: str) -> None:
    lengths = [20, 33, 7]
    inputs = INPUTS[op](lengths, 4)
    dy = torch.randn_like(OPS[op].function(**inputs))
    clean = value_and_gradients(OPS[op].function, inputs, dy)
    signal = "u" if op == FFTCONV else "x"
    place = (2, 25) if op == FFTCONV else (25, 6)
    inputs[signal] = inputs[signal].clone()
    inputs[signal][place] = float("nan")
    found = value_and_gradients(OPS[op].function, inputs, dy)
    assert found["y"].isnan().any()
    for name in found:
        for s in (0, 2):
            mine, before = (segment(name, each[name], op, parts(lengths)[s]) for each in (found, clean))
            if mine is not found[name]:
                assert torch.equal(mine, before), (name, s)
    # Sums over segments are hit in one channel.
    for channel in (0, 1, 3):
        assert torch.equal(found["dk"][..., channel, :], clean["dk"][..., channel, :])
    assert found["dk"][..., 2, :].isnan().any()


@every_op
def test_bitwise_deterministic_whatever_the_scratch(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 20_000)
    promises.two_runs_give_the_same_bits_and_leave_the_inputs_alone(op, make(op), {})


def make(op: str) -> Callable[..., Inputs]:
    """Small arguments of about ``length`` positions."""
    return lambda length, **options: INPUTS[op]([length // 3 + 1, length, 2], 2, **options)


PROMISES = (
    promises.gradients_are_right,
    promises.each_alone_gets_the_same_gradient,
    promises.strides_do_not_matter,
)


@every_op
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promises(op: str, promise: Callable[..., None]) -> None:
    promise(op, make(op), {})


@once
@every_op
def test_higher_and_forward_derivatives_are_refused(op: str) -> None:
    promises.higher_and_forward_derivatives_are_refused(op, make(op), {})


@every_op
@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 1)
    for taps in (5, 60):
        inputs = INPUTS[op]([37, 1, 37, 2], 3, taps)
        results = value_and_gradients(OPS[op].function, inputs, torch.randn_like(OPS[op].function(**inputs)))
        for name, value in results.items():
            assert not value.isnan().any(), (taps, name)
        # No segment reaches the taps beyond the longest.
        assert not results["dk"][..., 37:].any()


@every_op
def test_threads_do_not_matter(op: str, route: str) -> None:
    inputs = INPUTS[op]([700, 33, 64], 32)
    if route == "cpp":
        assert_threads_do_not_matter(OPS[op].function, inputs, torch.randn_like(OPS[op].function(**inputs)))


@once
@every_op
def test_autocast_casts_the_signal_only(op: str) -> None:
    inputs = INPUTS[op]([20, 7], 4)
    narrow = {n: t.bfloat16() if n in ("u", "x", "pre_gate", "post_gate") else t for n, t in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        y = OPS[op].function(**inputs)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, OPS[op].function(**narrow))


@once
@every_op
def test_nothing_but_the_inputs_is_saved(op: str) -> None:
    inputs = INPUTS[op]([20, 7], 4)
    plan = SegmentPlan(inputs.pop("cu_seqlens"))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        OPS[op].function(**{name: tensor.requires_grad_() for name, tensor in inputs.items()}, cu_seqlens=plan)
    expected = [*inputs.values(), plan.rows, plan.host_rows]
    assert {tensor.data_ptr() for tensor in saved} == {tensor.data_ptr() for tensor in expected}


@once
@every_op
def test_torch_func_gives_the_same(op: str) -> None:
    inputs = INPUTS[op]([5, 3], 3)
    plan = SegmentPlan(inputs.pop("cu_seqlens"))
    stacks = {name: torch.stack([tensor, tensor.flip(0)], dim=-1) for name, tensor in inputs.items()}
    function = lambda tensors: OPS[op].function(**tensors, cu_seqlens=plan)  # noqa: E731
    expected = [function({name: stack[..., i] for name, stack in stacks.items()}) for i in range(2)]
    torch.testing.assert_close(torch.vmap(function, in_dims=-1)(stacks), torch.stack(expected), rtol=1e-6, atol=1e-6)
    found = torch.func.grad(lambda tensors: function(tensors).square().sum())(inputs)
    plain = value_and_gradients(lambda **tensors: function(tensors).square().sum(), inputs, torch.ones(()))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[f"d{name}"], rtol=1e-6, atol=1e-6)


@once
@every_op
def test_boundaries_cannot_be_mapped_over(op: str) -> None:
    inputs = INPUTS[op]([5, 3], 3)
    bounds = torch.stack([inputs.pop("cu_seqlens")] * 2)
    with pytest.raises(RuntimeError, match=r"make SegmentPlan\(cu_seqlens\) outside"):
        torch.vmap(lambda b: OPS[op].function(**inputs, cu_seqlens=b))(bounds)


@once
@every_op
def test_meta_tensors_give_shapes(op: str) -> None:
    inputs = INPUTS[op]([5, 3], 3)
    plan = SegmentPlan(inputs.pop("cu_seqlens"))
    meta = {name: tensor.to("meta") for name, tensor in inputs.items()}
    function = lambda **tensors: OPS[op].function(**tensors, cu_seqlens=plan)  # noqa: E731
    found = value_and_gradients(function, meta, torch.empty((), device="meta"))
    for name, value in value_and_gradients(function, inputs, torch.zeros(())).items():
        assert (found[name].shape, found[name].dtype, found[name].device.type) == (value.shape, value.dtype, "meta")


@pytest.mark.slow
@once
@every_op
def test_passes_opcheck(op: str) -> None:
    inputs = INPUTS[op]([4, 2], 2, dtype=torch.float64)
    rows = SegmentPlan(inputs.pop("cu_seqlens")).rows
    promises.passes_opcheck(op, {**inputs, "rows": rows, "host_rows": rows.clone()})


@pytest.mark.slow
@once
@every_op
@pytest.mark.usefixtures("fresh_dynamo")
def test_one_compilation_serves_every_packing(op: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(OPS[op].function, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    # Not as many segments as channels at first: dynamo would take them for one size.
    for lengths in ([20, 13, 5, 2], [64, 64], [7, 9, 47]):
        inputs = INPUTS[op](lengths, 3)
        plan = SegmentPlan(inputs.pop("cu_seqlens"))
        dy = torch.randn_like(OPS[op].function(**inputs, cu_seqlens=plan))
        found = value_and_gradients(compiled, inputs, dy, cu_seqlens=plan)
        assert_same(found, value_and_gradients(OPS[op].function, inputs, dy, cu_seqlens=plan))
        counts.append(counter.frame_count)
    assert set(counts) == {1}


@once
def test_a_plan_is_made_from_one_copy_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = fftconv_varlen_inputs([5, 3], 2)
    plan = SegmentPlan(inputs.pop("cu_seqlens"))
    monkeypatch.setattr(SegmentPlan, "__init__", None)
    OPS[FFTCONV].function(**inputs, cu_seqlens=plan, max_seqlen=5)


@once
@every_op
def test_schemas_have_the_fields_that_backends_take(op: str) -> None:
    fields = list({FFTCONV: FftconvVarlenInputs, MIXER: MixerVarlenInputs}[op]._fields)
    for suffix, first in (("fwd", 0), ("bwd", 1)):
        schema = getattr(torch.ops.hyena_kernels, f"{op}_{suffix}").default._schema
        assert [argument.name for argument in schema.arguments][first : first + len(fields)] == fields


@once
@every_op
def test_triton_refuses_float64_and_what_is_too_long_for_its_transforms(op: str) -> None:
    x, rows, longer = torch.zeros(1, 1), torch.tensor([[0], [2**24]]), torch.tensor([[0], [2**24 + 1]])
    reason = "takes L up to 2^24 = 16777216, the inputs are longer"
    for suffix, needs in (("fwd", ()), ("bwd", ([True, False],))):
        supports = backend._supports[f"{op}_{suffix}", "triton"]
        assert supports(x, x, None, rows, rows, *needs) is None
        assert supports(x, x, None, longer, longer, *needs) == reason
        assert supports(x, x.double(), None, rows, rows, *needs) == "has no float64 kernels, the inputs are float64"


def test_classes_hold_every_segment_once_and_are_cut(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    plan = SegmentPlan(torch.tensor([0, *[5] * 7, 100, 6, 70]).cumsum(0))
    if route != "classes":
        assert [group.length for group in packed.groups(plan.rows, plan.host_rows, 1)] == plan.host_rows[1].tolist()
        return
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 4 * 6 * 10)
    groups = list(packed.groups(plan.rows, plan.host_rows, 10))
    assert [(group.length, group.count) for group in groups] == [(128, 1), (96, 1), (6, 4), (6, 4)]
    row = torch.randn(1, plan.total)
    copy = torch.full_like(row, float("nan"))
    for group in groups:
        group.put(copy, 1, group.take(row, 1))
    assert torch.equal(copy, row)
    # All layers share the indices of a plan.
    again = list(packed.groups(plan.rows, plan.host_rows, 10))
    assert all(a is b for a, b in zip(groups, again, strict=True))


BOUNDS = torch.tensor([0, 3, 8])
U, K, X, W = torch.zeros(3, 8), torch.zeros(3, 5), torch.zeros(8, 9), torch.zeros(9, 3)
REFUSED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "u rank": (FFTCONV, {"u": U[None]}, ValueError, "fftconv_varlen: u has shape (1, 3, 8), expected (D, T)"),
    "k rank": (FFTCONV, {"k": K[0]}, ValueError, "fftconv_varlen: k has shape (5,), expected (D, K)"),
    "channels": (FFTCONV, {"k": K[:2]}, ValueError, "u (D, T) has shape (3, 8) and k (D, K) (2, 5): both need the"),
    "no taps": (FFTCONV, {"k": K[:, :0]}, ValueError, "k (D, K) (3, 0): both need the same D, and K ≥ 1"),
    "D": (FFTCONV, {"D": U[0]}, ValueError, "fftconv_varlen: D has shape (8,), expected (D,) = (3,)"),
    "gate": (FFTCONV, {"pre_gate": U[:, :7]}, ValueError, "pre_gate has shape (3, 7), expected (D, T) = (3, 8)"),
    "gate dtype": (FFTCONV, {"post_gate": U.half()}, TypeError, "post_gate (3, 8) has dtype torch.float16, expected"),
    "k dtype": (FFTCONV, {"k": K.double()}, TypeError, "fftconv_varlen: k (3, 5) has dtype torch.float64"),
    "device": (FFTCONV, {"k": K.to("meta")}, ValueError, "fftconv_varlen: all tensors must be on one device, got u"),
    "end": (
        FFTCONV,
        {"cu_seqlens": torch.tensor([0, 3, 7])},
        ValueError,
        "fftconv_varlen: cu_seqlens ends at 7, expected the number of positions T = 8 of a signal of shape (3, 8)",
    ),
    "plan": (FFTCONV, {"cu_seqlens": SegmentPlan(torch.tensor([0, 9]))}, ValueError, "cu_seqlens ends at 9, expected"),
    "bounds": (FFTCONV, {"cu_seqlens": [0, 8]}, TypeError, "cu_seqlens must be a tensor of int32 or int64, got list"),
    "empty": (FFTCONV, {"cu_seqlens": torch.tensor([0, 8, 8])}, ValueError, "segment 1 has no positions"),
    "max_seqlen": (FFTCONV, {"max_seqlen": 4}, ValueError, "max_seqlen is 4, and the longest segment has 5 positions"),
    "backend": (FFTCONV, {"backend": "fast"}, ValueError, "unknown backend 'fast'"),
    "x rank": (MIXER, {"x": X[None]}, ValueError, "hyena_mixer_varlen: x has shape (1, 8, 9), expected (T, (N+1)d)"),
    "width": (MIXER, {"x": X[:, :8]}, ValueError, "x (T, (N+1)d) has shape (8, 8) and k (N-1, d, K) (1, 3, 5)"),
    "x end": (MIXER, {"x": X[:7]}, ValueError, "hyena_mixer_varlen: cu_seqlens ends at 8, expected the number of posi"),
    "taps": (MIXER, {"short_weight": torch.zeros(9, 9)}, ValueError, "has shape (9, 9): expected 1 ≤ Ks ≤ 8"),
    "short_weight": (
        MIXER,
        {"short_weight": W[:8]},
        ValueError,
        "short_weight has shape (8, 3), expected ((N+1)d, Ks)",
    ),
    "short_bias": (MIXER, {"short_bias": torch.zeros(3)}, ValueError, "short_bias has shape (3,), expected ((N+1)d,)"),
    "mixer D": (MIXER, {"D": torch.zeros(1, 4)}, ValueError, "D has shape (1, 4), expected (N-1, d) = (1, 3)"),
    "weight dtype": (MIXER, {"short_weight": W.double()}, TypeError, "short_weight (9, 3) has dtype torch.float64"),
}


@once
@pytest.mark.parametrize(("op", "change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(op: str, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"u": U, "k": K} if op == FFTCONV else {"x": X, "short_weight": W, "k": K[None]}
    arguments |= {} if op == FFTCONV else {"short_bias": None}
    assert_refused(OPS[op].function, error, message, **{**arguments, "cu_seqlens": BOUNDS, **change})
