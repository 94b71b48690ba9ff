"""What the shims share: autocast, dtypes of filters, filters on a circle, calls in the manner of safari, segments."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels import fftconv

ACTIVATIONS = (None, "silu", "swish")
"""What causal_conv1d and fla take as an activation. The two names mean the same."""


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off: the other libraries' calls are not on its lists, and keep the dtypes that they are given."""
    kind = tensor.device.type
    return contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def for_signal(filters: Tensor, signal: Tensor) -> Tensor:
    """Filters or a bias in a dtype that an op takes with ``signal``. 16 bits of another kind become float32: exact."""
    narrow = filters.dtype in (torch.float16, torch.bfloat16)
    return filters.float() if narrow and filters.dtype != signal.dtype else filters


def without_batch(k: Tensor) -> Tensor:
    """``(H, K)`` of ``(1, H, K)``; other shapes as they are."""
    return k[0] if k.dim() == 3 and k.shape[0] == 1 else k


def silu(name: str, activation: str | None) -> str | None:
    """The activation as ``short_conv`` calls it.

    Raises:
        NotImplementedError: it is none of :data:`ACTIVATIONS`.
    """
    if activation not in ACTIVATIONS:
        raise NotImplementedError(f"{name}: activation must be None, 'silu' or 'swish', got {activation!r}")
    return None if activation is None else "silu"


# Filters on a circle --------------------------------------------------------------------------------------------------


def on_a_circle(k: Tensor, k_rev: Tensor | None, size: int, shift: int = 0) -> Tensor:
    """``(…, size)``: the taps of ``irfft(rfft(k, size) + rfft(k_rev, size).conj())``, delayed by ``shift``.

    Args:
        k: ``(…, K)`` taps of lags 0, 1, …; those beyond ``size`` are cut off, as rfft does.
        k_rev: ``(…, K')`` taps of lags 0, -1, ….
        size: points of the circle.
        shift: positions by which the result is delayed, around the circle.
    """
    circle = F.pad(k[..., :size], (0, size - min(k.shape[-1], size)))
    if k_rev is not None:
        back = F.pad(k_rev[..., :size], (0, size - min(k_rev.shape[-1], size)))
        circle = circle + back.flip(-1).roll(1, -1)
    return circle.roll(shift, -1) if shift else circle


def unrolled(k: Tensor, size: int, length: int) -> tuple[Tensor, Tensor | None]:
    """``k`` and ``k_rev`` of ``fftconv`` for a convolution on a circle, whose result is cut to the signal's length.

    A tap at place ``size - j`` of the circle is one of lag ``-j``. The signal is zero on the rest of the circle, so
    only lags of less than ``length`` matter. The result is exact: ``fftconv`` adds the two parts in one transform.

    Args:
        k: ``(…, K)`` with K ≤ ``size``.
        size: points of the circle.
        length: positions of the signal, at most ``size``.
    """
    first = size - length + 1
    taps = k.shape[-1]
    k_rev = F.pad(k[..., first:].flip(-1), (size - taps + 1, 0)) if taps > first else None
    return k[..., :length], k_rev


# The call of safari, and those that follow it -------------------------------------------------------------------------


def channels_of(name: str, u: Tensor) -> int:
    """H of ``u (B, H, L)``, or of ``(…, H, Z, L)``.

    Raises:
        ValueError: ``u`` has fewer dimensions.
    """
    if u.dim() < 3:
        raise ValueError(f"{name}: u has shape {tuple(u.shape)}, expected (B, H, L) or (…, H, Z, L)")
    return u.shape[-2 if u.dim() == 3 else -3]


def skip_of(name: str, D: Tensor, u: Tensor, trailing: int) -> Tensor:
    """``D`` as ``(H,)``, from a shape that multiplies each channel of ``u`` by its own factor.

    Args:
        name: the function, for the message.
        D: ones, the channels, then ``trailing`` ones.
        u: ``(…, H, L)``, or ``(…, H, Z, L)`` of four dimensions or more.
        trailing: how many dimensions of one follow the channels.

    Raises:
        ValueError: ``D`` has another shape, or ``u`` has fewer dimensions.
    """
    channels = channels_of(name, u)
    if D.dim() <= trailing or D.numel() != channels or D.shape[D.dim() - 1 - trailing] != channels:
        shape = ", ".join(["H", *["1"] * trailing]) + ("," if not trailing else "")
        raise ValueError(f"{name}: D has shape {tuple(D.shape)}, expected ({shape}) with H = {channels}")
    return D.reshape(channels)


