"""The shared fixtures do what tests rely on."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_uninitialised_memory_is_nan(dtype: torch.dtype) -> None:
    like = torch.zeros(2, 3, dtype=dtype)
    for tensor in (
        torch.empty(2, 3, dtype=dtype, requires_grad=True),
        torch.empty_like(like),
        torch.empty_strided((2, 3), (1, 2), dtype=dtype),
        like.new_empty(2, 3),
        like.new_empty_strided((2, 3), (1, 2)),
    ):
        assert tensor.isnan().all()
    assert not like.isnan().any()


@pytest.mark.usefixtures("nan_empty")
def test_integers_stay_usable() -> None:
    assert torch.empty(3, dtype=torch.int64).dtype == torch.int64
    assert torch.empty_like(torch.zeros(2, dtype=torch.bool)).shape == (2,)


@pytest.mark.usefixtures("nan_empty")
def test_poison_survives_compilation() -> None:
    def half_written(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        y[0] = x[0]
        return y

    y = torch.compile(half_written, backend="aot_eager", fullgraph=True)(torch.ones(2))
    assert y[0] == 1
    assert y[1].isnan()


def test_poison_ends_with_the_test() -> None:
    assert torch.empty is torch._C._VariableFunctions.empty


@pytest.mark.parametrize("run", [1, 2])
def test_seed_is_the_same_for_every_test(run: int) -> None:
    first = torch.rand(1).item()
    assert first == torch.rand(1, generator=torch.Generator().manual_seed(20230627)).item()
