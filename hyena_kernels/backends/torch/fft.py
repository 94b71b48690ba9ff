"""Spectra of filters, and their gradients and that of the skip, in plain PyTorch."""

from __future__ import annotations

import torch


def filter_spectrum(k: torch.Tensor, D: torch.Tensor | None, size: int, tap: int, dtype: torch.dtype) -> torch.Tensor:
    """Spectrum of a filter with the skip folded into its tap of zero lag.

    Args:
        k: ``(D, K)``.
        D: ``(D,)`` or None.
        size: transform size N.
        tap: index of the tap of zero lag. It moves to index 0, and earlier taps move to the end.
        dtype: float32 or float64.

    Returns:
        ``(D, N // 2 + 1)``, complex.
    """
    padded = k.new_zeros((k.shape[0], size), dtype=dtype)
    padded[:, : k.shape[1] - tap] = k[:, tap:]
    if tap:
        padded[:, size - tap :] = k[:, :tap]
    if D is not None:
        padded[:, 0] += D
    return torch.fft.rfft(padded)


def filter_gradient(spectrum: torch.Tensor, size: int, tap: int, filter_length: int) -> torch.Tensor:
    """Transpose of :func:`filter_spectrum`: from ``(D, N // 2 + 1)`` back to taps ``(D, K)``."""
    taps = torch.fft.irfft(spectrum, n=size)
    if tap == 0:
        return taps[:, :filter_length]
    return torch.cat((taps[:, size - tap :], taps[:, : filter_length - tap]), dim=1)


def skip_gradient(signal: torch.Tensor, *factors: torch.Tensor | None) -> torch.Tensor:
    """Gradient of the skip: the sum of ``signal`` times its factors over batch and positions, in float64.

    The gradient of the filter has it too. But each of its taps has the rounding errors of the whole transform, and a
    skip is a single number.

    Args:
        signal: ``(B, D, L)``.
        factors: ``(B, D, L)`` each, or None for a factor of 1.

    Returns:
        ``(D,)``.
    """
    # Apple's GPUs have no float64.
    dtype = torch.float32 if signal.device.type == "mps" else torch.float64
    product = signal.to(dtype, copy=True)
    for factor in factors:
        if factor is not None:
            product *= factor
    return product.sum(dim=(0, 2))
