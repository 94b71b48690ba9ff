"""The long convolution in Triton, interpreted, against float64: values, gradients, every pass and every regime.

An interpreted program of any size takes a good part of a second, so most cases force a small plan on a short signal.
test_resources.py compiles the plans that lengths get by default, and test_gpu.py runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import BackendError, fftconv, use_backend
from hyena_kernels.backends.triton import fftconv as launcher, passes, plan as plans, table
from hyena_kernels.backends.triton.plan import Plan
from hyena_kernels.common.inputs import FftconvInputs
from hyena_kernels.testing import (
    check,
    error_budget,
    fftconv_inputs,
    oracle_fftconv,
    reference_fftconv,
    relative_error,
)
from hyena_kernels.testing.resources.triton_cases import fftconv as cases
from tests.hyena_kernels.helpers import assert_products_need_not_fit

ONE = Plan(1, 1, 64)
ONE_BY_THREE = Plan(3, 1, 16)
PASSES = Plan(1, 16, 16)
PASSES_BY_THREE = Plan(3, 16, 16)


def errors(
    inputs: dict[str, Tensor | None], plan: Plan, causal: bool = True, needs: Sequence[bool] = (True,) * 5
) -> dict[str, tuple[float, float]]:
    """(error, budget) of the result and of every wanted gradient."""
    tensors = list(inputs.values())
    wide = {name: None if x is None else x.double().requires_grad_() for name, x in inputs.items()}
    narrow = {name: None if x is None else x.clone().requires_grad_() for name, x in inputs.items()}
    oracle = oracle_fftconv(**wide, causal=causal)
    plain = reference_fftconv(**narrow, causal=causal)
    # Channel-last, as a gradient often comes.
    dy = torch.randn_like(plain.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    oracle.backward(dy.double())
    plain.backward(dy)
    wanted = [needed and tensor is not None for needed, tensor in zip(needs, tensors, strict=True)]
    y = launcher.forward(FftconvInputs(*tensors), causal, plan=plan)
    grads = launcher.backward(dy, FftconvInputs(*tensors), causal, wanted, plan=plan)
    found = {"y": (relative_error(y, oracle.detach()), error_budget(plain.detach(), oracle.detach()))}
    for name, grad, wanted in zip(inputs, grads, needs, strict=True):
        if inputs[name] is None or not wanted:
            assert grad.numel() == 0
            continue
        assert grad.shape == inputs[name].shape
        assert grad.dtype == inputs[name].dtype
        assert grad.is_contiguous()
        if name == "D":
            # A sum in float64, rounded once.
            found["dD"] = relative_error(grad, wide["D"].grad), torch.finfo(grad.dtype).eps / 2
            continue
        bounds = error_budget(narrow[name].grad, wide[name].grad)
        found[f"d{name}"] = (relative_error(grad, wide[name].grad), bounds)
    return found


def assert_within(found: dict[str, tuple[float, float]]) -> None:
    beyond = {name: (error, budget) for name, (error, budget) in found.items() if not error <= budget}
    assert not beyond, beyond


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "dtype"),
    [
        (ONE, torch.float32),
        (ONE, torch.bfloat16),
        (ONE, torch.float16),
        (ONE_BY_THREE, torch.float32),
        (ONE_BY_THREE, torch.bfloat16),
        (PASSES, torch.float32),
        (PASSES, torch.float16),
        (PASSES_BY_THREE, torch.float16),
    ],
    ids=str,
)
def test_values_and_gradients_in_every_dtype(plan: Plan, dtype: torch.dtype, nan_empty: None) -> None:
    inputs = fftconv_inputs(1, 2 if plan is ONE else 1, plan.size - 1, dtype=dtype, skip=False)
    assert_within(errors(inputs, plan))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "channels", "dtype"),
    [
        (ONE, 2, torch.bfloat16),
        (ONE, 2, torch.float16),
        (ONE_BY_THREE, 2, torch.float16),
        (PASSES, 1, torch.bfloat16),
    ],
    ids=str,
)
def test_filters_of_16_bits(plan: Plan, channels: int, dtype: torch.dtype, nan_empty: None) -> None:
    inputs = fftconv_inputs(1, channels, plan.size - 3, dtype=dtype, filter_dtype=dtype)
    assert_within(errors(inputs, plan))


@pytest.mark.parametrize("length", [1, 31])
def test_every_length_of_a_plan(length: int, nan_empty: None) -> None:
    inputs = fftconv_inputs(1, 1, length, skip=False, pre_gate=length == 1)
    assert_within(errors(inputs, ONE_BY_THREE))


@pytest.mark.parametrize(("plan", "taps", "causal"), [(ONE, 2, True), (ONE, 94, False), (ONE_BY_THREE, 29, False)])
def test_two_sided_and_short_filters(plan: Plan, taps: int, causal: bool, nan_empty: None) -> None:
    assert_within(errors(fftconv_inputs(1, 2, 48, taps), plan, causal=causal))


@pytest.mark.slow
@pytest.mark.parametrize("plan", [PASSES, PASSES_BY_THREE], ids=str)
def test_two_sided_in_several_passes(plan: Plan, nan_empty: None) -> None:
    assert_within(errors(fftconv_inputs(1, 1, plan.size - 1, plan.size - 2), plan, causal=False))


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "length"), [(ONE, 64), (PASSES, 256)], ids=str)
def test_every_lag_of_a_two_sided_filter(plan: Plan, length: int, nan_empty: None) -> None:
    """Both sides fill the transform, which has no more points than the signal."""
    assert plan.size == length
    assert_within(errors(fftconv_inputs(1, 1, length, 2 * length - 1, skip=False), plan, causal=False))


@pytest.mark.slow
def test_the_skip_and_its_gradient(nan_empty: None) -> None:
    # Here dD and dk have one number for each channel. Many channels make the error typical.
    inputs = fftconv_inputs(1, 12, 15, 1)
    assert_within(errors(inputs, Plan(1, 1, 16)))


@pytest.mark.parametrize("wanted", ["u", "k", "post_gate"])
def test_what_is_not_needed_is_not_computed(wanted: str, nan_empty: None) -> None:
    inputs = fftconv_inputs(1, 1, 60)
    assert_within(errors(inputs, ONE, needs=[name == wanted for name in inputs]))


@pytest.mark.parametrize(
    "needs", [[False, True, False, True, False], [False, False, True, False, False]], ids=["k and pre_gate", "D"]
)
def test_what_is_not_needed_in_several_passes(needs: list[bool], nan_empty: None) -> None:
    tensors = list(fftconv_inputs(1, 1, 60).values())
    dy = torch.randn(1, 1, 60)
    grads = launcher.backward(dy, FftconvInputs(*tensors), True, needs, plan=PASSES)
    single = launcher.backward(dy, FftconvInputs(*tensors), True, needs, plan=ONE)
    for tensor, grad, other, needed in zip(tensors, grads, single, needs, strict=True):
        assert grad.numel() == (tensor.numel() if needed else 0)
        torch.testing.assert_close(grad, other, rtol=1e-5, atol=1e-5)


def test_nothing_is_needed() -> None:
    inputs = list(fftconv_inputs(1, 1, 20).values())
    for plan in (ONE, PASSES):
        grads = launcher.backward(inputs[0], FftconvInputs(*inputs), True, [False] * 5, plan=plan)
        assert [grad.numel() for grad in grads] == [0] * 5


@pytest.mark.slow
@pytest.mark.parametrize("plan", [ONE, PASSES], ids=["one pass", "passes"])
def test_rows_that_share_the_filter(plan: Plan, monkeypatch: pytest.MonkeyPatch, nan_empty: None) -> None:
    """Four rows, two in a program, so there are two sums over the batch."""
    monkeypatch.setattr(launcher, "_PROGRAMS", 1)
    monkeypatch.setattr(launcher, "_MAX_ROWS", 2)
    assert_within(errors(fftconv_inputs(4, 1, 50), plan))


@pytest.mark.slow
def test_rows_share_a_two_sided_filter_with_a_factor_of_three_in_several_passes(nan_empty: None) -> None:
    assert_within(errors(fftconv_inputs(2, 1, 767, 766, dtype=torch.bfloat16), PASSES_BY_THREE, causal=False))


@pytest.mark.slow
def test_slices_of_channels(nan_empty: None) -> None:
    tensors = list(fftconv_inputs(1, 2, 40).values())
    dy = torch.randn(1, 2, 40)
    # First one row of each kind at a time, then all at once.
    sliced = launcher.backward(dy, FftconvInputs(*tensors), True, [True] * 5, plan=PASSES, scratch_bytes=1)
    whole = launcher.backward(dy, FftconvInputs(*tensors), True, [True] * 5, plan=PASSES)
    assert all(torch.equal(one, other) for one, other in zip(sliced, whole, strict=True))


@pytest.mark.slow
def test_several_tiles_of_columns(monkeypatch: pytest.MonkeyPatch, nan_empty: None) -> None:
    monkeypatch.setattr(table, "config", lambda *_: table.Config(warps=1, tile=4))
    assert_within(errors(fftconv_inputs(1, 1, 250, skip=False), PASSES))


def strided(inputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """The same values, every tensor with other strides."""
    u, k, D, pre_gate, post_gate = inputs.values()
    batch, channels, length = u.shape
    storage = torch.full((2 * batch, 3 * channels, 2 * length + 3), float("nan"))
    taps, skip = (torch.stack((x, x + 1), dim=-1)[..., 0] for x in (k, D))
    return {
        "u": storage[::2, 1::3, 3::2].copy_(u),
        "k": taps,
        "D": skip,
        "pre_gate": pre_gate.transpose(1, 2).contiguous().transpose(1, 2),
        "post_gate": post_gate.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    }


@pytest.mark.slow
def test_channel_last_and_sliced_inputs_are_read_in_place(nan_empty: None) -> None:
    inputs = fftconv_inputs(1, 2, 47)
    last = strided(inputs)
    dy = torch.randn(1, 47, 2).transpose(1, 2)
    y = launcher.forward(FftconvInputs(*inputs.values()), True, plan=PASSES)
    assert torch.equal(launcher.forward(FftconvInputs(*last.values()), True, plan=PASSES), y)
    for plan in (ONE, ONE_BY_THREE):
        results = launcher.backward(dy, FftconvInputs(*last.values()), True, [True] * 5, plan=plan)
        plain = launcher.backward(dy.contiguous(), FftconvInputs(*inputs.values()), True, [True] * 5, plan=plan)
        for one, other in zip(results, plain, strict=True):
            assert torch.equal(one, other)
            assert one.is_contiguous()


@pytest.mark.slow
def test_channel_last_and_sliced_inputs_of_a_batch_in_several_passes(nan_empty: None) -> None:
    assert_within(errors(strided(fftconv_inputs(2, 2, 200)), PASSES))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "shape", "strides"),
    [
        (ONE, (3, 1, 2), (1 << 30, 1, 1)),
        (ONE, (1, 3, 2), (1, 1 << 30, 1)),
        (ONE, (1, 1, 5), (1, 1, 1 << 29)),
        (ONE, (1, 1, 34), (1, 1, 1 << 26)),
        (PASSES, (3, 1, 2), (1 << 30, 1, 1)),
        (PASSES, (1, 1, 34), (1, 1, 1 << 26)),
    ],
    ids=["batch", "channels", "lanes", "digits", "batch in passes", "positions in passes"],
)
def test_offsets_beyond_two_to_the_31(plan: Plan, shape: tuple[int, int, int], strides: tuple[int, int, int]) -> None:
    inputs = fftconv_inputs(*shape, dtype=torch.float16)
    # The system provides no memory for pages that are never touched.
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    inputs["u"] = torch.empty(last + 1, dtype=torch.float16).as_strided(shape, strides).copy_(inputs["u"])
    assert_within(errors(inputs, plan))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "batch", "programs"),
    [(ONE, 2, 256), (ONE, 4, 1), (PASSES, 2, 256)],
    ids=["one pass", "rows that share a program", "passes"],
)
def test_a_row_of_nan_stays_alone(plan: Plan, batch: int, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_PROGRAMS", programs)
    inputs = fftconv_inputs(batch, 2, 30)
    dy = torch.ones(batch, 2, 30)
    # Some rows that share its program come after it.
    row = batch // 2 - 1
    inputs["u"][row, 0, 7] = dy[row, 0, 11] = float("nan")
    results = {"y": launcher.forward(FftconvInputs(*inputs.values()), True, plan=plan)}
    results |= zip(
        inputs, launcher.backward(dy, FftconvInputs(*inputs.values()), True, [True] * 5, plan=plan), strict=True
    )
    for name, result in results.items():
        # The gradient of the filter is a sum over the batch. All other results belong to one row.
        own = result[0] if name in ("k", "D") else result[row, 0]
        assert own.isnan().any(), name
        own.zero_()
        assert not result.isnan().any(), name


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "batch", "rows"), [(ONE, 8, 2), (PASSES, 2, 1)], ids=["one pass", "passes"])
def test_bitwise_reproducible(plan: Plan, batch: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several sums over parts of the batch."""
    monkeypatch.setattr(launcher, "_PROGRAMS", 1)
    monkeypatch.setattr(launcher, "_MAX_ROWS", rows)
    inputs = list(fftconv_inputs(batch, 1, 60).values())
    dy = torch.randn(batch, 1, 60)
    first = launcher.backward(dy, FftconvInputs(*inputs), True, [True] * 5, plan=plan)
    second = launcher.backward(dy, FftconvInputs(*inputs), True, [True] * 5, plan=plan)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_op_with_its_own_plan() -> None:
    assert_within(check("fftconv", fftconv_inputs(1, 2, 200, skip=False), function=partial(fftconv, backend="triton")))


