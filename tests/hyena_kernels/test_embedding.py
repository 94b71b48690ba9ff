"""``embedding`` against ``torch.nn.functional.embedding`` and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hyena_kernels import embedding, use_backend
from hyena_kernels.backends.torch import embedding as plain
from hyena_kernels.testing import Inputs, check, embedding_inputs, relative_error, value_and_gradients
from tests.hyena_kernels.helpers import assert_refused
from tests.hyena_kernels.promises import every_promise, passes_opcheck


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 31), (9001,)], ids=str)
def test_error_is_within_budget(shape: tuple[int, ...]) -> None:
    check("embedding", embedding_inputs(*shape, width=40))


@pytest.mark.parametrize("tokens", [1, 5, 64, 65, 300])
def test_vocabularies_of_any_size(tokens: int) -> None:
    check("embedding", embedding_inputs(2, 400, tokens=tokens, width=3))


@pytest.mark.parametrize("id_dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype, id_dtype: torch.dtype) -> None:
    check("embedding", embedding_inputs(300, dtype=dtype, id_dtype=id_dtype))


def test_gradients_of_16_bits_are_summed_in_float32() -> None:
    """Torch's own backward pass loses all but the first of 2^14 equal gradients."""
    ids, weight = torch.zeros(1 << 14, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bfloat16)
    found = value_and_gradients(embedding, {"ids": ids, "weight": weight}, torch.tensor(1.0))["dweight"]
    assert found.tolist() == [[1 << 14] * 3, [0] * 3]
    theirs = value_and_gradients(
        lambda ids, weight: F.embedding(ids, weight), {"ids": ids, "weight": weight}, torch.tensor(1.0)
    )
    assert theirs["dweight"][0, 0] < 1000


def test_many_gradients_are_summed_in_parts() -> None:
    inputs = embedding_inputs(1 << 16, tokens=4, width=2)
    dy = torch.randn(1 << 16, 2)
    exact = value_and_gradients(embedding, {**inputs, "weight": inputs["weight"].double()}, dy)
    found = value_and_gradients(embedding, inputs, dy)
    assert relative_error(found["dweight"], exact["dweight"]) < 1e-6


def test_nan_stays_in_the_row_of_its_token() -> None:
    dy = torch.randn(50, 3)
    ids = torch.arange(50) % 5
    dy[7, 1] = float("nan")
    found = value_and_gradients(embedding, {"ids": ids, "weight": torch.randn(6, 3)}, dy)["dweight"]
    expected = torch.zeros(6, 3, dtype=torch.bool)
    expected[2, 1] = True
    assert torch.equal(found.isnan(), expected)


def test_no_ids_give_no_rows_and_a_gradient_of_zero() -> None:
    found = value_and_gradients(embedding, embedding_inputs(0, tokens=3, width=2), torch.ones(()))
    assert found["y"].shape == (0, 2)
    assert torch.equal(found["dweight"], torch.zeros(3, 2))


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_POSITIONS", 7)
    for shape in ((1,), (3, 20)):
        inputs = embedding_inputs(*shape)
        results = value_and_gradients(embedding, inputs, torch.ones(()))
        assert not any(value.isnan().any() for value in results.values())
        check("embedding", inputs)


@pytest.mark.parametrize("id", [-1, 16, 300, -(2**40) + 3])
def test_an_id_out_of_range_is_an_index_error(id: int) -> None:
    with pytest.raises(IndexError, match="out of range"):
        embedding(torch.tensor([3, id]), torch.zeros(16, 2))


def test_autocast_has_no_effect() -> None:
    inputs = embedding_inputs(10)
    with torch.autocast("cpu", torch.bfloat16):
        y = embedding(**inputs)
    assert y.dtype == torch.float32
    assert torch.equal(y, inputs["weight"][inputs["ids"]])


IDS, WEIGHT = torch.zeros(4, dtype=torch.long), torch.zeros(5, 2)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "ids of floats": (
        {"ids": IDS.float()},
        TypeError,
        "embedding: ids (4,) has dtype torch.float32, expected integers",
    ),
    "ids of bools": ({"ids": IDS.bool()}, TypeError, "embedding: ids (4,) has dtype torch.bool, expected integers"),
    "no ids": ({"ids": [0]}, TypeError, "embedding: ids must be a tensor of integers (…), got list"),
    "sparse ids": ({"ids": IDS.to_sparse()}, TypeError, "embedding: ids (4,) has layout torch.sparse_coo"),
    "weight rank": ({"weight": WEIGHT[0]}, ValueError, "embedding: weight has shape (2,), expected (V, D)"),
    "weight dtype": ({"weight": WEIGHT.int()}, TypeError, "embedding: weight (5, 2) has dtype torch.int32"),
    "no tokens": ({"weight": WEIGHT[:0]}, ValueError, "embedding: weight (V, D) has shape (0, 2), expected V ≥ 1"),
    "no columns": ({"weight": WEIGHT[:, :0]}, ValueError, "embedding: weight (V, D) has shape (5, 0)"),
    "device": ({"weight": WEIGHT.to("meta")}, ValueError, "got ids (4,) on cpu, weight (5, 2) on meta"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(embedding, error, message, **{"ids": IDS, "weight": WEIGHT, **change})


def small(length: int, **options: Any) -> Inputs:
    return embedding_inputs(2, length, tokens=5, width=3, **options)


@every_promise
def test_what_every_op_guarantees(promise: Any) -> None:
    with use_backend("torch"):
        promise("embedding", small, {})


@pytest.mark.slow
def test_passes_opcheck() -> None:
    passes_opcheck("embedding", small(4))
