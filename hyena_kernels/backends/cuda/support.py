"""The arguments that the CUDA kernels of the extension support. Nothing is loaded for it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hyena_kernels.common.reasons import joined, no_float64, too_wide

MAX_FILTER_WIDTH = MAX_FILTER_FEATURES = 128
"""Largest width H of the network of an implicit filter, and most features E of a position."""


def implicit_filter(z: Tensor, freq: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``implicit_filter_fwd``, or None if they can."""
    return joined(no_float64(z, freq, *args), too_wide(z, freq, MAX_FILTER_WIDTH, MAX_FILTER_FEATURES))


def implicit_filter_backward(dk: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``implicit_filter_bwd``, or None if they can."""
    return no_float64(dk) or implicit_filter(*args)
