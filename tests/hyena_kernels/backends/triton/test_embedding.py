"""Triton kernels of ``embedding`` against float64, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hyena_kernels import embedding, use_backend
from hyena_kernels.backends.triton import embedding as kernels
from hyena_kernels.common.inputs import EmbeddingInputs
from hyena_kernels.testing import check, embedding_inputs, value_and_gradients


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    for id_dtype in (torch.uint8, torch.int64):
        check("embedding", embedding_inputs(60, tokens=12, dtype=dtype, id_dtype=id_dtype))


# Widths below, at and above a tile of columns, and vocabularies of one and of several programs.
@pytest.mark.parametrize(("tokens", "width"), [(1, 128), (16, 1), (17, 5), (40, 131)])
def test_sizes(tokens: int, width: int) -> None:
    check("embedding", embedding_inputs(3, 11, tokens=tokens, width=width))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 5)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    check("embedding", embedding_inputs(*shape, tokens=9, width=200))


def test_strides_change_no_bit() -> None:
    inputs = embedding_inputs(3, 30, tokens=7)
    dy = torch.randn(3, 30, 32)
    plain = value_and_gradients(embedding, inputs, dy)
    # As a batch of windows of L + 1 tokens gives its inputs.
    ids = torch.cat([inputs["ids"], torch.full((3, 1), 99)], dim=1)[:, :-1]
    weight = inputs["weight"].t().contiguous().t()
    views = value_and_gradients(embedding, {"ids": ids, "weight": weight}, dy)
    assert torch.equal(views["y"], plain["y"])
    torch.testing.assert_close(views["dweight"], plain["dweight"], rtol=1e-6, atol=1e-6)
    turned = dy.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(value_and_gradients(embedding, {**inputs, "ids": ids}, turned)["dweight"], views["dweight"])


def test_programs_go_over_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    check("embedding", embedding_inputs(3, 150, tokens=10))
    shapes = []
    for length in (64, 500):
        ids, weight = embedding_inputs(length, tokens=10).values()
        allocate = torch.Tensor.new_empty

        def new_empty(tensor: torch.Tensor, shape: tuple[int, ...], **options: object) -> torch.Tensor:
            shapes.append(shape)
            return allocate(tensor, shape, **options)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "new_empty", new_empty)
            kernels.backward(torch.ones(length, 32), EmbeddingInputs(ids, weight), [False, True])
    assert shapes.count((2, 10, 32)) == 1
    assert shapes.count((1, 10, 32)) == 1


def test_a_row_of_nan_for_an_id_out_of_range() -> None:
    ids = torch.tensor([3, -1, 12, 2**32 + 3, 11])
    found = value_and_gradients(embedding, {"ids": ids, "weight": torch.randn(12, 5)}, torch.ones(()))
    assert torch.equal(found["y"].isnan().all(dim=1), torch.tensor([False, True, True, True, False]))
    assert found["dweight"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_nan_stays_in_the_row_of_its_token() -> None:
    dy = torch.randn(50, 3)
    dy[7, 1] = float("nan")
    found = value_and_gradients(embedding, {"ids": torch.arange(50) % 5, "weight": torch.randn(6, 3)}, dy)["dweight"]
    expected = torch.zeros(6, 3, dtype=torch.bool)
    expected[2, 1] = True
    assert torch.equal(found.isnan(), expected)


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written() -> None:
    check("embedding", embedding_inputs(2, 20, tokens=11))


def test_offsets_beyond_two_to_the_31() -> None:
    """The system provides no memory for pages that are never touched."""
    ids = torch.tensor([2, 0, 2])
    storage = torch.empty(3 << 30, dtype=torch.float16)
    dy = storage.as_strided((3, 4), (1 << 30, 1)).copy_(torch.randn(3, 4))
    inputs = EmbeddingInputs(ids, torch.randn(3, 4, dtype=torch.float16))
    found = kernels.backward(dy, inputs, [False, True])[1]
    assert torch.equal(found, kernels.backward(dy.contiguous(), inputs, [False, True])[1])
    assert torch.equal(found[0], dy[1])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("length", [1000, 1 << 20])
def test_error_is_within_budget_on_a_gpu(length: int, dtype: torch.dtype) -> None:
    for id_dtype in (torch.uint8, torch.int64):
        check("embedding", embedding_inputs(1, length, width=128, dtype=dtype, id_dtype=id_dtype, device="cuda"))


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = embedding_inputs(2, 100_003, width=128, device="cuda")
    dy = torch.randn(2, 100_003, 128, device="cuda")
    first = value_and_gradients(embedding, inputs, dy)
    for _ in range(100):
        assert torch.equal(value_and_gradients(embedding, inputs, dy)["dweight"], first["dweight"])
