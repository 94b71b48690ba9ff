"""The arguments that the C++ kernels support."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hyena_kernels.common import far_field

MAX_NODES, MAX_BLOCK = 16, 1024
"""Most nodes p and positions h of a block of a far field, as in ``csrc/cpu/far_field.h``."""


def _far_field_obstacle(near: Tensor, nodes: Tensor) -> str | None:
    h, p = far_field.settings_of(near, nodes)
    if h <= MAX_BLOCK and p <= MAX_NODES:
        return None
    return f"takes blocks of up to {MAX_BLOCK} positions and {MAX_NODES} nodes"


def far_field_conv(u: Tensor, near: Tensor, nodes: Tensor, *args: Any) -> str | None:
    """Why ``far_field_conv_fwd`` cannot run, or None if it can."""
    return _far_field_obstacle(near, nodes)


def far_field_conv_backward(dy: Tensor, u: Tensor, near: Tensor, nodes: Tensor, *args: Any) -> str | None:
    """Why ``far_field_conv_bwd`` cannot run, or None if it can."""
    return _far_field_obstacle(near, nodes)


def hyena_mixer_far(
    x: Tensor, short_weight: Tensor, short_bias: Tensor | None, near: Tensor, nodes: Tensor, *args: Any
) -> str | None:
    """Why ``hyena_mixer_far_fwd`` cannot run, or None if it can."""
    return _far_field_obstacle(near, nodes)


def hyena_mixer_far_backward(dy: Tensor, *args: Any) -> str | None:
    """Why ``hyena_mixer_far_bwd`` cannot run, or None if it can."""
    return hyena_mixer_far(*args)
