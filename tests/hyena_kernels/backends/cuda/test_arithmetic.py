"""The arithmetic that the CUDA kernels share with the host, csrc/common, against numpy in float64."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyena_kernels import _build

RADICES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 48)

SOURCE = """
#include "dft.h"
#include "sine.h"

using namespace hyena;

#define DFT(R)                                                                                        \\
  extern "C" void dft_##R(float* v, int inverse) {                                                    \\
    auto* z = reinterpret_cast<Complex<float>*>(v);                                                   \\
    inverse ? dft<R, true>(z) : dft<R, false>(z);                                                     \\
  }                                                                                                   \\
  extern "C" void wide_dft_##R(double* v, int inverse) {                                              \\
    auto* z = reinterpret_cast<Complex<double>*>(v);                                                  \\
    inverse ? dft<R, true>(z) : dft<R, false>(z);                                                     \\
  }
%s

extern "C" void roots(const float* turns, float* v, int n) {
  for (int i = 0; i < n; ++i) reinterpret_cast<Complex<float>*>(v)[i] = unit_root(turns[i]);
}

extern "C" void wide_roots(const double* turns, double* v, int n) {
  for (int i = 0; i < n; ++i) reinterpret_cast<Complex<double>*>(v)[i] = unit_root(turns[i]);
}

extern "C" void sines(const float* x, float* sin, float* cos, int n) {
  for (int i = 0; i < n; ++i) {
    sin[i] = sine(x[i]);
    cos[i] = cosine(x[i]);
  }
}
"""


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module", params=["fused", "separate"])
def library(request: pytest.FixtureRequest, made_once: Callable[[str, Callable[[Path], object]], Path]) -> ctypes.CDLL:
    """The functions with fused multiply-add, as nvcc compiles them, and without."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler, and there is no g++ on the PATH")
    command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", f"-I{_build.CSRC / 'common'}", "arithmetic.cpp"]
    command += ["-o", "arithmetic.so"]
    if request.param == "fused":
        if "fma" not in Path("/proc/cpuinfo").read_text():
            pytest.skip("needs a processor with fused multiply-add")
        command += ["-mfma", "-ffp-contract=fast"]

    def compile_in(folder: Path) -> None:
        (folder / "arithmetic.cpp").write_text(SOURCE % "\n".join(f"DFT({radix})" for radix in RADICES))
        subprocess.run(command, cwd=folder, check=True)

    return ctypes.CDLL(str(made_once(f"arithmetic-{request.param}", compile_in) / "arithmetic.so"))


@pytest.mark.slow
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("radix", RADICES)
def test_dft(library: ctypes.CDLL, radix: int, inverse: bool) -> None:
    random = np.random.default_rng(radix)
    # Single impulses give the columns of the matrix. Random numbers mix them.
    inputs = np.concatenate(
        (np.eye(radix), random.standard_normal((4, radix)) + 1j * random.standard_normal((4, radix)))
    )
    expected = np.fft.ifft(inputs, norm="forward") if inverse else np.fft.fft(inputs)
    for name, dtype, bound in ((f"dft_{radix}", np.complex64, 3e-7), (f"wide_dft_{radix}", np.complex128, 6e-16)):
        for row, wanted in zip(inputs, expected, strict=True):
            values = np.ascontiguousarray(row, dtype=dtype)
            getattr(library, name)(pointer(values), int(inverse))
            assert np.abs(values - wanted).max() <= bound * np.abs(row).sum(), name


def test_roots(library: ctypes.CDLL) -> None:
    turns = np.concatenate((np.arange(-4096, 4097) / 4096, np.arange(3073) / 3072, np.arange(33) / 8)).astype(
        np.float32
    )
    values = np.empty(len(turns), dtype=np.complex64)
    library.roots(pointer(turns), pointer(values), len(turns))
    assert np.abs(values - np.exp(-2j * np.pi * turns.astype(np.float64))).max() <= 1.2e-7
    wide_turns, wide = turns.astype(np.float64), np.empty(len(turns), dtype=np.complex128)
    library.wide_roots(pointer(wide_turns), pointer(wide), len(turns))
    assert np.abs(wide - np.exp(-2j * np.pi * (wide_turns - np.round(wide_turns)))).max() <= 5e-16


def sine_errors(library: ctypes.CDLL, x: np.ndarray) -> tuple[float, float]:
    x = np.ascontiguousarray(x, dtype=np.float32)
    sines, cosines = np.empty_like(x), np.empty_like(x)
    library.sines(pointer(x), pointer(sines), pointer(cosines), len(x))
    exact = x.astype(np.longdouble)
    return float(np.abs(sines - np.sin(exact)).max()), float(np.abs(cosines - np.cos(exact)).max())


def test_sine(library: ctypes.CDLL) -> None:
    random = np.random.default_rng(0)
    near = np.pi / 2 * np.arange(-700, 701)
    moderate = np.concatenate((random.uniform(-1000, 1000, 400_000), near, np.nextafter(near.astype(np.float32), 2e3)))
    assert max(sine_errors(library, moderate[np.abs(moderate) <= 1000])) <= 1.3e-7
    assert max(sine_errors(library, random.uniform(-4096, 4096, 400_000))) <= 2e-7
    assert max(sine_errors(library, random.uniform(-(2.0**30), 2.0**30, 100_000))) <= 1.3e-7


def test_sine_of_what_is_no_angle(library: ctypes.CDLL) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 2.0**60], dtype=np.float32)
    sines, cosines = np.empty_like(x), np.empty_like(x)
    library.sines(pointer(x), pointer(sines), pointer(cosines), len(x))
    assert np.isnan(sines[:3]).all()
    assert np.isnan(cosines[:3]).all()
    assert (sines[3], cosines[3]) == (0, 0)
