"""Packed rows in Triton, interpreted, against float64 of one row after another.

Small transforms stand for the default ones, because the interpreter is slow. test_resources.py compiles kernels of the
default sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hyena_kernels import fftconv_varlen, hyena_mixer_varlen
from hyena_kernels.backends.triton import fftconv as launcher, mixer as mixer_kernels, packed, short_conv
from hyena_kernels.backends.triton.packed import Packed
from hyena_kernels.backends.triton.plan import Plan
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.segments import SegmentPlan
from hyena_kernels.testing import (
    Inputs,
    error_budget,
    fftconv_inputs,
    hyena_mixer_inputs,
    oracle_fftconv,
    oracle_hyena_mixer,
    reference_fftconv,
    reference_hyena_mixer,
    relative_error,
    short_conv_inputs,
    value_and_gradients,
)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take the smallest of some plans that a row fits."""

    def choose(*some: Plan) -> None:
        def plan_of(length: int, *_: object) -> Plan:
            return next(plan for plan in some if plan.size >= length)

        monkeypatch.setattr(packed, "plan_for", plan_of)
        monkeypatch.setattr(packed, "backward_plan", plan_of)

    return choose


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 32 positions. The interpreter takes as long for a large tile as for a small one."""
    for name in short_conv.CONFIGS:
        monkeypatch.setitem(short_conv.CONFIGS, name, (32, 32, 4))


def boundaries(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def packed_fftconv(
    channels: int, lengths: Sequence[int], taps: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor | None]:
    inputs = fftconv_inputs(1, channels, sum(lengths), taps, dtype=dtype)
    return {name: tensor[0] if name not in "kD" else tensor for name, tensor in inputs.items()}


def fftconv_one_by_one(function: Callable[..., Tensor], lengths: Sequence[int]) -> Callable[..., Tensor]:
    def run(u: Tensor, k: Tensor, D: Tensor, pre_gate: Tensor, post_gate: Tensor) -> Tensor:
        parts = []
        for a, b in pairwise(boundaries(lengths).tolist()):
            gates = {"pre_gate": pre_gate[None, :, a:b], "post_gate": post_gate[None, :, a:b]}
            parts.append(function(u[None, :, a:b], k[:, : b - a], D, **gates))
        return torch.cat(parts, dim=2)[0]

    return run


def mixer_one_by_one(function: Callable[..., Tensor], lengths: Sequence[int]) -> Callable[..., Tensor]:
    def run(x: Tensor, short_weight: Tensor, short_bias: Tensor, k: Tensor, D: Tensor) -> Tensor:
        parts = [
            function(x[None, a:b], short_weight, short_bias, k[..., : b - a], D)
            for a, b in pairwise(boundaries(lengths).tolist())
        ]
        return torch.cat(parts, dim=1)[0]

    return run


def assert_within_budget(
    results: dict[str, Tensor], inputs: Inputs, dy: Tensor, oracle: Callable[..., Tensor], plain: Callable[..., Tensor]
) -> None:
    wide = {name: None if tensor is None else tensor.double() for name, tensor in inputs.items()}
    exact = value_and_gradients(oracle, wide, dy.double())
    plain_results = value_and_gradients(plain, inputs, dy)
    assert results.keys() == exact.keys()
    errors = {
        name: (relative_error(value, exact[name]), error_budget(plain_results[name], exact[name]))
        for name, value in results.items()
    }
    beyond = {name: pair for name, pair in errors.items() if not pair[0] <= pair[1]}
    assert not beyond, beyond


@pytest.mark.parametrize(
    ("some", "lengths", "taps", "dtype"),
    [
        # Two classes. Two rows share a program, and the last program of the first class has an empty one.
        ((Plan(1, 1, 16), Plan(1, 1, 32)), [3, 32, *[17] * 8], 40, torch.float32),
        # A filter that ends before the longest row does.
        ((Plan(3, 1, 16),), [31, 48], 20, torch.bfloat16),
    ],
    ids=["two classes", "factor of three"],
)
def test_one_pass(
    some: Sequence[Plan],
    lengths: list[int],
    taps: int,
    dtype: torch.dtype,
    plans: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    nan_empty: None,
) -> None:
    plans(*some)
    monkeypatch.setattr(launcher, "_PROGRAMS", 1)
    monkeypatch.setattr(launcher, "_MAX_ROWS", 2)
    check_fftconv(1, lengths, taps, dtype)


@pytest.mark.slow
def test_several_passes(plans: Callable[..., None], monkeypatch: pytest.MonkeyPatch, nan_empty: None) -> None:
    """In slices of one row."""
    plans(Plan(1, 16, 16))
    monkeypatch.setattr(launcher, "_MAX_ROWS", 1)
    check_fftconv(1, [100, 256], 256, torch.float32)


def check_fftconv(channels: int, lengths: Sequence[int], taps: int, dtype: torch.dtype) -> None:
    inputs = packed_fftconv(channels, lengths, taps, dtype)
    dy = torch.randn(channels, sum(lengths)).to(dtype)
    plan = SegmentPlan(boundaries(lengths))
    results = value_and_gradients(fftconv_varlen, inputs, dy, cu_seqlens=plan, backend="triton")
    oracle, plain = (fftconv_one_by_one(function, lengths) for function in (oracle_fftconv, reference_fftconv))
    assert_within_budget(results, inputs, dy, oracle, plain)


def test_a_filter_of_16_bits_has_its_gradient_added_in_float32(plans: Callable[..., None], nan_empty: None) -> None:
    plans(Plan(1, 1, 16), Plan(1, 1, 32))
    inputs = packed_fftconv(1, [16, 30], 30, torch.bfloat16)
    inputs["k"] = inputs["k"].bfloat16()
    dy = torch.randn(1, 46).bfloat16()
    wide = {**inputs, "k": inputs["k"].float()}
    frozen = set(inputs) - {"k"}
    options = {"frozen": frozen, "cu_seqlens": SegmentPlan(boundaries([16, 30])), "backend": "triton"}
    narrow = value_and_gradients(fftconv_varlen, inputs, dy, **options)["dk"]
    assert torch.equal(narrow, value_and_gradients(fftconv_varlen, wide, dy, **options)["dk"].bfloat16())


@pytest.mark.slow
def test_the_mixer(plans: Callable[..., None], monkeypatch: pytest.MonkeyPatch, nan_empty: None) -> None:
    plans(Plan(1, 1, 16), Plan(1, 1, 32))
    monkeypatch.setattr(launcher, "_PROGRAMS", 1)
    lengths = [1, 9, 17, 16, 30]
    inputs = hyena_mixer_inputs(1, sum(lengths), 2, order=3)
    inputs = {**inputs, "x": inputs["x"][0]}
    dy = torch.randn(sum(lengths), 2)
    results = value_and_gradients(
        hyena_mixer_varlen, inputs, dy, cu_seqlens=SegmentPlan(boundaries(lengths)), backend="triton"
    )
    oracle, plain = (mixer_one_by_one(function, lengths) for function in (oracle_hyena_mixer, reference_hyena_mixer))
    assert_within_budget(results, inputs, dy, oracle, plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_no_row_sees_another(plans: Callable[..., None]) -> None:
    """Other neighbours, another number of rows, and a NaN in one of them leave a row's bits."""
    plans(Plan(1, 1, 16), Plan(1, 1, 32))
    inputs = hyena_mixer_inputs(1, 80, 1)
    filters = {name: tensor for name, tensor in inputs.items() if name != "x"}
    rows = {length: (torch.randn(length, 3), torch.randn(length, 1)) for length in (3, 17, 16, 29)}

    def run(*lengths: int, spoilt: int = 0) -> dict[int, tuple[Tensor, Tensor]]:
        x, dy = (torch.cat([rows[length][i] for length in lengths]) for i in range(2))
        bounds = boundaries(lengths)
        if spoilt:
            x[bounds[lengths.index(spoilt) + 1] - 1] = float("nan")
            dy[bounds[lengths.index(spoilt)]] = float("nan")
        frozen = set(filters)
        results = value_and_gradients(
            hyena_mixer_varlen, {"x": x, **filters}, dy, frozen=frozen, cu_seqlens=SegmentPlan(bounds), backend="triton"
        )
        parts = zip(*(results[name].split(list(lengths)) for name in ("y", "dx")), strict=True)
        return dict(zip(lengths, parts, strict=True))

    together = run(3, 17, 16, 29)
    for length, (y, dx) in run(29, 16, 17, spoilt=16).items():
        if length == 16:
            assert y.isnan().all()
            assert dx.isnan().any()
        else:
            assert torch.equal(y, together[length][0])
            assert torch.equal(dx, together[length][1])


