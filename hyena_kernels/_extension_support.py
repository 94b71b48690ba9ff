"""Where the compiled extension runs and why not elsewhere, told without loading it.

A reason is the end of a sentence that begins with the backend's name; see ``_triton_support.py``.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import torch

MIN_TORCH = (2, 10)
"""Oldest torch with the stable ABI that the libraries are compiled against."""

MIN_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPU that the CUDA kernels are compiled for, where the toolkit still does."""

_LIBRARIES = {"cpp": "_C.abi3.so", "cuda": "_cuda.abi3.so"}
_DEVICES = {"cpp": ("the CPU", "cpu"), "cuda": ("CUDA devices", "cuda")}


def library(backend: str) -> Path:
    """Where the compiled library of a backend lies, or would lie."""
    return Path(__file__).parent / _LIBRARIES[backend]


@functools.cache
def _unloadable(backend: str) -> str | None:
    """Why the library of a backend cannot be loaded, or None; loads it."""
    path = library(backend)
    if not path.exists():
        return "needs the compiled extension, which was not built with this installation"
    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < MIN_TORCH:
        return f"needs torch {'.'.join(map(str, MIN_TORCH))} or newer, and {torch.__version__} is installed"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"failed to load {path.name}: {' '.join(str(error).split())}"
    return None


@functools.cache
def _unfit(index: int | None) -> str | None:
    """Why the CUDA kernels cannot run on the device of this index (None: on the current one), or None if they can."""
    if torch.version.hip is not None:
        return f"is made for NVIDIA GPUs, and torch {torch.__version__} is built for ROCm"
    if not torch.cuda.is_available():
        return "runs on CUDA devices only, and torch sees none"
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        needed, has = (".".join(map(str, numbers)) for numbers in (MIN_CAPABILITY, capability))
        return f"needs compute capability {needed}, and {torch.cuda.get_device_name(index)} has {has}"
    return None


def load_libraries() -> None:
    """Load every library that was built and fits the installed torch."""
    for backend in _LIBRARIES:
        _unloadable(backend)


def obstacles(backend: str, device: torch.device) -> list[str]:
    """Every reason why ``backend`` cannot run on tensors of ``device``, whatever their shapes and dtypes."""
    name, kind = _DEVICES[backend]
    if device.type != kind:
        return [f"runs on {name} only, the tensors are on {device.type!r}"]
    found = [_unloadable(backend)]
    if backend == "cuda":
        found.append(_unfit(device.index))
    return [reason for reason in found if reason is not None]
