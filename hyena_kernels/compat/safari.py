"""The calls of safari and hyena-dna (HazyResearch): ``fftconv_ref`` and ``fftconv_func`` of ``src.ops.fftconv``.

Sources: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866); Dao et al., "Hungry Hungry Hippos", 2022
(arXiv 2212.14052); the code of both repositories and of safari's CUDA extension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels import fftconv
from hyena_kernels.compat.common import (
    for_signal,
    long_convolution,
    on_a_circle,
    skip_of,
    unrolled,
    without_autocast,
)

__all__ = ["fftconv_func", "fftconv_ref"]


def fftconv_ref(
    u: Tensor,
    k: Tensor,
    D: Tensor,
    dropout_mask: Tensor | None,
    gelu: bool = True,
    k_rev: Tensor | None = None,
    bidirectional: bool = False,
) -> Tensor:
    """``mask * gelu(u ⋆ k + D u)``: the causal long convolution with a skip of the signal itself.

    ``k_rev`` adds taps of lags 0, -1, …: its first tap and that of ``k`` have both lag 0. Filters of more than L taps
    go on around a circle of ``2 L`` points, as there. The GELU is the exact one, by erf.

    What differs: any strides and lengths; gradients save the inputs only; under autocast nothing is rounded in between,
    and the result has ``u``'s dtype. ``D`` must have one factor for each channel.

    Args:
        u: ``(B, H, L)``, or ``(…, H, Z, L)`` with blocks ``Z`` that are convolved on their own.
        k: ``(H, K)`` or ``(1, H, K)``; with ``u`` of three dimensions also ``(B, H, K)``.
        D: ``(H,)``; with ``u`` of more than three dimensions ``(H, 1)``. Ones may come before.
        dropout_mask: ``(B, H)`` factors of the result, such as zeros and ``1 / (1 - p)``; with ``u`` of three
            dimensions.
        gelu: whether the GELU is applied.
        k_rev: as ``k``.
        bidirectional: hyena-dna's: the convolution, without the skip, is delayed by ``L // 2`` with wrap-around.

    Returns:
        The shape and dtype of ``u``.

    Raises:
        ValueError: shapes do not fit.
    """
    skip = skip_of("fftconv_ref", D, u, 0 if u.dim() == 3 else 1)
    shift = u.shape[-1] // 2 if bidirectional else 0
    return long_convolution("fftconv_ref", u, k, skip, dropout_mask, gelu, k_rev, shift)


def fftconv_func(
    u: Tensor,
    k: Tensor,
    D: Tensor,
    dropout_mask: Tensor | None = None,
    gelu: bool = True,
    force_fp16_output: bool = False,
    output_hbl_layout: bool = False,
    v: Tensor | None = None,
    head_dim: int = 1,
    q: Tensor | None = None,
    fftfp16: bool = False,
    k_rev: Tensor | None = None,
) -> Tensor:
    """``q * mask * gelu((u v) ⋆ k + D u v)``: the fused call, with the gates of H3.

    In a head of ``head_dim`` channels, ``y[d2] = sum_d1 q[d1] * gelu((u[d1] v[d2]) ⋆ k + D u[d1] v[d2])``. The GELU is
    the exact one, by erf. Filters of more than L taps go on around a circle of the smallest power of two that is at
    least ``2 L``, as there.

    What differs: any L (there even, up to 8192), any ``head_dim`` that divides H (there 1 and 8), any strides, float64.

    Args:
        u: ``(B, H, L)``.
        k: ``(H / head_dim, K)``.
        D: ``(H / head_dim,)``.
        dropout_mask: ``(B, H)`` factors, with ``head_dim=1``.
        gelu: whether the GELU is applied.
        force_fp16_output: return float16, unless ``u`` is bfloat16.
        output_hbl_layout: return a result that is contiguous as ``(H, B, L)``.
        v: ``(B, H, L)`` gate of the signal; only together with ``q``.
        head_dim: channels of a head; more than one only with ``v`` and ``q``.
        q: ``(B, H, L)`` gate of the result.
        fftfp16: refused. That kernel is commented out there.
        k_rev: ``(H / head_dim, K)`` taps of lags 0, -1, ….

    Returns:
        ``(B, H, L)``, of ``u``'s dtype unless ``force_fp16_output``.

    Raises:
        NotImplementedError: ``fftfp16``, or a ``dropout_mask`` with several channels a head: there it is read at the
            number of the head.
        ValueError: one of ``v`` and ``q`` is missing, ``head_dim`` does not divide H, or shapes do not fit.
    """
    if fftfp16:
        raise NotImplementedError("fftconv_func: fftfp16=True is not supported: transforms are in float32 or better")
    if head_dim > 1 and dropout_mask is not None:
        raise NotImplementedError(f"fftconv_func: dropout_mask is for head_dim=1, got head_dim={head_dim}")
    if (v is None) != (q is None) or (head_dim > 1 and v is None):
        raise ValueError("fftconv_func: v and q come together, and head_dim > 1 needs both")
    if u.dim() != 3:
        raise ValueError(f"fftconv_func: u has shape {tuple(u.shape)}, expected (B, H, L)")
    _, channels, length = u.shape
    if channels % head_dim:
        raise ValueError(f"fftconv_func: head_dim={head_dim} does not divide the {channels} channels of u")
    size = max(16, 2 << (length - 1).bit_length())
    if max(k.shape[-1], 0 if k_rev is None else k_rev.shape[-1]) > length:
        k, k_rev = unrolled(on_a_circle(k, k_rev, size), size, length)

    wide = torch.promote_types(u.dtype, torch.float32)
    # Rounded once in any case: in the op, or after the steps that follow it.
    dtype = wide if gelu or dropout_mask is not None or head_dim > 1 else u.dtype
    with without_autocast(u):
        signals = [None if each is None else each.to(dtype) for each in (u, v, q)]
        u_, v_, q_ = signals
        assert u_ is not None
        k, D = for_signal(k, u_), for_signal(D, u_)
        k_rev = None if k_rev is None else for_signal(k_rev, u_)
        if head_dim > 1:
            assert v_ is not None
            assert q_ is not None
            y = _heads(u_, k, D, k_rev, v_, q_, head_dim, gelu)
        elif not gelu and dropout_mask is None:
            y = fftconv(u_, k, D, k_rev=k_rev, pre_gate=v_, post_gate=q_)
        else:
            y = fftconv(u_, k, D, k_rev=k_rev, pre_gate=v_)
            y = F.gelu(y) if gelu else y
            y = y if dropout_mask is None else y * dropout_mask[..., None]
            y = y if q_ is None else y * q_
        y = y.to(torch.float16 if force_fp16_output and u.dtype != torch.bfloat16 else u.dtype)
    return y.transpose(0, 1).contiguous().transpose(0, 1) if output_hbl_layout else y


def _heads(
    u: Tensor, k: Tensor, D: Tensor, k_rev: Tensor | None, v: Tensor, q: Tensor, head_dim: int, gelu: bool
) -> Tensor:
    """The sum over the channels of ``u`` and ``q`` in each head: a call for each, so that memory does not grow."""
    keys, values, queries = (each.unflatten(1, (-1, head_dim)).transpose(1, 2) for each in (u, v, q))
    total = torch.zeros_like(values)
    for number in range(head_dim):
        rows = (values * keys[:, number : number + 1]).flatten(0, 1)
        y = fftconv(rows, k, D, k_rev=k_rev).view_as(values)
        total = total + (F.gelu(y) if gelu else y) * queries[:, number : number + 1]
    return total.transpose(1, 2).flatten(1, 2)
