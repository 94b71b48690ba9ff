"""Packed rows in Triton, interpreted, against float64 of one row after another.

Small transforms stand for the default ones, because the interpreter is slow. test_resources.py compiles kernels of the
default sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from hyena_kernels import fftconv_varlen, hyena_mixer_varlen, use_backend
from hyena_kernels.backends.triton import fftconv as launcher, mixer as mixer_kernels, packed, short_conv
from hyena_kernels.backends.triton.packed import Packed
from hyena_kernels.backends.triton.plan import Plan
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.segments import SegmentPlan
from hyena_kernels.testing import (
    check,
    fftconv_varlen_inputs,
    hyena_mixer_varlen_inputs,
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
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tiles of 32 positions. The interpreter takes as long for a large tile as for a small one."""
    for name in () if request.node.get_closest_marker("gpu") else short_conv.CONFIGS:
        monkeypatch.setitem(short_conv.CONFIGS, name, (32, 32, 4))


def boundaries(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


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
    check("fftconv_varlen", fftconv_varlen_inputs(lengths, 1, taps, dtype=dtype))


@pytest.mark.slow
def test_several_passes(plans: Callable[..., None], monkeypatch: pytest.MonkeyPatch, nan_empty: None) -> None:
    """In slices of one row."""
    plans(Plan(1, 16, 16))
    monkeypatch.setattr(launcher, "_MAX_ROWS", 1)
    check("fftconv_varlen", fftconv_varlen_inputs([100, 256], 1, pre_gate=False), frozen={"post_gate"})


def test_a_filter_of_16_bits_has_its_gradient_added_in_float32(plans: Callable[..., None], nan_empty: None) -> None:
    plans(Plan(1, 1, 16), Plan(1, 1, 32))
    inputs = fftconv_varlen_inputs([16, 30], 1, dtype=torch.bfloat16, filter_dtype=torch.bfloat16)
    dy = torch.randn(1, 46).bfloat16()
    wide = {**inputs, "k": inputs["k"].float()}
    options = {"frozen": set(inputs) - {"k"}}
    narrow = value_and_gradients(fftconv_varlen, inputs, dy, **options)["dk"]
    assert torch.equal(narrow, value_and_gradients(fftconv_varlen, wide, dy, **options)["dk"].bfloat16())


@pytest.mark.slow
def test_the_mixer(plans: Callable[..., None], monkeypatch: pytest.MonkeyPatch, nan_empty: None) -> None:
    plans(Plan(1, 1, 16), Plan(1, 1, 32))
    monkeypatch.setattr(launcher, "_PROGRAMS", 1)
    check("hyena_mixer_varlen", hyena_mixer_varlen_inputs([1, 17, 16, 30], 2, order=3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_no_row_sees_another(plans: Callable[..., None]) -> None:
    """Other neighbours, another number of rows, and a NaN in one of them leave a row's bits."""
    plans(Plan(1, 1, 16), Plan(1, 1, 32))
    inputs = hyena_mixer_varlen_inputs([80], 1)
    filters = {name: tensor for name, tensor in inputs.items() if name not in ("x", "cu_seqlens")}
    rows = {length: (torch.randn(length, 3), torch.randn(length, 1)) for length in (3, 17, 16, 29)}

    def run(*lengths: int, spoilt: int = 0) -> dict[int, tuple[Tensor, Tensor]]:
        x, dy = (torch.cat([rows[length][i] for length in lengths]) for i in range(2))
        bounds = boundaries(lengths)
        if spoilt:
            x[bounds[lengths.index(spoilt) + 1] - 1] = float("nan")
            dy[bounds[lengths.index(spoilt)]] = float("nan")
        options = {"frozen": set(filters), "cu_seqlens": bounds}
        results = value_and_gradients(hyena_mixer_varlen, {"x": x, **filters}, dy, **options)
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
    inputs = hyena_mixer_varlen_inputs([12, 8], 2)
    asked = []
    monkeypatch.setattr(mixer_kernels.packed_rows, "backward_into", lambda grads, *_: asked.append(grads))
    options = {"frozen": set(inputs) - {"k"}}
    value_and_gradients(hyena_mixer_varlen, inputs, torch.randn(20, 2), **options)
    assert [[grad is not None for grad in grads] for grads in asked] == [[False, True, False, False, False]]


LENGTHS = [3, 256, 20_000, 257, 5000, *range(60, 500, 7)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_error_is_within_budget_on_a_gpu(dtype: torch.dtype) -> None:
    check("hyena_mixer_varlen", hyena_mixer_varlen_inputs(LENGTHS, 100, dtype=dtype, device="cuda"))
    check("fftconv_varlen", fftconv_varlen_inputs(LENGTHS, 40, dtype=dtype, device="cuda"))


@pytest.mark.gpu
def test_no_row_sees_another_on_a_gpu() -> None:
    """Any number of rows in a program, and a NaN in another row, leave a row's bits."""
    made = hyena_mixer_varlen_inputs(LENGTHS, 128, dtype=torch.bfloat16, device="cuda")
    bounds = made.pop("cu_seqlens")
    dy = torch.randn(sum(LENGTHS), 128, device="cuda")

    def run(part: slice, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        inputs = {**made, "x": made["x"][part]}
        results = value_and_gradients(hyena_mixer_varlen, inputs, dy[part], cu_seqlens=cu_seqlens)
        return results["y"], results["dx"]

    everything = run(slice(None), bounds)
    made["x"][-1] = float("nan")
    spoilt = run(slice(None), bounds)
    for first, count in ((0, 1), (1, 1), (2, 1), (3, 2), (5, 3), (8, 20)):
        part = slice(int(bounds[first]), int(bounds[first + count]))
        alone = run(part, bounds[first : first + count + 1] - bounds[first])
        for one, whole, other in zip(alone, everything, spoilt, strict=True):
            assert torch.equal(one, whole[part])
            assert torch.equal(one, other[part])
