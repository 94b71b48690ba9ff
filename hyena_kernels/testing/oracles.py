"""Float64 oracles of the ops with a long convolution. They use no FFT."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.testing.references import (
    mixer_recurrence,
    reference_fftconv_varlen,
    reference_hyena_mixer_varlen,
)


def direct_conv(x: Tensor, k: Tensor, *, causal: bool = True, block: int = 256) -> Tensor:
    """Convolution of every channel with its own filter in float64, by its definition, in O(L K) operations.

    ``y[t] = sum_j k[j] x[t - j + centre]`` with ``x`` zero outside its range. ``centre`` is 0, or ``(K-1)//2`` if not
    causal. The sums are products of Toeplitz matrices with blocks of ``x``. Differentiable.

    Args:
        x: ``(B, D, L)``.
        k: ``(D, K)`` with K ≤ L.
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
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """:func:`reference_fftconv` with :func:`direct_conv`, for float64 inputs."""
    x = u if pre_gate is None else pre_gate * u
    y = direct_conv(x, k, causal=causal)
    if D is not None:
        y = y + D[:, None] * x
    return y if post_gate is None else post_gate * y


def oracle_hyena_mixer(
    x: Tensor, short_weight: Tensor, short_bias: Tensor | None, k: Tensor, D: Tensor | None = None
) -> Tensor:
    """:func:`reference_hyena_mixer` with :func:`direct_conv`, for float64 inputs."""
    return mixer_recurrence(x, short_weight, short_bias, k, D, oracle_fftconv)


oracle_fftconv_varlen = partial(reference_fftconv_varlen, fftconv=oracle_fftconv)
"""``fftconv_varlen`` with one :func:`oracle_fftconv` a segment, for float64 inputs."""

oracle_hyena_mixer_varlen = partial(reference_hyena_mixer_varlen, fftconv=oracle_fftconv)
"""``hyena_mixer_varlen`` with one :func:`oracle_hyena_mixer` a segment, for float64 inputs."""
