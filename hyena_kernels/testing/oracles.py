"""Float64 oracles of the ops with a long convolution. They use no FFT."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.testing.references import (
    cut_filters,
    lagrange,
    mixer_recurrence,
    reference_fftconv_varlen,
    reference_hyena_mixer_far,
    reference_hyena_mixer_varlen,
)


def direct_conv(x: Tensor, k: Tensor, *, causal: bool = True, block: int = 256) -> Tensor:
    """Convolution of every channel with its own filter in float64, by its definition, in O(L K) operations.

    ``y[t] = sum_j k[j] x[t - j + centre]`` with ``x`` zero outside its range. ``centre`` is 0, or ``(K-1)//2`` if not
    causal. The sums are products of Toeplitz matrices with blocks of ``x``. Differentiable.

    Args:
        x: ``(B, D, L)``.
        k: ``(D, K)`` with K ≤ L, or K ≤ 2L - 1 if not causal.
        causal: whether outputs see only earlier inputs.
        block: rows of the matrices. Memory is proportional to it.

    Returns:
        ``(B, D, L)``, float64.
    """
    batch, channels, length = x.shape
    taps = k.shape[1]
    first = 0 if causal else (taps - 1) // 2
    rows = min(block, length + first)
    blocks = -(-(length + first) // rows)
    padded = F.pad(x.double(), (0, blocks * rows - length)).view(batch, channels, blocks, rows)
    columns = padded.flip(-1).permute(1, 3, 0, 2)
    lagged = F.pad(k.double(), (rows - 1, blocks * rows - taps))
    y = columns.new_zeros(columns.shape)
    for m in range(min(blocks, -(-(taps + rows - 1) // rows))):
        # toeplitz[a, c] = k[m rows + a - (rows - 1 - c)]; columns hold a block of x in reverse order.
        toeplitz = lagged[:, m * rows : m * rows + 2 * rows - 1].unfold(1, rows, 1)
        part = toeplitz @ columns[..., : blocks - m].reshape(channels, rows, -1)
        y[..., m:] += part.view(channels, rows, batch, blocks - m)
    return y.permute(2, 0, 3, 1).reshape(batch, channels, blocks * rows)[..., first : first + length]


def oracle_fftconv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    k_rev: Tensor | None = None,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
    truncate: bool = False,
) -> Tensor:
    """:func:`reference_fftconv` with :func:`direct_conv`, for float64 inputs."""
    if truncate:
        k, k_rev = cut_filters(u.shape[-1], k, k_rev, causal)
    x = u if pre_gate is None else pre_gate * u
    y = _direct(x, k, causal)
    if k_rev is not None:
        y = y + _direct(x.flip(-1), k_rev, causal).flip(-1)
    if D is not None:
        y = y + D.reshape(-1, 1) * x
    return y if post_gate is None else post_gate * y


def _direct(x: Tensor, k: Tensor, causal: bool) -> Tensor:
    """:func:`direct_conv`, sample by sample where each has its own filters."""
    if k.dim() == 2:
        return direct_conv(x, k, causal=causal)
    return torch.cat([direct_conv(x[b : b + 1], k[b], causal=causal) for b in range(len(x))])


def oracle_hyena_mixer(
    x: Tensor, short_weight: Tensor, short_bias: Tensor | None, k: Tensor, D: Tensor | None = None
) -> Tensor:
    """:func:`reference_hyena_mixer` with :func:`direct_conv`, for float64 inputs."""
    return mixer_recurrence(x, short_weight, short_bias, k, D, oracle_fftconv)


oracle_fftconv_varlen = partial(reference_fftconv_varlen, fftconv=oracle_fftconv)
"""``fftconv_varlen`` with one :func:`oracle_fftconv` a segment, for float64 inputs."""

oracle_hyena_mixer_varlen = partial(reference_hyena_mixer_varlen, fftconv=oracle_fftconv)
"""``hyena_mixer_varlen`` with one :func:`oracle_hyena_mixer` a segment, for float64 inputs."""


def oracle_far_field_conv(
    u: Tensor,
    near: Tensor,
    nodes: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
) -> Tensor:
    """``far_field_conv`` as a sum over all pairs of positions, each with its own tap, for float64 inputs.

    The tap of two positions of one block is that of their lag. That of others is interpolated: first between the nodes
    of the later position, then between those of the earlier one. There are L² taps.
    """
    (channels, h), length, dtype = near.shape, u.shape[2], torch.float64
    p, blocks = (nodes.shape[1] + 1) // 2, -(-length // h)
    basis = lagrange(h, p, torch.arange(h, dtype=dtype, device=u.device))
    place = torch.arange(p, device=u.device)
    at_nodes = nodes[:, place[:, None] - place + p - 1, : blocks - 1]
    later = torch.einsum("xa,caed->cxed", basis, at_nodes.to(dtype))
    taps = torch.einsum("ye,cxed->cdxy", basis, later)
    lags = torch.arange(h, device=u.device)[:, None] - torch.arange(h, device=u.device)
    same = torch.where(lags >= 0, near.to(dtype)[:, lags.clamp(min=0)], 0.0)
    earlier = torch.zeros_like(same)
    # The taps of all pairs of blocks: block d of this list for blocks that are d apart, none for later blocks.
    by_distance = torch.cat((same[:, None], taps, earlier[:, None]), dim=1)
    numbers = torch.arange(blocks, device=u.device)
    distances = numbers[:, None] - numbers
    whole = by_distance[:, torch.where(distances >= 0, distances, blocks)]
    matrix = whole.permute(0, 1, 3, 2, 4).reshape(channels, blocks * h, blocks * h)[:, :length, :length]
    x = u if pre_gate is None else pre_gate * u
    y = torch.einsum("cij,bcj->bci", matrix, x.to(dtype))
    if D is not None:
        y = y + D.reshape(-1, 1) * x
    return y if post_gate is None else post_gate * y


oracle_hyena_mixer_far = partial(reference_hyena_mixer_far, far_field_conv=oracle_far_field_conv)
"""``hyena_mixer_far`` with :func:`oracle_far_field_conv`, for float64 inputs."""