@pytest.mark.parametrize(("pair", "taps"), [(False, 3), (True, 8)], ids=["3 taps", "a pair of 8 taps"])
def test_the_short_convolution_stops_where_a_row_starts(pair: bool, taps: int, nan_empty: None) -> None:
    """Bit for bit as for a batch of rows with zeros behind them."""
    lengths, channels = [1, 9, 17, 2, 8], 3
    filled = torch.arange(17) < torch.tensor(lengths)[:, None]
    x, weight, bias = short_conv_inputs(5, channels * (1 + pair), 17, taps).values()
    x, dy = x * filled[:, None], torch.randn(5, channels, 17) * filled[:, None]

    def run(x: Tensor, dy: Tensor, marks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        inputs, y = ShortConvInputs(x, weight, bias), torch.empty(1, *dy.shape)
        short_conv.convolve(inputs, y, channels, pair=pair, y_length=dy.shape[2], marks=marks)
        dx, sums = torch.empty_like(x), short_conv.tap_sums(dy, 1 + pair, taps)
        short_conv.convolve_backward(dy, inputs, channels, dx=dx, sums=sums, pair=pair, marks=marks)
        return y[0], dx, sums.sum(dim=0)

    def pack(tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2)[filled].t()[None]

    plan = SegmentPlan(boundaries(lengths))
    y, dx, sums = run(pack(x), pack(dy), Packed(plan.rows, plan.host_rows).marks())
    expected, expected_dx, expected_sums = run(x, dy, None)
    assert torch.equal(y, pack(expected))
    assert torch.equal(dx, pack(expected_dx))
    torch.testing.assert_close(sums, expected_sums)


def test_classes_depend_on_a_row_alone() -> None:
    lengths = [5000, 300, 300, 257, 256, 1]
    plan = SegmentPlan(boundaries(lengths))
    found = [
        (made.size, longest, segments.lengths.tolist(), segments.starts.tolist())
        for made, longest, segments in Packed(plan.rows, plan.host_rows).classes(packed.plan_for)
    ]
    assert found == [
        (6144, 5000, [5000], [0]),
        (512, 300, [300, 300, 257], [5000, 5300, 5600]),
        (256, 256, [256, 1], [5857, 6113]),
    ]


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (7, 1), (9, 2), (16, 8), (63, 8), (65, 8)])
def test_few_rows_of_a_program_are_empty(rows: int, expected: int) -> None:
    call = launcher._Call(rows, 256, 1024, 1024, True, None, torch.device("cpu"), packed=True)
    shared = call.rows_per_program("row_forward")
    assert shared == expected
    assert call.programs(shared) * shared - rows <= rows / 8


def test_slices_of_rows_are_powers_of_two() -> None:
    assert [(b.start, b.stop) for b in launcher._batches(15, 8)] == [(0, 8), (8, 12), (12, 14), (14, 15)]


def test_what_is_not_needed_is_not_computed(plans: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    plans(Plan(1, 1, 16))
    inputs = hyena_mixer_inputs(1, 20, 2)
    inputs["x"] = inputs["x"][0]
    asked = []
    monkeypatch.setattr(mixer_kernels.packed_rows, "backward_into", lambda grads, *_: asked.append(grads))
    frozen = set(inputs) - {"k"}
    options = {"cu_seqlens": torch.tensor([0, 12, 20]), "backend": "triton"}
    value_and_gradients(hyena_mixer_varlen, inputs, torch.randn(20, 2), frozen=frozen, **options)
    assert [[grad is not None for grad in grads] for grads in asked] == [[False, True, False, False, False]]
