"""The Triton kernel of ``position_dropout`` against plain PyTorch, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

# Imported here, so that it is interpreted whichever test asks for it first.
import hyena_kernels.backends.triton.position_dropout  # noqa: F401
from hyena_kernels import BackendError, position_dropout, use_backend
from hyena_kernels.testing import check, position_dropout_inputs, value_and_gradients

OPTIONS = {"p": 0.3, "seed": (1 << 64) - 5}


def both(x: Tensor, samples: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
    triton, plain = (
        position_dropout(x, samples=samples, offset=offset, backend=backend, **OPTIONS)
        for backend in ("triton", "torch")
    )
    return triton, plain


# One channel, a block that is not full, several blocks; positions of one tile and of several.
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 20, 10), (2, 19, 300)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_bits_are_those_of_plain_pytorch(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    inputs = position_dropout_inputs(*shape, dtype=dtype)
    # Key, sample and position have their highest bit set.
    inputs["samples"][0] = -7
    found, expected = both(**inputs, offset=(1 << 32) - shape[1])
    assert torch.equal(found, expected)


def test_strides() -> None:
    x = torch.randn(3, 10, 8)
    for view in (x.transpose(0, 2).contiguous().transpose(0, 2), x[:, ::2, 1:], x[:1].expand(3, 10, 8)):
        found, expected = both(view, torch.arange(6)[::2])
        assert torch.equal(found, expected)
        assert found.is_contiguous()


@pytest.mark.parametrize("p", [0.0, 2**-40, 1 - 2**-40, 1.0])
def test_limits_of_p(p: float) -> None:
    x = torch.tensor([[[1.0, float("inf"), float("nan"), -2.0, 3.0]]])
    y = position_dropout(x, p, seed=1, samples=torch.tensor([3]), backend="triton")
    assert torch.equal(y.isnan(), x.isnan() & (p < 0.5))
    assert torch.equal(y.nan_to_num(), x.nan_to_num() if p < 0.5 else torch.zeros_like(x))


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written_and_the_gradient_has_the_same_mask() -> None:
    inputs = position_dropout_inputs(2, 20, 11)
    found = value_and_gradients(position_dropout, inputs, torch.ones(()), backend="triton", **OPTIONS)
    assert torch.equal(found["y"] != 0, found["dx"] != 0)
    with use_backend("triton"):
        check("position_dropout", inputs, **OPTIONS)
    empty = position_dropout(torch.ones(0, 3, 4), samples=torch.zeros(0).long(), backend="triton", **OPTIONS)
    assert empty.shape == (0, 3, 4)


def test_float64_and_rows_beyond_32_bits_are_refused() -> None:
    x, samples = position_dropout_inputs(1, 2, 3, dtype=torch.float64).values()
    with pytest.raises(BackendError, match="has no float64 kernels"):
        position_dropout(x, samples=samples, backend="triton", **OPTIONS)
    with pytest.raises(BackendError, match="takes L below 2\\^31"):
        position_dropout(torch.zeros(1, 1, 1).expand(1, 1 << 31, 1), samples=samples, backend="triton", **OPTIONS)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_bits_are_those_of_a_cpu(dtype: torch.dtype) -> None:
    x, samples = position_dropout_inputs(3, 5000, 200, dtype=dtype).values()
    expected = position_dropout(x, samples=samples, **OPTIONS)
    # The samples may stay on the CPU.
    for numbers in (samples, samples.cuda()):
        assert torch.equal(position_dropout(x.cuda(), samples=numbers, **OPTIONS).cpu(), expected)
