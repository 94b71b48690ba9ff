"""The calls of flash-linear-attention: ``fft_conv``, ``causal_conv1d`` and ``causal_conv1d_update`` of ``fla.modules``.

Source: the docstrings, the code and the kernels of the library.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import short_conv, short_conv_update
from hyena_kernels.compat.common import (
    after_starts,
    channels_of,
    convolved_again,
    for_signal,
    long_convolution,
    silu,
    without_autocast,
)

__all__ = ["causal_conv1d", "causal_conv1d_update", "fft_conv"]

_BACKENDS = ("triton", "cuda", "mix", None)


def fft_conv(
    u: Tensor, k: Tensor, dropout_mask: Tensor | None, gelu: bool = True, k_rev: Tensor | None = None
) -> Tensor:
    """``mask * gelu(u ⋆ k + u)``: safari's ``fftconv_ref`` with a skip of 1. The GELU is the exact one, by erf.

    ``k_rev`` adds taps of lags 0, -1, …: its first tap and that of ``k`` have both lag 0. Filters of more than L taps
    go on around a circle of ``2 L`` points, as there.

    What differs: any strides and lengths; gradients save the inputs only; under autocast nothing is rounded in between.

    Args:
        u: ``(B, H, L)``, or ``(…, H, Z, L)`` with blocks ``Z`` that are convolved on their own.
        k: ``(H, K)`` or ``(1, H, K)``; with ``u`` of three dimensions also ``(B, H, K)``.
        dropout_mask: ``(B, H)`` factors of the result; with ``u`` of three dimensions.
        gelu: whether the GELU is applied.
        k_rev: as ``k``.

    Returns:
        The shape and dtype of ``u``.

    Raises:
        ValueError: shapes do not fit.
    """
    skip = u.new_ones(channels_of("fft_conv", u), dtype=for_signal(k, u).dtype)
    return long_convolution("fft_conv", u, k, skip, dropout_mask, gelu, k_rev)


def causal_conv1d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: object | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """``y[t] = residual[t] + activation(bias + sum_j weight[j] x[t - (W-1) + j])``, channels last.

    States have W samples, one more than the convolution needs: the oldest is kept and not used.

    What differs: W up to 256; every ``backend`` takes states, residuals and ``cu_seqlens``; on a CPU too. With
    ``cu_seqlens`` a graph breaks.

    Args:
        x: ``(B, T, D)``, or with D in several dimensions.
        weight: ``(D, W)``.
        bias: ``(D,)``.
        residual: of ``x``'s shape.
        initial_state: ``(N, D, W)`` samples before the first, the oldest first; N is B, or the number of segments.
        output_final_state: whether to return the last W samples too.
        activation: None, or ``"silu"``, which is also called ``"swish"``.
        backend: fla's choice of a kernel; not used.
        cu_seqlens: ``(N+1,)`` where segments of the one row start, and T.
        cu_seqlens_cpu: not used.
        chunk_indices: not used.
        cp_context: refused.
        kwargs: ``seq_idx``, which ``cu_seqlens`` says already, is ignored. Others are refused.

    Returns:
        ``y`` of the shape and dtype of ``x``, and the final state ``(N, D, W)`` or None.

    Raises:
        NotImplementedError: ``cp_context``, or another activation.
        ValueError: ``weight`` is missing, an unknown backend, ``cu_seqlens`` with B > 1, ``seq_idx`` alone, or shapes
            do not fit.
        TypeError: an unknown argument, or as ``short_conv``.
    """
    act = silu("causal_conv1d", activation)
    if cp_context is not None:
        raise NotImplementedError("causal_conv1d: cp_context is not supported: leave it None")
    if weight is None:
        raise ValueError("causal_conv1d: weight (D, W) is missing")
    if backend not in _BACKENDS:
        raise ValueError(f"causal_conv1d: backend must be 'triton', 'cuda' or 'mix', got {backend!r}")
    if kwargs.pop("seq_idx", None) is not None and cu_seqlens is None:
        raise ValueError("causal_conv1d: seq_idx needs cu_seqlens")
    if kwargs:
        raise TypeError(f"causal_conv1d: unknown arguments {', '.join(kwargs)}")
    if x.dim() < 3 or weight.dim() != 2:
        raise ValueError(
            f"causal_conv1d: x (B, T, D) has shape {tuple(x.shape)} and weight (D, W) {tuple(weight.shape)}"
        )
    shape, (channels, taps) = x.shape, weight.shape
    rows = x.flatten(2).mT
    starts = None if cu_seqlens is None else cu_seqlens.long()
    count = shape[0] if starts is None else len(starts) - 1
    if starts is not None and shape[0] != 1:
        raise ValueError(f"causal_conv1d: cu_seqlens is for one row, got x {tuple(shape)}")
    if initial_state is not None and initial_state.shape != (count, channels, taps):
        raise ValueError(
            f"causal_conv1d: initial_state has shape {tuple(initial_state.shape)}, expected (N, D, W) = "
            f"{(count, channels, taps)}"
        )
    with without_autocast(x):
        # The residual is added before the result is rounded.
        signal = rows if residual is None else rows.to(torch.promote_types(x.dtype, torch.float32))
        weight, bias = for_signal(weight, signal), None if bias is None else for_signal(bias, signal)
        if starts is None:
            before = None if initial_state is None else initial_state[..., 1:].to(signal.dtype)
            y = short_conv(signal, weight, bias, activation=act, initial_state=before)
        else:
            y = _in_segments(signal, weight, bias, act, starts, initial_state)
        if residual is not None:
            y = (y + residual.flatten(2).mT).to(x.dtype)
        state = _final_state(rows, taps, starts, initial_state) if output_final_state else None
    return y.mT.reshape(shape), state


def _in_segments(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, starts: Tensor, states: Tensor | None
) -> Tensor:
    """``short_conv`` of one row ``(1, D, T)``, with every segment on its own, after its own state."""
    taps = weight.shape[1]
    numbers = torch.searchsorted(starts[1:], torch.arange(x.shape[2], device=x.device), right=True)
    where, own = after_starts(numbers[None], taps, states=states is not None)
    others = None
    if states is not None:
        segments = numbers[where[1]]
        lags = torch.arange(1 - taps, 1, device=x.device)
        slots = (where[1] - starts[segments])[:, None] + lags + taps
        others = states[segments].gather(2, slots.clamp(0, taps - 1)[:, None].expand(-1, x.shape[1], -1))
    y = short_conv(x, weight, bias, activation=activation)
    return convolved_again(y, x, weight, bias, activation, where, own, others)


def _final_state(x: Tensor, taps: int, starts: Tensor | None, states: Tensor | None) -> Tensor:
    """``(N, D, W)``: the last W samples of each segment of ``x (B, D, T)``, or row, and of the state before it."""
    if starts is None:
        before = x.new_zeros(*x.shape[:2], taps) if states is None else states.to(x.dtype)
        return torch.cat([before, x], dim=-1)[..., -taps:].contiguous()
    places = starts[1:, None] + torch.arange(-taps, 0, device=x.device)
    inside = (places >= starts[:-1, None])[:, None]
    found = x[0].T[places.clamp(min=0)].mT
    if states is None:
        return torch.where(inside, found, 0)
    slots = (places - starts[:-1, None] + taps).clamp(0, taps - 1)
    return torch.where(inside, found, states.gather(2, slots[:, None].expand_as(states)).to(x.dtype))


def causal_conv1d_update(
    x: Tensor,
    cache: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`causal_conv1d`; ``cache`` is updated in place.

    What differs: W up to 256; on a CPU too.

    Args:
        x: ``(N, D)``, ``(N, 1, D)`` or ``(1, N, D)``.
        cache: ``(N, D, W)``, of ``x``'s dtype; the newest sample is the last.
        residual: of ``x``'s shape, added after the activation.
        weight: ``(D, W)``.
        bias: ``(D,)``.
        activation: None, or ``"silu"``, which is also called ``"swish"``.

    Returns:
        ``y`` of the shape and dtype of ``x``, and ``cache``.

    Raises:
        NotImplementedError: another activation.
        ValueError: ``weight`` is missing, or shapes do not fit.
        TypeError: as ``short_conv_update``.
    """
    act = silu("causal_conv1d_update", activation)
    if weight is None:
        raise ValueError("causal_conv1d_update: weight (D, W) is missing")
    if cache.dim() != 3 or x.numel() != cache.shape[0] * cache.shape[1] or cache.shape[1:] != weight.shape:
        raise ValueError(
            f"causal_conv1d_update: x {tuple(x.shape)}, cache {tuple(cache.shape)} and weight {tuple(weight.shape)} do "
            "not fit: expected N rows of D channels, (N, D, W) and (D, W)"
        )
    with torch.no_grad(), without_autocast(x):
        rows = x.reshape(cache.shape[:2])
        weight, bias = for_signal(weight, rows), None if bias is None else for_signal(bias, rows)
        y = short_conv_update(rows, cache, weight, bias, activation=act).view(x.shape)
        return y if residual is None else y + residual, cache
