"""Where the Triton kernels run and what they take, told without importing Triton.

A reason is the end of a sentence that begins with the backend's name. It is logged once for each wording, so it names
nothing that changes from call to call.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.backends.triton import table
from hyena_kernels.backends.triton.plan import MAX_LENGTH
from hyena_kernels.common.dtypes import no_float64

MIN_CAPABILITY = (8, 0)
"""Compute capability of the oldest GPU that the kernels are made for, the A100."""

MIN_VERSION = (3, 5)
"""Oldest Triton with what the kernels are written in."""

MAX_FILTER_WIDTH, MAX_FILTER_FEATURES = 128, 64
"""Widest sine network of the implicit filter, and most features of a position."""


def interpreting() -> bool:
    """Whether the environment asks Triton to interpret its kernels; in the spellings that Triton takes."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _installed() -> bool:
    # A module of that name without a spec, as a test may put in place, is none that kernels can be compiled with.
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _outdated() -> str | None:
    """Why the installed Triton cannot compile the kernels, or None if it can."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= MIN_VERSION:
        return None
    return f"needs triton {'.'.join(map(str, MIN_VERSION))} or newer, and {version} is installed"


@functools.cache
def _unfit(index: int | None) -> str | None:
    """Why kernels cannot run on the CUDA device of this index (None: on the current one), or None if they can."""
    if torch.version.hip is not None:
        return f"is made for NVIDIA GPUs so far, and torch {torch.__version__} is built for ROCm"
    if not torch.cuda.is_available():
        return "runs on CUDA devices only, and torch sees none"
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) < MIN_CAPABILITY:
        name = torch.cuda.get_device_name(index)
        return f"needs compute capability {'.'.join(map(str, MIN_CAPABILITY))}, and {name} has {major}.{minor}"
    return None


def obstacles(device: torch.device) -> list[str]:
    """Every reason why kernels cannot run on tensors of ``device``, whatever their shapes and dtypes."""
    found = []
    if device.type == "cuda":
        unfit = _unfit(device.index)
        if unfit is not None:
            found.append(unfit)
    elif device.type != "cpu" or not interpreting():
        found.append(f"runs on CUDA devices only, the tensors are on {device.type!r}")
    if not _installed():
        found.append("needs the package triton, which is not installed")
    elif (outdated := _outdated()) is not None:
        found.append(outdated)
    return found


def _all_reasons(*reasons: str | None) -> str | None:
    return "; ".join(reason for reason in reasons if reason is not None) or None


def _too_long(length: int) -> str | None:
    return f"takes L up to 2^24 = {MAX_LENGTH}, the inputs are longer" if length > MAX_LENGTH else None


def _no_entry(length: int, device: torch.device) -> str | None:
    return table.obstacle(length, device)


def fftconv(signal: Tensor, *args: Any) -> str | None:
    """As :func:`no_float64`, for ``(B, D, L)`` in front: refuses L above :data:`MAX_LENGTH` and those without table."""
    length = signal.shape[2]
    return _all_reasons(no_float64(signal, *args), _too_long(length), _no_entry(length, signal.device))


def hyena_mixer(signal: Tensor, *args: Any) -> str | None:
    """As :func:`fftconv`, for ``(B, L, channels)`` in front."""
    length = signal.shape[1]
    return _all_reasons(no_float64(signal, *args), _too_long(length), _no_entry(length, signal.device))


def slower(op: str, args: Sequence[Any]) -> str | None:
    """Why nobody who does not ask for Triton should get it here: plain PyTorch was measured to be faster; or None."""
    axis = {"fftconv": 2, "hyena_mixer": 1}.get(op.removesuffix("_fwd").removesuffix("_bwd"))
    if axis is None:
        return None
    length = args[0].shape[axis]
    return "was measured to be slower at this length" if table.algorithm(length, args[0].device) == "torch" else None


def _too_wide(z: Tensor, freq: Tensor) -> str | None:
    if freq.shape[0] <= MAX_FILTER_WIDTH and z.shape[-1] <= MAX_FILTER_FEATURES:
        return None
    return (
        f"takes networks of a width H up to {MAX_FILTER_WIDTH} and up to {MAX_FILTER_FEATURES} features E, "
        "the inputs have more"
    )


def implicit_filter(z: Tensor, freq: Tensor, *args: Any) -> str | None:
    """As :func:`no_float64`; refuses networks above :data:`MAX_FILTER_WIDTH` and :data:`MAX_FILTER_FEATURES` too."""
    return _all_reasons(no_float64(z, freq, *args), _too_wide(z, freq))


def implicit_filter_backward(dk: Tensor, z: Tensor, freq: Tensor, *args: Any) -> str | None:
    """As :func:`implicit_filter`, with the gradient in front."""
    return _all_reasons(no_float64(dk, z, freq, *args), _too_wide(z, freq))
