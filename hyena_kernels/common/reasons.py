"""Why a backend cannot run an op, without importing its kernels.

A reason is the end of a sentence that begins with the name of the backend. Each wording is logged once. So a reason
contains no number that changes from call to call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor


def joined(*reasons: str | None) -> str | None:
    """All the reasons as one, or None if there are none."""
    return "; ".join(reason for reason in reasons if reason is not None) or None


def no_float64(*args: Any) -> str | None:
    """Why a backend without float64 kernels cannot run an op with these arguments, or None if it can."""
    if any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in args):
        return "has no float64 kernels, the inputs are float64"
    return None


def more_than_taps(weight: Tensor, initial_state: Tensor | None, silu: bool, most: int) -> str | None:
    """Why a backend that has a plain ``short_conv`` of few taps cannot run one, or None if it can.

    Args:
        weight: ``(D, K)``.
        initial_state: samples before the signal, or None.
        silu: whether there is an activation.
        most: the largest K that the backend takes.
    """
    return joined(
        None if weight.shape[1] <= most else f"takes up to {most} taps, the weight has more",
        None if initial_state is None else "has no kernel with an initial_state",
        "has no kernel with an activation" if silu else None,
    )


def too_wide(z: Tensor, freq: Tensor, max_width: int, max_features: int) -> str | None:
    """Why a backend cannot run an ``implicit_filter`` of this size, or None if it can.

    Args:
        z: ``(L, E)`` features of the positions.
        freq: ``(H,)`` frequencies of the network.
        max_width: largest H that the backend supports.
        max_features: largest E that it supports.
    """
    if freq.shape[0] <= max_width and z.shape[-1] <= max_features:
        return None
    return f"takes networks of a width H up to {max_width} and up to {max_features} features E, the inputs have more"


def sequence_length(op: str, args: Sequence[Any]) -> int | None:
    """Length L of the signal of an ``fftconv`` or a ``hyena_mixer``, forward or backward; None for other ops."""
    axis = {"fftconv": 2, "hyena_mixer": 1}.get(op.removesuffix("_fwd").removesuffix("_bwd"))
    return None if axis is None else args[0].shape[axis]


@cache
def cuda_obstacle(index: int | None, min_capability: tuple[int, int]) -> str | None:
    """Why kernels for NVIDIA GPUs cannot run on a CUDA device, or None if they can.

    Args:
        index: index of the device, None for the current one.
        min_capability: compute capability of the oldest GPU that the kernels support.
    """
    if torch.version.hip is not None:
        return f"is made for NVIDIA GPUs, and torch {torch.__version__} is built for ROCm"
    if not torch.cuda.is_available():
        return "runs on CUDA devices only, and torch sees none"
    capability = torch.cuda.get_device_capability(index)
    if capability < min_capability:
        needed, found = (".".join(map(str, numbers)) for numbers in (min_capability, capability))
        return f"needs compute capability {needed}, and {torch.cuda.get_device_name(index)} has {found}"
    return None


def large_vocabulary(weight: Tensor, most: int) -> str | None:
    """Why a backend cannot run an op of ``weight (V, D)`` with so many tokens V, or None if it can."""
    return None if weight.shape[0] <= most else f"takes vocabularies of up to {most} tokens, the inputs have more"
