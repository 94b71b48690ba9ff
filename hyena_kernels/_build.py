"""What the compiled extension is built from. Read by setup.py without importing the package, so: no torch at import."""

from __future__ import annotations

import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent / "csrc"

TORCH_TARGET_VERSION = "0x020a000000000000"
"""The oldest torch (2.10) whose stable ABI the libraries use."""

CXX_FLAGS = ["-O3", "-std=c++17", "-Wall", "-Wextra", "-Wno-psabi", "-fvisibility=hidden", "-fno-math-errno"]


def cpu_sources() -> list[Path]:
    """Sources of ``_C``."""
    return sorted((CSRC / "cpu").glob("*.cpp"))


def cxx_flags() -> list[str]:
    """Flags of the C++ compiler for ``_C``."""
    return [*CXX_FLAGS, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"] if sys.platform != "win32" else []
