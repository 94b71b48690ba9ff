"""The calls of cuDNN's frontend: ``fft_causal_conv1d`` and ``causal_conv1d`` of ``cudnn.ops``.

``subquadratic_ops_torch`` has the same two calls. The docstring of its ``causal_conv1d`` writes the sum in the other
order of the taps. What its users test (the self-test of BioNeMo's Evo 2) is the order below, which is cuDNN's.

Source: "FFT Causal Conv1d" and "Causal Conv1d" in cuDNN's documentation.
"""

from __future__ import annotations

from torch import Tensor

from hyena_kernels import fftconv, short_conv
from hyena_kernels.compat.common import for_signal, without_autocast

__all__ = ["causal_conv1d", "fft_causal_conv1d"]

_ACTIVATIONS = {"identity": None, "silu": "silu"}


def fft_causal_conv1d(x: Tensor, weight: Tensor) -> Tensor:
    """``y[t] = sum_j weight[j] x[t - j]``: the first tap weights the present sample, as in ``fftconv``.

    What differs: nothing is padded to a power of two; filters may be float32 with signals of 16 bits; on a CPU too.

    Args:
        x: ``(B, D, L)``.
        weight: ``(D, K)``, of ``x``'s dtype or float32. K may be more than L.

    Returns:
        ``(B, D, L)`` of ``x``'s dtype.

    Raises:
        TypeError, ValueError: as ``fftconv``.
    """
    with without_autocast(x):
        return fftconv(x, weight, truncate=True)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity") -> Tensor:
    """``y[t] = activation(bias + sum_j weight[j] x[t - (K-1) + j])``: the first tap weights the oldest sample.

    This order is the reverse of :func:`fft_causal_conv1d`, as in cuDNN.

    What differs: K from 1 (there 2) to 256; filters may be float32 with signals of 16 bits; strided signals; float64;
    on a CPU too.

    Args:
        x: ``(B, D, L)``.
        weight: ``(D, K)``.
        bias: ``(D,)``.
        activation: ``"identity"`` or ``"silu"``.

    Returns:
        ``(B, D, L)`` of ``x``'s dtype.

    Raises:
        ValueError: another activation, or shapes do not fit.
        TypeError: as ``short_conv``.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"causal_conv1d: activation must be 'identity' or 'silu', got {activation!r}")
    with without_autocast(x):
        return short_conv(
            x,
            for_signal(weight, x),
            None if bias is None else for_signal(bias, x),
            activation=_ACTIVATIONS[activation],
        )
