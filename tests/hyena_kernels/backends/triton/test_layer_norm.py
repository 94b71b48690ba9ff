"""Triton kernels of ``layer_norm`` and ``add_layer_norm`` against float64, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import BackendError, add_layer_norm, layer_norm, use_backend
from hyena_kernels.backends.triton import layer_norm as kernels
from hyena_kernels.backends.triton.support import MAX_NORM_WIDTH
from hyena_kernels.common.inputs import LayerNormInputs
from hyena_kernels.testing import OPS, add_layer_norm_inputs, check, layer_norm_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_same

FP16, BF16, FP32 = torch.float16, torch.bfloat16, torch.float32


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a large tile as for a small one."""
    monkeypatch.setattr(kernels, "COLUMNS", 1024)


def test_default_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "COLUMNS", 32)
    check("layer_norm", layer_norm_inputs(5, 70))


# Widths of less than a warp, of one and of several parts, and ends within a part.
@pytest.mark.parametrize("width", [1, 3, 97, 128, 200, 300, 1000, 4096])
def test_widths(width: int) -> None:
    rows = max(2, 150 // width)
    check("add_layer_norm", add_layer_norm_inputs(rows, width))


@pytest.mark.parametrize(("dtype", "x_dtype"), [*itertools.product([FP16, BF16, FP32], repeat=2)], ids=str)
def test_dtypes(dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    inputs = add_layer_norm_inputs(13, 24, dtype=dtype, x_dtype=x_dtype, weight_dtype=x_dtype)
    check("add_layer_norm", inputs, dtype=BF16)
    del inputs["x"]
    check("layer_norm", inputs, dtype=FP32)


def test_each_program_goes_over_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MULTIPROCESSORS", 1)
    kernels._multiprocessors.cache_clear()
    own = kernels.tile(64, backward=True)
    x, residual, weight, bias = add_layer_norm_inputs(own.values["ROWS"] * 14 + 3, 64).values()
    check("layer_norm", {"residual": residual, "weight": weight, "bias": bias})
    shapes = []
    allocate = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, **how: shapes.append(shape) or allocate(shape, **how))
    kernels.add_backward(x, None, LayerNormInputs(residual, weight, bias), 1e-5, None, [False, True, False])
    kernels._multiprocessors.cache_clear()
    assert shapes == [(kernels.WARPS // own.values["num_warps"], 64)]


def test_more_programs_than_the_last_kernel_adds_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SUMMED", 4)
    check("layer_norm", layer_norm_inputs(150, 40))


@pytest.mark.parametrize("width", [24, 200])
def test_strides_change_no_bit(width: int) -> None:
    inputs = add_layer_norm_inputs(4, 6, width)
    dy = torch.randn(4, 6, 2 * width)
    expected = value_and_gradients(OPS["add_layer_norm"].function, inputs, dy)
    storage = torch.full((4, 6, 3 * width), float("nan"))
    storage[..., 5 : 5 + width] = inputs["x"]
    inputs["x"] = storage[..., 5 : 5 + width]
    # Rows at several strides are copied.
    inputs["residual"] = inputs["residual"].transpose(0, 1).contiguous().transpose(0, 1)
    inputs["weight"] = torch.stack((inputs["weight"], inputs["weight"]), dim=1)[:, 0]
    assert_same(value_and_gradients(OPS["add_layer_norm"].function, inputs, dy), expected)


def test_rows_at_one_stride_are_not_copied() -> None:
    wide = torch.randn(3, 5, 40)
    assert kernels._rows(wide[..., 8:32]).data_ptr() == wide[..., 8:32].data_ptr()
    assert kernels._rows(wide[:1, :1].expand(3, 5, 40)).untyped_storage().nbytes() == wide.nbytes
    assert kernels._rows(wide[..., ::2]).stride() == (20, 1)


def test_offsets_beyond_two_to_the_31() -> None:
    inputs = layer_norm_inputs(34, 16, dtype=FP16)
    dy = torch.randn(34, 16)
    expected = value_and_gradients(layer_norm, inputs, dy)
    # The system provides no memory for pages that are never touched.
    storage = torch.empty(34 << 26, dtype=FP16)
    inputs["residual"] = storage.as_strided((34, 16), (1 << 26, 1)).copy_(inputs["residual"])
    assert_same(value_and_gradients(layer_norm, inputs, dy), expected)


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written() -> None:
    for name, value in value_and_gradients(
        OPS["add_layer_norm"].function, add_layer_norm_inputs(21, 40, x_dtype=BF16), torch.randn(21, 80)
    ).items():
        assert not value.isnan().any(), name


def test_nan_stays_in_its_row() -> None:
    inputs = layer_norm_inputs(20, 24)
    dy = torch.randn(20, 24)
    clean = value_and_gradients(layer_norm, inputs, dy)
    inputs["residual"][7, 3] = float("nan")
    results = value_and_gradients(layer_norm, inputs, dy)
    others = torch.arange(20) != 7
    for name in ("y", "dresidual"):
        assert results[name][7].isnan().all()
        assert torch.equal(results[name][others], clean[name][others])
    assert results["dweight"].isnan().all()
    assert torch.equal(results["dbias"], clean["dbias"])


def test_backward_gives_what_is_needed_and_nothing_else() -> None:
    _, *rest = add_layer_norm_inputs(9, 24).values()
    inputs, dy, dsum = LayerNormInputs(*rest), torch.randn(9, 24), torch.randn(9, 24)
    full = kernels.add_backward(dy, dsum, inputs, 1e-5, BF16, [True] * 3)
    assert torch.equal(full[3], full[0].bfloat16())
    for *needs, copies in itertools.product([False, True], repeat=4):
        found = kernels.add_backward(dy, dsum, inputs, 1e-5, BF16 if copies else None, needs)
        for grad, expected, needed in zip(found, full, (*needs, copies), strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), (needs, copies)


def test_wider_rows_are_refused() -> None:
    inputs = layer_norm_inputs(1, MAX_NORM_WIDTH + 1)
    with pytest.raises(BackendError, match=f"takes D up to {MAX_NORM_WIDTH}, the inputs are wider"):
        layer_norm(**inputs)
    small: dict[str, Any] = layer_norm_inputs(1, 8)
    with pytest.raises(BackendError, match="has no float64 kernels"):
        layer_norm(**small, dtype=torch.float64)
    with pytest.raises(BackendError, match="has no float64 kernels"):
        layer_norm(**{name: tensor.double() for name, tensor in small.items()})
    with use_backend(None):
        assert layer_norm(**inputs).shape == (1, MAX_NORM_WIDTH + 1)


def shifted(rows: int, width: int) -> dict[str, Tensor]:
    """Rows whose means are 1000 times their deviations: the mean of the squares has no digit left for the variance."""
    inputs: Any = layer_norm_inputs(rows, width)
    inputs["residual"] += 1000
    return inputs


@pytest.mark.parametrize("width", [24, 300])
def test_variance_is_that_of_deviations(width: int) -> None:
    check("layer_norm", shifted(64, width))


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128, 256, 768, 1024, 4096])
@pytest.mark.parametrize("x_dtype", [BF16, FP32], ids=str)
def test_error_is_within_budget_on_a_gpu(width: int, x_dtype: torch.dtype) -> None:
    inputs = add_layer_norm_inputs(2, 5000, width, x_dtype=x_dtype, device="cuda")
    check("add_layer_norm", inputs, dtype=x_dtype)
    del inputs["x"]
    check("layer_norm", inputs, dtype=x_dtype)


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = add_layer_norm_inputs(100_003, 128, x_dtype=BF16, device="cuda")
    dy = torch.randn(100_003, 256, device="cuda")
    first = value_and_gradients(OPS["add_layer_norm"].function, inputs, dy)
    for _ in range(20):
        assert_same(value_and_gradients(OPS["add_layer_norm"].function, inputs, dy), first)


@pytest.mark.gpu
def test_no_result_waits_for_the_host_on_a_gpu() -> None:
    """A CUDA graph captures both directions, and its replay gives the results for other values."""
    leaves = [tensor.requires_grad_() for tensor in add_layer_norm_inputs(1000, 128, device="cuda").values()]
    dy = torch.randn(1000, 128, device="cuda")

    def step() -> list[Tensor]:
        y, total = add_layer_norm(*leaves)
        return [y, total, *torch.autograd.grad([y, total], leaves, [dy, dy])]

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves[0].mul_(0.5)
    expected = step()
    graph.replay()
    torch.cuda.synchronize()
    for value, wanted in zip(captured, expected, strict=True):
        assert torch.equal(value, wanted)
