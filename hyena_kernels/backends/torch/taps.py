"""The short convolution of one slice in plain PyTorch, shared by ``short_conv`` and ``hyena_mixer``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.common.taps import MAX_TAPS


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


# Positions of a block in :func:`long_tap_gradient`. Fewer make the products of matrices narrow, more make them large.
_BLOCK = 64


def long_taps_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Valid convolution of one slice with a filter of any number of taps.

    On a CPU this is torch's own convolution from 9 taps on: 7.6 ms against 77 ms of the loop for 256 taps, 96 channels
    and 8,192 positions. Elsewhere torch's convolution may round to TF32, so this is the loop.

    Args:
        x: ``(B, D, K-1+L)`` with the K-1 samples before the first result.
        weight: ``(D, K)``, the last tap weighting the present position.
        bias: ``(D,)`` or None.

    Returns:
        ``(B, D, L)``.
    """
    taps = weight.shape[1]
    if taps > MAX_TAPS and x.device.type == "cpu":
        return F.conv1d(x, weight[:, None], bias, groups=x.shape[1])
    length = x.shape[-1] - taps + 1
    y = x[..., taps - 1 :] * weight[:, taps - 1, None]
    for tap in range(taps - 2, -1, -1):
        y.addcmul_(x[..., tap : tap + length], weight[:, tap, None])
    return y if bias is None else y.add_(bias[:, None])


def long_taps_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`long_taps_forward`: ``dx (B, D, K-1+L)``, ``dweight (D, K)``, ``dbias (D,)``."""
    taps, length = weight.shape[1], dy.shape[-1]
    if taps > MAX_TAPS and x.device.type == "cpu":
        dx = long_taps_forward(F.pad(dy, (taps - 1, taps - 1)), weight.flip(1), None)
        return dx, long_tap_gradient(dy, x, taps), dy.sum(dim=(0, 2))
    dx, dweight = torch.zeros_like(x), torch.empty_like(weight)
    for tap in range(taps - 1, -1, -1):
        dx[..., tap : tap + length].addcmul_(dy, weight[:, tap, None])
        dweight[:, tap] = (dy * x[..., tap : tap + length]).sum(dim=(0, 2))
    return dx, dweight, dy.sum(dim=(0, 2))


def long_tap_gradient(dy: Tensor, x: Tensor, taps: int) -> Tensor:
    """``dweight[d, j] = sum_t dy[d, t] x[d, t + j]`` by products of matrices, ``(D, K)``.

    A block of R gradients meets R + K - 1 samples. The products of all blocks are one matrix for a channel, and the
    sums along its diagonals are the result. For 64 taps, 96 channels and 8,192 positions it takes 3 ms. A sum for each
    tap takes 40 ms.
    """
    rows = min(_BLOCK, dy.shape[-1])
    more = -dy.shape[-1] % rows
    grads = F.pad(dy, (0, more)).unflatten(-1, (-1, rows))
    samples = F.pad(x, (0, more)).unfold(-1, rows + taps - 1, rows)
    products = torch.einsum("bdnr,bdns->drs", grads, samples).contiguous()
    width = rows + taps - 1
    return products.as_strided((products.shape[0], rows, taps), (rows * width, width + 1, 1)).sum(dim=1)
