"""``linear_cross_entropy`` against ``torch.nn.functional.cross_entropy`` and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels import linear_cross_entropy, use_backend
from hyena_kernels.common import sizes
from hyena_kernels.testing import Inputs, check, linear_cross_entropy_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_refused
from tests.hyena_kernels.promises import every_promise, passes_opcheck

every_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def with_ignored(inputs: Inputs, ignored: int = -100) -> Inputs:
    """Every third target is left out."""
    targets = inputs["targets"].clone()
    targets.view(-1)[::3] = ignored
    return {**inputs, "targets": targets}


@every_reduction
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(2,), (3, 31), (2, 3, 17)], ids=str)
def test_error_is_within_budget(shape: tuple[int, ...], smoothing: float, reduction: str) -> None:
    inputs = with_ignored(linear_cross_entropy_inputs(*shape, width=70))
    check("linear_cross_entropy", inputs, reduction=reduction, label_smoothing=smoothing)


@every_reduction
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype, reduction: str) -> None:
    for target_dtype in (torch.uint8, torch.int32):
        inputs = linear_cross_entropy_inputs(300, dtype=dtype, target_dtype=target_dtype)
        found = check("linear_cross_entropy", inputs, reduction=reduction, ignore_index=4)
        assert found.keys() == {"y", "dhidden", "dweight"}
        assert linear_cross_entropy(**inputs).dtype == torch.promote_types(dtype, torch.float32)


@every_reduction
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_equals_torch_in_float64(smoothing: float, reduction: str) -> None:
    inputs = with_ignored(linear_cross_entropy_inputs(4, 9, tokens=5, width=3, dtype=torch.float64))
    expected = F.cross_entropy(
        (inputs["hidden"] @ inputs["weight"].T).flatten(0, 1),
        inputs["targets"].flatten(),
        label_smoothing=smoothing,
        reduction=reduction,
    )
    found = linear_cross_entropy(**inputs, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("scratch", [1, 3000])
def test_slices_do_not_matter(scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", scratch)
    for shape in ((5, 11), (50, 2)):
        check("linear_cross_entropy", with_ignored(linear_cross_entropy_inputs(*shape)), reduction="none")
        check("linear_cross_entropy", with_ignored(linear_cross_entropy_inputs(*shape)))


def test_the_logits_of_all_positions_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 20_000)
    rows: list[int] = []
    linear = F.linear

    def recorded(hidden: Tensor, weight: Tensor) -> Tensor:
        rows.append(len(hidden))
        return linear(hidden, weight)

    monkeypatch.setattr(F, "linear", recorded)
    with use_backend("torch"):
        value_and_gradients(linear_cross_entropy, linear_cross_entropy_inputs(3, 1000), torch.ones(()))
    assert sum(rows) == 2 * 3000
    assert max(rows) <= 62


def test_nothing_counts_where_every_target_is_left_out() -> None:
    inputs = linear_cross_entropy_inputs(2, 5)
    inputs["targets"].fill_(-100)
    assert linear_cross_entropy(**inputs).isnan()
    for reduction in ("sum", "none"):
        found = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()), reduction=reduction)
        assert all(not value.any() for value in found.values())


def test_a_position_that_is_left_out_gets_no_gradient_and_gives_none() -> None:
    inputs = linear_cross_entropy_inputs(20)
    inputs["targets"][3] = -100
    found = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()))
    assert not found["dhidden"][3].any()
    others = {**inputs, "hidden": inputs["hidden"].clone()}
    others["hidden"][3] += 1
    again = value_and_gradients(linear_cross_entropy, others, torch.ones(()))
    torch.testing.assert_close(again["dweight"], found["dweight"], rtol=1e-6, atol=1e-7)


def test_an_ignored_id_does_not_wrap_around() -> None:
    """-100 is 156 in eight bits."""
    inputs = linear_cross_entropy_inputs(30, tokens=200, target_dtype=torch.uint8)
    inputs["targets"].fill_(156)
    check("linear_cross_entropy", inputs)


def test_no_positions() -> None:
    found = value_and_gradients(
        linear_cross_entropy, linear_cross_entropy_inputs(0, width=3), torch.ones(()), reduction="sum"
    )
    assert found["y"] == 0
    assert not found["dweight"].any()
    assert linear_cross_entropy(**linear_cross_entropy_inputs(0)).isnan()


def test_all_of_hidden_gives_what_its_slice_gives() -> None:
    hidden, weight = (linear_cross_entropy_inputs(2, 9)[name] for name in ("hidden", "weight"))
    ids = torch.randint(7, 12, (2, 9))

    def sliced(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden[:, :-1], weight, ids[:, 1:])

    def whole(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, F.pad(ids[:, 1:], (0, 1), value=-100))

    tensors = {"hidden": hidden, "weight": weight}
    expected = value_and_gradients(sliced, tensors, torch.ones(()))
    for name, value in value_and_gradients(whole, tensors, torch.ones(())).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_casts_as_it_does_for_a_linear_layer(dtype: torch.dtype) -> None:
    inputs = linear_cross_entropy_inputs(50)
    with torch.autocast("cpu", dtype):
        found = value_and_gradients(linear_cross_entropy, inputs, torch.ones(()))
    narrow = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    expected = value_and_gradients(linear_cross_entropy, narrow, torch.ones(()))
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].float())
    wide = linear_cross_entropy_inputs(50, dtype=torch.float64)
    with torch.autocast("cpu", dtype):
        assert linear_cross_entropy(**wide).dtype == torch.float64


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 3000)
    for reduction in ("sum", "none"):
        results = value_and_gradients(
            linear_cross_entropy, linear_cross_entropy_inputs(3, 20), torch.ones(()), reduction=reduction
        )
        assert not any(value.isnan().any() for value in results.values())


@pytest.mark.parametrize("target", [-1, 16, 2**40 + 3])
def test_a_target_out_of_range_is_an_index_error(target: int) -> None:
    inputs = linear_cross_entropy_inputs(3)
    inputs["targets"][1] = target
    with pytest.raises(IndexError, match="out of bounds"):
        linear_cross_entropy(**inputs)


H, W, T = torch.zeros(2, 4, 3), torch.zeros(5, 3), torch.zeros(2, 4, dtype=torch.long)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "hidden dtype": ({"hidden": H.int()}, TypeError, "linear_cross_entropy: hidden (2, 4, 3) has dtype torch.int32"),
    "no hidden": (
        {"hidden": 0.0},
        TypeError,
        "linear_cross_entropy: hidden must be a tensor of shape (…, D), got float",
    ),
    "weight rank": ({"weight": W[0]}, ValueError, "linear_cross_entropy: weight has shape (3,), expected (V, D)"),
    "widths": ({"weight": W[:, :2]}, ValueError, "hidden (…, D) has shape (2, 4, 3), weight (V, D) (5, 2) and targets"),
    "no tokens": ({"weight": W[:0]}, ValueError, "weight (V, D) (0, 3) and targets (…) (2, 4): they must fit together"),
    "positions": ({"targets": T[:, 1:]}, ValueError, "and targets (…) (2, 3): they must fit together"),
    "dimensions": ({"targets": T[0]}, ValueError, "and targets (…) (4,): they must fit together"),
    "probabilities": ({"targets": H}, TypeError, "targets (2, 4, 3) has dtype torch.float32, expected integers"),
    "dtypes": (
        {"weight": W.half()},
        TypeError,
        "hidden (2, 4, 3) has dtype torch.float32 and weight (5, 3) has torch.float16",
    ),
    "smoothing": ({"label_smoothing": 1.5}, ValueError, "linear_cross_entropy: label_smoothing 1.5 is outside 0 to 1"),
    "reduction": ({"reduction": "max"}, ValueError, "unknown reduction 'max': choose one of 'mean', 'sum', 'none'"),
    "device": ({"targets": T.to("meta")}, ValueError, "weight (5, 3) on cpu, targets (2, 4) on meta"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(linear_cross_entropy, error, message, **{"hidden": H, "weight": W, "targets": T, **change})


def small(length: int, **options: Any) -> Inputs:
    return with_ignored(linear_cross_entropy_inputs(2, length, tokens=5, width=3, **options))


OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "none, smoothed": {"reduction": "none", "label_smoothing": 0.2},
}


@every_promise
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_what_every_op_guarantees(promise: Any, options: dict[str, Any]) -> None:
    with use_backend("torch"):
        promise("linear_cross_entropy", small, options)


@pytest.mark.slow
@pytest.mark.parametrize("every_position", [False, True])
def test_passes_opcheck(every_position: bool) -> None:
    passes_opcheck("linear_cross_entropy", small(4), -100, 0.1, every_position)
