"""``frequency_sparse``: long filters with some frequencies of their spectrum set to zero.

FlashFFTConv zeroes parts of the spectrum of a filter that is padded to the size of its transform, and skips the
products that it would need them for. The result is the convolution with another filter, and this module computes that
filter. It is not causal: without some of its frequencies, a filter that starts at lag 0 also has taps at negative lags.
In a language model they are a leak, because a position sees the tokens that it is to predict.

The convolution itself is ``fftconv`` on every backend. It takes as long as with all frequencies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels.registration import checks


def frequency_sparse(k: Tensor, mask: Tensor, *, length: int, causal: bool) -> Tensor:
    """Filters whose spectra are multiplied by a mask, as taps for ``fftconv``.

    The spectrum is that of the filters padded to N points, ``rfft(k, n=N)``. N is ``2 (F - 1)`` for a mask of F
    frequencies. :func:`low_pass` makes masks.

    With ``causal=False`` the result is exact: ``fftconv(u, k2, causal=False)`` equals
    ``irfft(rfft(u, n=N) * rfft(k, n=N) * mask, n=N)[..., :L]``. With ``causal=True`` the taps at negative lags are left
    out, and ``fftconv(u, k2)`` sees no future. Its spectrum is then only close to the masked one.

    Args:
        k: ``(D, K)`` causal filters, ``k[:, 0]`` at lag 0, with K ≤ N; float32 or float64.
        mask: ``(F,)`` or ``(D, F)``, bool or of ``k``'s dtype, on ``k``'s device: factors of the frequencies
            ``0 … N/2``.
        length: length L of the signals. N must be at least ``2L - 1``, so that no lag stands for two.
        causal: whether to leave out the taps at negative lags.

    Returns:
        ``(D, L)`` with ``causal=True``, else ``(D, 2L - 1)`` with lag 0 in the middle. Differentiable in ``k`` and in a
        mask that is not bool.

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: shapes do not fit together; the message gives them.

    Source: Fu et al., "FlashFFTConv", 2023 (arXiv 2311.05908), section 3.3.

    Example:
        >>> import torch
        >>> from hyena_kernels import fftconv
        >>> from hyena_kernels.frequency_sparse import frequency_sparse, low_pass
        >>> u, k = torch.randn(1, 4, 100), torch.randn(4, 100)
        >>> sparse = frequency_sparse(k, low_pass(256, keep=0.25), length=100, causal=False)
        >>> fftconv(u, sparse, causal=False).shape
        torch.Size([1, 4, 100])
    """
    checks.rank("frequency_sparse", "k", k, "(D, K)")
    if k.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"frequency_sparse: k {tuple(k.shape)} has dtype {k.dtype}, expected float32 or float64")
    given: Any = mask
    if not isinstance(given, Tensor) or given.dtype not in (torch.bool, k.dtype):
        found = getattr(given, "dtype", type(given).__name__)
        raise TypeError(f"frequency_sparse: mask must be a tensor of bool or of k's {k.dtype}, got {found}")
    channels, taps = k.shape
    if mask.dim() not in (1, 2) or mask.shape[-1] < 2 or (mask.dim() == 2 and mask.shape[0] != channels):
        raise ValueError(
            f"frequency_sparse: mask has shape {tuple(mask.shape)}, expected (F,) or (D, F) with D = {channels}, F ≥ 2"
        )
    checks.same_device("frequency_sparse", k=k, mask=mask)
    size = 2 * (mask.shape[-1] - 1)
    if length < 1 or size < 2 * length - 1 or taps > size or channels < 1 or taps < 1:
        raise ValueError(
            f"frequency_sparse: a mask of {mask.shape[-1]} frequencies is for transforms of {size} points: they take "
            f"filters of 1 to {size} taps, here {taps}, and signals of 1 to {(size + 1) // 2} positions, here {length}"
        )
    masked = torch.fft.irfft(torch.fft.rfft(k, n=size) * mask, n=size)
    after = masked[:, :length]
    return after if causal else torch.cat((masked[:, size - length + 1 :], after), dim=1)


def low_pass(size: int, *, keep: float, device: torch.device | str | None = None) -> Tensor:
    """A mask of the lowest frequencies.

    Args:
        size: points N of the transform, even.
        keep: fraction of the frequencies to keep, above 0 and at most 1. At least one is kept.
        device: device of the mask.

    Returns:
        ``(N/2 + 1,)`` of bool.

    Raises:
        ValueError: ``size`` is odd or below 2, or ``keep`` is no such fraction.
    """
    if size < 2 or size % 2:
        raise ValueError(f"low_pass: size must be even and at least 2, got {size}")
    if not 0 < keep <= 1:
        raise ValueError(f"low_pass: keep must be above 0 and at most 1, got {keep}")
    count = size // 2 + 1
    return torch.arange(count, device=device) < max(1, round(keep * count))
