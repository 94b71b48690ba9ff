"""The short convolution of one slice in plain PyTorch, shared by ``short_conv`` and ``hyena_mixer``."""

from __future__ import annotations

import torch
from torch import Tensor


def taps_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Causal depthwise convolution of one slice.

    Args:
        x: ``(B, D, L)``, in the dtype to compute in, as the others.
        weight: ``(D, K)``, the last tap weighting the present position.
        bias: ``(D,)`` or None.

    Returns:
        ``(B, D, L)``, a new tensor with the order of ``x``'s strides.
    """
    length, last = x.shape[-1], weight.shape[1] - 1
    y = x * weight[:, last, None]
    for lag in range(1, min(last + 1, length)):
        y[..., lag:].addcmul_(x[..., : length - lag], weight[:, last - lag, None])
    return y if bias is None else y.add_(bias[:, None])


def taps_signal_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Gradient of :func:`taps_forward` in its signal, ``(B, D, L)``."""
    length, last = dy.shape[-1], weight.shape[1] - 1
    dx = dy * weight[:, last, None]
    for lag in range(1, min(last + 1, length)):
        dx[..., : length - lag].addcmul_(dy[..., lag:], weight[:, last - lag, None])
    return dx


def taps_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`taps_forward`: ``dx (B, D, L)``, ``dweight (D, K)``, ``dbias (D,)``."""
    length, last = x.shape[-1], weight.shape[1] - 1
    dweight = torch.zeros_like(weight)
    dweight[:, last] = (dy * x).sum(dim=(0, 2))
    for lag in range(1, min(last + 1, length)):
        dweight[:, last - lag] = (dy[..., lag:] * x[..., : length - lag]).sum(dim=(0, 2))
    return taps_signal_gradient(dy, weight), dweight, dy.sum(dim=(0, 2))
