"""``fftconv`` on the C++ kernels with filters that are much shorter than the row: direct products, and blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hyena_kernels import fftconv, hyena_mixer
from hyena_kernels.testing import check, fftconv_inputs, relative_error, value_and_gradients
from tests.hyena_kernels.helpers import assert_threads_do_not_matter

pytestmark = pytest.mark.usefixtures("cpp")

# (L, K): both sides of the limits of the direct way (128 taps, 1,024 positions), of a block (2,048 taps) and of four
# blocks, with chunks and blocks that the row ends in.
SIZES = [
    (1023, 64),
    (1024, 1),
    (1500, 128),
    (4099, 2),
    (5000, 128),
    (5000, 129),
    (8191, 200),
    (8192, 200),
    (9001, 1000),
]
BLOCKS = [(10_000, 2048), (16_384, 2049), (20_011, 3000)]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize(("length", "taps"), SIZES)
def test_few_taps(length: int, taps: int, causal: bool) -> None:
    # The error of a few numbers would be chance: no skip, and more channels for one or two taps.
    check("fftconv", fftconv_inputs(2, 2 if taps > 2 else 24, length, taps, skip=False), causal=causal)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize(("length", "taps"), BLOCKS)
def test_many_taps(length: int, taps: int, causal: bool) -> None:
    check("fftconv", fftconv_inputs(1, 2, length, taps, skip=False), causal=causal)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("taps", [100, 130])
def test_every_dtype(dtype: torch.dtype, taps: int) -> None:
    check("fftconv", fftconv_inputs(1, 32, 8999, taps, dtype=dtype), causal=False, gradients=dtype != torch.float64)


@pytest.mark.parametrize(("length", "taps", "causal"), [(9001, 77, True), (9001, 77, False), (9001, 1000, False)])
def test_float64_equals_plain_pytorch(length: int, taps: int, causal: bool) -> None:
    inputs = fftconv_inputs(2, 3, length, taps, dtype=torch.float64)
    dy = torch.randn(2, 3, length, dtype=torch.float64)
    found, expected = (
        value_and_gradients(lambda backend=name, **each: fftconv(**each, causal=causal, backend=backend), inputs, dy)
        for name in ("cpp", "torch")
    )
    for name, each in expected.items():
        assert relative_error(found[name], each) < 1e-13, name


def test_results_may_take_the_place_of_the_signal() -> None:
    """In the mixer they do, and a partial convolution has few taps."""
    for taps, order in ((100, 2), (2048, 3)):
        width, length = 5, 9001
        shapes = [(1, length, (order + 1) * width), ((order + 1) * width, 3), ((order + 1) * width,)]
        shapes += [(order - 1, width, taps), (order - 1, width)]
        tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        results = []
        for backend in ("cpp", "torch"):
            y = hyena_mixer(*tensors, backend=backend)
            results.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
        for one, other in zip(*results, strict=True):
            assert relative_error(one, other) < 1e-12


def test_a_row_does_not_see_another_and_threads_do_not_matter() -> None:
    u = torch.randn(2, 3, 9001)
    u[0, 1, 5000] = float("nan")
    for taps in (100, 1000):
        y = fftconv(u, torch.randn(3, taps))
        assert y[1].isfinite().all()
        assert y[0, 0].isfinite().all()
        # Results before the sample never see it.
        assert y[0, 1, :2048].isfinite().all()
        assert y[0, 1, 5000].isnan()
    assert_threads_do_not_matter(fftconv, fftconv_inputs(2, 5, 9001, 500), torch.randn(2, 5, 9001))


SCRIPT = """
import torch
from hyena_kernels.testing import check, fftconv_inputs
for length, taps in ((1500, 30), (5000, 128), (9001, 700)):
    for causal in (True, False):
        check("fftconv", fftconv_inputs(1, 8, length, taps, skip=False), causal=causal)
        check("fftconv", fftconv_inputs(1, 8, length, taps, dtype=torch.float64, skip=False), causal=causal)
print("done")
"""


@pytest.mark.slow
def test_every_instruction_set(with_instruction_set: Callable[[str], str]) -> None:
    assert with_instruction_set(SCRIPT) == "done\n"