@pytest.mark.parametrize("shape", [(0, 2, 9), (2, 0, 9)])
def test_empty_batches_and_channels(shape: tuple[int, int, int]) -> None:
    inputs = fftconv_inputs(*shape)
    for x in inputs.values():
        x.requires_grad_()
    y = fftconv(inputs["u"], inputs["k"], inputs["D"], backend="triton")
    assert y.shape == shape
    y.sum().backward()
    assert inputs["k"].grad.shape == inputs["k"].shape
    assert not inputs["k"].grad.any()


def test_float64_is_refused_with_the_reason() -> None:
    u = torch.randn(1, 1, 8, dtype=torch.float64)
    with pytest.raises(BackendError, match="float64"):
        fftconv(u, u[0], backend="triton")


def test_a_plan_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="64 points is too short for L = 65"):
        launcher.forward(FftconvInputs(*fftconv_inputs(1, 1, 65).values()), True, plan=ONE)


def test_kernels_are_compiled_for_every_plan() -> None:
    names = {case.name.split(",")[0] for case in cases.aot_cases()}
    for length in [*range(1, 7000, 61), *(2**n + d for n in range(12, 24) for d in (-1, 0, 1)), 2**24]:
        for plan in (plans.plan(length), table.backward_plan(length, torch.device("cpu"))):
            assert plan.size >= length
            assert {f"{name} {groups} × {points}" for name, groups, points in table.keys(plan)} <= names


