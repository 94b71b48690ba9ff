"""Blocks, nodes and bases of the far field: what every backend of a far-field convolution agrees on.

Positions are cut into blocks of ``h``: ``n = I h + a`` and ``j = J h + b`` with ``0 ≤ a, b < h``. The lag of two
positions in blocks that are ``d = I - J`` apart is ``d h + a - b``. On a block stand ``p`` nodes ``x_α = α s`` with
``s = (h - 1) / (p - 1)``. A smooth filter ``f`` is interpolated from its values at nodes::

    f(d h + a - b) ≈ sum_αβ φ_α(a) f(d h + x_α - x_β) φ_β(b)

The nodes are equally spaced, so ``x_α - x_β = (α - β) s``. Only 2 p - 1 values of ``f`` belong to each ``d``.

Source: Fong and Darve, "The black-box fast multipole method", J. Comput. Phys. 228 (2009), in one dimension with
equally spaced nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def block_count(length: int, h: int) -> int:
    """Number of blocks of ``h`` positions that hold ``length`` positions."""
    return -(-length // h)


def exact_device(device: torch.device | None) -> torch.device | None:
    """Where to compute in float64 what ``device`` needs: there, or on the CPU because Apple's GPUs have no float64."""
    return torch.device("cpu") if device is not None and device.type == "mps" else device


def basis(h: int, p: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """``φ_α(a)``: the Lagrange basis on the nodes of a block, at its positions, ``(h, p)``.

    Args:
        h: positions of a block, at least ``p``.
        p: nodes of a block, at least 2.
        dtype: of the result. It is computed in float64.
        device: of the result.
    """
    # On the device itself: a copy from the host would wait for it, and cannot be captured in a CUDA graph.
    wide = exact_device(device)
    node = torch.arange(p, dtype=torch.float64, device=wide)
    place = torch.arange(h, dtype=torch.float64, device=wide) * ((p - 1) / (h - 1))
    itself = torch.eye(p, dtype=torch.bool, device=wide)
    above = (place[:, None] - node).unsqueeze(1).masked_fill(itself, 1).prod(-1)
    below = (node[:, None] - node).masked_fill(itself, 1).prod(-1)
    return (above / below).to(dtype).to(device)


def node_lags(h: int, p: int, blocks: int, device: torch.device | None = None) -> Tensor:
    """The lags ``d h + m s`` at which the far field needs the filter, ``(2 p - 1, blocks - 1)`` in float64.

    Rows are ``m = -(p-1) … p-1``, columns are ``d = 1 … blocks - 1``. The last lags lie up to ``h - 1`` beyond the
    last position.
    """
    d = torch.arange(1, blocks, dtype=torch.float64, device=device) * h
    m = torch.arange(1 - p, p, dtype=torch.float64, device=device) * ((h - 1) / (p - 1))
    return d + m[:, None]


def settings_of(near: Tensor, nodes: Tensor) -> tuple[int, int]:
    """``(h, p)`` of a filter, from the shapes of its ``near (…, h)`` taps and ``nodes (…, 2 p - 1, N)``."""
    return near.shape[-1], (nodes.shape[-2] + 1) // 2