def long_convolution(
    name: str,
    u: Tensor,
    k: Tensor,
    D: Tensor,
    dropout_mask: Tensor | None,
    gelu: bool,
    k_rev: Tensor | None,
    shift: int = 0,
) -> Tensor:
    """``mask * gelu(u ⋆ k + D u)``, with transforms of twice the length, as safari's ``fftconv_ref`` defines it.

    The convolution, the skip and the GELU are computed in float32 or better, and rounded once to the dtype of ``u``.

    Args:
        name: the function that was called, for messages.
        u: ``(B, H, L)``, or ``(…, H, Z, L)`` with blocks ``Z`` that are convolved on their own.
        k: ``(H, K)``, ``(1, H, K)``, or with ``u`` of three dimensions ``(B, H, K)``.
        D: ``(H,)``.
        dropout_mask: ``(B, H)`` factors of the result.
        gelu: whether the exact GELU (by erf) is applied.
        k_rev: ``(H, K)`` or ``(1, H, K)``, taps of lags 0, -1, ….
        shift: positions by which the convolution is delayed, around the circle of ``2 L``.

    Raises:
        ValueError: a mask or a filter for each sample comes with ``u`` of more than three dimensions.
    """
    length, blocks = u.shape[-1], u.dim() > 3
    k = without_batch(k)
    k_rev = None if k_rev is None else without_batch(k_rev)
    if blocks and (dropout_mask is not None or k.dim() > 2):
        raise ValueError(
            f"{name}: u {tuple(u.shape)} of more than three dimensions takes filters (H, K) and no dropout_mask, "
            f"got k {tuple(k.shape)}"
        )
    if shift or max(k.shape[-1], 0 if k_rev is None else k_rev.shape[-1]) > length:
        k, k_rev = unrolled(on_a_circle(k, k_rev, 2 * length, shift), 2 * length, length)
    rows = u.movedim(-3, -2).flatten(0, -3) if blocks else u
    if gelu or dropout_mask is not None:
        # Between the convolution and the rounding of the result there is more to compute.
        rows = rows.to(torch.promote_types(u.dtype, torch.float32))
    with without_autocast(u):
        filters = for_signal(k, rows), for_signal(D, rows)
        y = fftconv(rows, *filters, k_rev=None if k_rev is None else for_signal(k_rev, rows))
        if gelu:
            y = F.gelu(y)
        if dropout_mask is not None:
            y = y * dropout_mask[..., None]
        y = y.to(u.dtype)
    return y.view(*u.shape[:-3], u.shape[-2], u.shape[-3], length).movedim(-2, -3) if blocks else y


# Segments of a packed row ---------------------------------------------------------------------------------------------


def after_starts(seq_idx: Tensor, taps: int, *, states: bool = False) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Where the taps before a position belong to another segment.

    Args:
        seq_idx: ``(B, L)`` numbers of segments; positions with negative numbers are left out.
        taps: taps of the filter.
        states: whether there is something else than zeros before the start of a row.

    Returns:
        The rows and positions ``(P,)`` where at least one tap does, and ``(P, taps)``, true for each tap that belongs
        to the position's own segment. How many there are depends on the data: a graph breaks here.
    """
    own = F.pad(seq_idx, (taps - 1, 0), value=-1).unfold(1, taps, 1) == seq_idx[..., None]
    others = ~own & (seq_idx >= 0)[..., None]
    if not states:
        lags = torch.arange(1 - taps, 1, device=seq_idx.device)
        others = others & (torch.arange(seq_idx.shape[1], device=seq_idx.device)[:, None] + lags >= 0)
    rows, places = others.any(-1).nonzero(as_tuple=True)
    return (rows, places), own[rows, places]


def convolved_again(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    where: tuple[Tensor, Tensor],
    own: Tensor,
    others: Tensor | None = None,
) -> Tensor:
    """``y`` with new results at some positions, for which not all samples before them count.

    Args:
        y: ``(B, D, L)`` results of ``short_conv``.
        x: ``(B, D, L)`` its signal.
        weight: ``(D, K)``.
        bias: ``(D,)``.
        activation: ``"silu"`` or None.
        where: rows and positions ``(P,)``.
        own: ``(P, K)``, true for samples of ``x`` that count.
        others: ``(P, D, K)`` samples in place of those that do not; default zeros.
    """
    rows, places = where
    lags = torch.arange(1 - weight.shape[1], 1, device=x.device)
    wide = torch.promote_types(x.dtype, torch.float32)
    window = x.mT[rows[:, None], (places[:, None] + lags).clamp(min=0)].mT.to(wide)
    window = torch.where(own[:, None], window, window.new_zeros(()) if others is None else others.to(wide))
    fresh = (window * weight.to(wide)).sum(-1)
    if bias is not None:
        fresh = fresh + bias.to(wide)
    if activation is not None:
        fresh = F.silu(fresh)
    return y.mT.index_put((rows, places), fresh.to(y.dtype)).mT
