"""What the CUDA kernels of the extension take, told without loading them; see ``triton/support.py`` about reasons."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hyena_kernels.common.dtypes import no_float64

MAX_FILTER_WIDTH = MAX_FILTER_FEATURES = 128
"""Widest sine network of the implicit filter, and most features of a position."""


def implicit_filter(z: Tensor, freq: Tensor, *args: Any) -> str | None:
    """As :func:`no_float64`; refuses wide networks too."""
    too_wide = None
    if freq.shape[0] > MAX_FILTER_WIDTH or z.shape[-1] > MAX_FILTER_FEATURES:
        too_wide = f"takes networks of a width H and of features E up to {MAX_FILTER_WIDTH}, the inputs have more"
    return "; ".join(filter(None, (no_float64(z, freq, *args), too_wide))) or None


def implicit_filter_backward(dk: Tensor, *args: Any) -> str | None:
    """As :func:`implicit_filter`, with the gradient in front."""
    return no_float64(dk) or implicit_filter(*args)
