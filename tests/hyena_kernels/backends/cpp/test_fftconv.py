"""The C++ kernels of ``fftconv`` against float64, beyond the tests of every backend.

Those in ``tests/hyena_kernels/test_fftconv.py`` and ``test_library.py`` run on this backend too.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hyena_kernels import fftconv
from hyena_kernels.testing import check, fftconv_inputs
from tests.hyena_kernels.helpers import assert_threads_do_not_matter

pytestmark = pytest.mark.usefixtures("cpp")

# The transform has 4, 5, 6, 7 or 8 times a power of two points: both sides of every size, for vectors of 2 to 16.
EDGES = [
    8, 9, 14, 17, 24, 28, 29, 40, 49, 57, 80, 81, 96, 112, 113, 128, 129, 160, 193, 225, 320, 321, 385, 449, 513,
    641, 769, 897, 1025, 1281, 1537, 1793,
]  # fmt: skip
# From 1024 points on, parts of a row are transformed completely one after the other, at every depth.
DEEP = [2049, 2561, 3073, 3585, 5120, 7168, 8192, 12_289, 24_577, 40_961, 65_536, 131_073]


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize("length", EDGES)
def test_sizes_of_one_part(length: int, causal: bool) -> None:
    check("fftconv", fftconv_inputs(2, 24, length, length if causal else 2 * length - 1), causal=causal)
    check("fftconv", fftconv_inputs(1, 24, length, max(1, length // 2), dtype=torch.float64), causal=causal)


@pytest.mark.slow
@pytest.mark.parametrize("length", DEEP)
def test_sizes_of_many_parts(length: int) -> None:
    # One channel has one skip. The error of a single number would be chance.
    check("fftconv", fftconv_inputs(1, 1, length, skip=False), gradients=length < 50_000)
    taps = length if length > 10_000 else 2 * length - 1
    check("fftconv", fftconv_inputs(1, 1, length, taps, skip=False), causal=False, gradients=False)


SIZES_SCRIPT = """
import torch
from hyena_kernels.testing import check, fftconv_inputs
SIZES = (1, 3, 16, 63, 100, 257, 640, 1000, 1500)
# 16 bits differ in the first and the last pass alone.
FEW = (3, 100, 1500)
for dtype, lengths in ((torch.float32, SIZES), (torch.float64, SIZES), (torch.bfloat16, FEW), (torch.float16, FEW)):
    for length in lengths:
        for causal in (True, False):
            taps = length if causal else 2 * length - 1
            check("fftconv", fftconv_inputs(2, 32, length, taps, dtype=dtype), causal=causal)
    check("fftconv", fftconv_inputs(1, 1, 9000, dtype=dtype, skip=False))
print("done")
"""


@pytest.mark.slow
def test_every_instruction_set(with_instruction_set: Callable[[str], str]) -> None:
    assert with_instruction_set(SIZES_SCRIPT) == "done\n"


@pytest.mark.slow
def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    monkeypatch.setenv("HYENA_CPU_ISA", "mmx")
    script = (
        "import torch; from hyena_kernels import fftconv; fftconv(torch.ones(1, 1, 4), torch.ones(1, 4), backend='cpp')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "HYENA_CPU_ISA=mmx is unknown: choose avx512, avx2 or portable" in done.stderr


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_conversions_of_every_sixteen_bit_number(dtype: torch.dtype) -> None:
    """A filter with one tap of 1 returns every finite number unchanged. Products round to nearest even."""
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    numbers = numbers[numbers.isfinite()]
    one, k = torch.ones_like(numbers), torch.ones(numbers.numel(), 1)
    assert torch.equal(fftconv(numbers[None, :, None], k)[0, :, 0], numbers)
    gate = (one.float() * 1.37).to(dtype)
    product = fftconv(numbers[None, :, None], k, post_gate=gate[None, :, None])[0, :, 0]
    assert torch.equal(product, (numbers.float() * gate.float()).to(dtype))


def test_threads_do_not_matter() -> None:
    inputs = fftconv_inputs(3, 40, 3000)
    assert_threads_do_not_matter(fftconv, inputs, torch.randn(3, 40, 3000))


def test_nothing_of_one_call_is_left_for_the_next() -> None:
    """Work arrays are kept between calls. A row of NaN must not reach the next call with a shorter transform."""
    fftconv(torch.full((1, 2, 5000), float("nan")), torch.full((2, 5000), float("nan")))
    for length in (5, 300, 4000):
        assert fftconv(torch.ones(1, 2, length), torch.ones(2, length)).isfinite().all()
