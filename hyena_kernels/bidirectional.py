"""Operators that look both ways: what their taps are, and at which lags the filters of a network stand.

Two kinds have this name, and they are not the same.

* ``True``: a two-sided convolution. A network has two filters for each channel, of the positions before and behind.
* ``"published"``: what the code of HyenaDNA computes for ``bidirectional=True``. The causal filter is delayed by half
  the length, around a circle of twice the length. So an output sees nothing nearer than half the length.

Both become one filter of the lags -(L-1) … L-1, which ``fftconv(causal=False)`` takes. It needs one transform of the
signal, of the size that a causal filter of L taps needs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels.short_conv import short_conv

Bidirectional = bool | Literal["published"]
"""False is causal."""


def check_kind(name: str, kind: Bidirectional) -> None:
    """Raise ValueError unless ``kind`` is one of the three."""
    if not (isinstance(kind, bool) or kind == "published"):
        raise ValueError(f'{name}: bidirectional must be False, True or "published", got {kind!r}')


def two_sided(k: Tensor) -> Tensor:
    """The taps of lags -(L-1) … L-1, ``(D, 2L - 1)``, from filters ``(2 D, L)``: of lags 0, 1, …, then of 0, -1, ….

    The first tap of the second half is left out. Lag 0 is that of the first.
    """
    before, behind = k.chunk(2)
    return torch.cat((behind[:, 1:].flip(1), before), dim=1)


def delayed(k: Tensor) -> Tensor:
    """The taps of lags -(L-1) … L-1, ``(…, 2L - 1)``, of a filter ``(…, L)`` that the published code delays.

    The delay is ``h = L // 2``, around a circle of 2 L. Tap j has lag ``h + j``, or ``h + j - 2 L`` where the first is
    L or more. Tap ``L - h`` has lag L, and reaches nothing. For L = 1 the filter is causal.
    """
    L = k.shape[-1]
    h = L // 2
    early = k[..., L + 1 - h :]
    return torch.cat((early, F.pad(k[..., : L - h], (L - 1 + h - early.shape[-1], 0))), dim=-1)


def delayed_each(k: Tensor, lengths: Tensor) -> Tensor:
    """:func:`delayed` for rows of several lengths: ``k (D, L)`` and lengths ``(B,)`` to ``(B, D, 2L - 1)``.

    A row of n positions has the first n taps, delayed by n // 2.
    """
    D, L = k.shape
    lag = torch.arange(1 - L, L, device=k.device)
    n = lengths.to(k.device)[:, None]
    h = n // 2
    late = (lag >= h) & (lag < n)
    early = (lag > -n) & (lag < h - n)
    tap = torch.where(late, lag - h, lag + 2 * n - h).clamp(0, L - 1)
    # No tap is taken twice for a row, so that the sums of backward have one order.
    taps = k.expand(n.shape[0], D, L).gather(2, tap[:, None].expand(-1, D, -1))
    return taps.masked_fill(~(late | early)[:, None], 0)


def ahead(taps: int) -> int:
    """Positions that a centred short filter sees ahead: (K-1) // 2. An even one sees one more of those before."""
    return (taps - 1) // 2


def centred_short_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, backend: str | None = None) -> Tensor:
    """``short_conv`` with its taps on both sides: ``y[t] = bias + sum_j weight[j] x[t + j - K // 2]``.

    With 3 taps there is a zero on each side of ``x``. With an even number of taps there is one more before it than
    behind it, as for ``fftconv(causal=False)``.

    Args:
        x: ``(B, D, L)``.
        weight: ``(D, K)``, in the tap order of ``torch.nn.Conv1d``.
        bias: ``(D,)`` or None.
        backend: as for ``short_conv``.
    """
    behind = ahead(weight.shape[1])
    return short_conv(F.pad(x, (0, behind)), weight, bias, backend=backend)[..., behind:]
