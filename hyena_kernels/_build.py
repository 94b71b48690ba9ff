"""What the compiled extension is built from. Read by setup.py without importing the package, so: no torch at import."""

from __future__ import annotations

import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent / "csrc"

TORCH_TARGET_VERSION = "0x020a000000000000"
"""The oldest torch (2.10) whose stable ABI the libraries use."""

CXX_FLAGS = ["-O3", "-std=c++17", "-Wall", "-Wextra", "-Wno-psabi", "-fvisibility=hidden", "-fno-math-errno"]


CUDA_ARCHS = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""Compute capabilities that the CUDA kernels are compiled for, unless TORCH_CUDA_ARCH_LIST names others."""


def cuda_sources() -> list[Path]:
    """Sources of ``_cuda``."""
    return sorted((CSRC / "cuda").glob("*.cu"))


def nvcc_flags() -> list[str]:
    """Flags of nvcc for ``_cuda``, without those that choose architectures."""
    host = [] if sys.platform == "win32" else ["-Xcompiler", "-fPIC,-fvisibility=hidden"]
    return ["-O3", "-std=c++17", *host, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]


def cpu_sources() -> list[Path]:
    """Sources of ``_C``."""
    return sorted((CSRC / "cpu").glob("*.cpp"))


def cxx_flags() -> list[str]:
    """Flags of the C++ compiler for ``_C``."""
    return [*CXX_FLAGS, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"] if sys.platform != "win32" else []
