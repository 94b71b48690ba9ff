"""Triton kernels of ``linear_cross_entropy`` against float64, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hyena_kernels import linear_cross_entropy, use_backend
from hyena_kernels.backends.triton import linear_cross_entropy as kernels
from hyena_kernels.common.inputs import LinearCrossEntropyInputs
from hyena_kernels.testing import Inputs, check, linear_cross_entropy_inputs, value_and_gradients

OP = "linear_cross_entropy"


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


def with_ignored(inputs: Inputs) -> Inputs:
    """Every third target is left out."""
    targets = inputs["targets"].clone()
    targets.view(-1)[::3] = 4
    return {**inputs, "targets": targets}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("reduction", "smoothing"), [("sum", 0.0), ("none", 0.1)])
def test_dtypes(dtype: torch.dtype, reduction: str, smoothing: float) -> None:
    target_dtype = torch.uint8 if reduction == "none" else torch.int64
    inputs = with_ignored(linear_cross_entropy_inputs(150, width=70, dtype=dtype, target_dtype=target_dtype))
    check(OP, inputs, reduction=reduction, label_smoothing=smoothing, ignore_index=4)


# Widths of one and of several tiles of columns, vocabularies up to the largest.
@pytest.mark.parametrize(("tokens", "width"), [(1, 20), (12, 256), (17, 128), (32, 65)])
def test_sizes(tokens: int, width: int) -> None:
    check(OP, linear_cross_entropy_inputs(3, 21, tokens=tokens, width=width), label_smoothing=0.1)


@pytest.mark.parametrize("shape", [(1,), (2, 3, 5)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    check(OP, linear_cross_entropy_inputs(*shape, tokens=6, width=90), reduction="none")


def test_losses_of_a_scalar_target() -> None:
    hidden, weight, target = linear_cross_entropy_inputs(tokens=5, width=3).values()
    expected = -(weight.double() @ hidden.double()).log_softmax(0)[target]
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, target).double(), expected, rtol=1e-6, atol=1e-6)


def test_slices_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ``hidden[:, :-1]`` nor ``ids[:, 1:]`` is copied."""
    inputs = linear_cross_entropy_inputs(3, 40, tokens=12)
    ids = torch.cat([torch.full((3, 1), 99), inputs["targets"]], dim=1)
    states = torch.cat([inputs["hidden"], torch.full((3, 1, 32), float("nan"))], dim=1)
    views = {"hidden": states[:, :-1], "weight": inputs["weight"].t().contiguous().t(), "targets": ids[:, 1:]}
    launched: list[Tensor] = []
    launch = kernels.launch

    def recorded(kernel: object, grid: tuple[int, ...], args: tuple[object, ...], constants: object) -> None:
        launched.extend(arg for arg in args if isinstance(arg, Tensor))
        launch(kernel, grid, args, constants)

    expected = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()))
    monkeypatch.setattr(kernels, "launch", recorded)
    found = value_and_gradients(linear_cross_entropy, views, torch.ones(()))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    read = {tensor.data_ptr() for tensor in launched}
    assert {tensor.data_ptr() for tensor in views.values()} <= read


def test_programs_go_over_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PROGRAMS", {"forward": 2, "backward": 2})
    inputs = with_ignored(linear_cross_entropy_inputs(2, 150))
    for reduction in ("sum", "none"):
        check(OP, inputs, reduction=reduction, ignore_index=4)


def test_nan_for_a_target_out_of_range_and_nothing_for_one_that_is_left_out() -> None:
    inputs = linear_cross_entropy_inputs(6, tokens=12, width=5)
    inputs["targets"][:5] = torch.tensor([-1, 12, 2**32 + 3, -100, 4])
    # A position that is left out is not read.
    inputs["hidden"][3] = float("nan")
    found = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()), reduction="none")
    assert found["y"].isnan().tolist() == [True, True, True, False, False, False]
    assert found["dhidden"].isnan().all(dim=1).tolist() == [True, True, True, False, False, False]
    assert not found["y"][3]
    assert not found["dhidden"][3].any()
    inputs["targets"][:3] = 4
    found = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()))
    assert all(value.isfinite().all() for value in found.values())


def test_large_logits_do_not_overflow() -> None:
    inputs = linear_cross_entropy_inputs(40)
    inputs["hidden"] *= 1000
    check(OP, inputs)


def test_small_gradients_do_not_underflow() -> None:
    """The gradient of a mean over 2^20 positions is below what float16 holds."""
    inputs = linear_cross_entropy_inputs(150, dtype=torch.float16)
    narrow = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()), reduction="sum")

    def scaled(**tensors: Tensor) -> Tensor:
        return linear_cross_entropy(**tensors, reduction="sum") * 2.0**-12

    found = value_and_gradients(scaled, inputs, torch.tensor(2.0**12))
    assert torch.equal(found["dweight"], narrow["dweight"])
    [tiny] = torch.autograd.grad(scaled(**{**inputs, "weight": inputs["weight"].requires_grad_()}), inputs["weight"])
    torch.testing.assert_close(tiny.float() * 2.0**12, narrow["dweight"].float(), rtol=0, atol=2.0**-13)


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written() -> None:
    inputs = with_ignored(linear_cross_entropy_inputs(2, 35))
    for reduction in ("sum", "none"):
        check(OP, inputs, reduction=reduction, ignore_index=4)


def test_backward_gives_what_is_needed_and_nothing_else() -> None:
    inputs = LinearCrossEntropyInputs(*linear_cross_entropy_inputs(2, 20).values())
    full = kernels.backward(torch.ones(()), inputs, -100, 0.0, False, [True, True, False])
    for needs in itertools.product([False, True], [False, True]):
        found = kernels.backward(torch.ones(()), inputs, -100, 0.0, False, [*needs, False])
        for gradient, expected, needed in zip(found, full, (*needs, False), strict=True):
            assert torch.equal(gradient, expected) if needed else gradient.shape == (0,), needs


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [128, 256])
@pytest.mark.parametrize("length", [1000, 1 << 20])
def test_error_is_within_budget_on_a_gpu(length: int, width: int, dtype: torch.dtype) -> None:
    inputs = with_ignored(linear_cross_entropy_inputs(1, length, width=width, dtype=dtype, device="cuda"))
    check(OP, inputs, ignore_index=4)
    check(OP, inputs, ignore_index=4, reduction="none", label_smoothing=0.1)


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = linear_cross_entropy_inputs(2, 100_003, width=128, dtype=torch.bfloat16, device="cuda")
    first = value_and_gradients(linear_cross_entropy, inputs, torch.ones((), device="cuda"))
    for _ in range(100):
        for name, value in value_and_gradients(linear_cross_entropy, inputs, torch.ones((), device="cuda")).items():
            assert torch.equal(value, first[name]), name
