"""The features of positions, for any position: between two of them too, and beyond the last."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def features_at(position: Tensor, seq_len: int, emb_dim: int) -> Tensor:
    """Columns of ``z`` at ``position (n,)``, ``(n, emb_dim)``: float64 numbers that need not be whole.

    Columns are ``[t, cos(f w) …, -sin(f w) …]`` with ``t = position / (seq_len - 1)``, ``w = 2π position / seq_len``
    and ``(emb_dim - 1) / 2`` frequencies ``f = linspace(1e-4, bands - 1, bands)``. The first column is the time of the
    window.

    Source: the positions of HyenaDNA (arXiv 2306.15794), as :class:`~hyena_kernels.positions.PositionalEmbedding`.
    """
    bands = (emb_dim - 1) // 2
    frequencies = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64, device=position.device)
    phase = frequencies * (2 * math.pi / seq_len * position)[:, None]
    time = position / max(seq_len - 1, 1)
    return torch.cat((time[:, None], phase.cos(), -phase.sin()), dim=-1)