def interpreted(kernel: Any) -> bool:
    return type(kernel).__name__ == "InterpretedFunction"


def test_the_kernels_are_interpreted() -> None:
    assert interpreted(passes.row_forward)


# At 61 of these, the tap of the filter's gradient that is the skip's was beyond the budget.
@pytest.mark.parametrize("length", [1, 2, 16, 61, 65, 130])
def test_small_lengths_are_within_budget(length: int) -> None:
    with use_backend("triton"):
        check("fftconv", fftconv_inputs(2, 1, length))


# One span of positions and two, with gates and without, and each batch entry's sum.
@pytest.mark.parametrize(("batch", "channels", "length"), [(2, 1, 61), (1, 2, 130), (1, 1, 8193), (2, 2, 8200)])
@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_gradient_of_the_skip_is_rounded_once(
    batch: int, channels: int, length: int, gates: bool, dtype: torch.dtype
) -> None:
    inputs = fftconv_inputs(batch, channels, length, dtype=dtype, pre_gate=gates, post_gate=gates)
    tensors = FftconvInputs(**inputs)
    dy = torch.randn_like(tensors.u)
    needs = [False, False, True, False, False]
    dD = launcher.backward(dy, tensors, True, needs)[2]
    product = dy.double() * tensors.u
    for gate in (tensors.pre_gate, tensors.post_gate):
        product = product if gate is None else product * gate
    assert torch.equal(dD, product.sum(dim=(0, 2)).to(dD.dtype))
    # The same, whatever else is computed.
    if length < 1000:
        assert torch.equal(launcher.backward(dy, tensors, True, [tensor is not None for tensor in tensors])[2], dD)


def test_products_need_not_fit_the_dtype() -> None:
    with use_backend("triton"):
        assert_products_need_not_fit("fftconv", torch.float16, channels=2)
