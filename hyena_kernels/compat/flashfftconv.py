"""The calls of FlashFFTConv (HazyResearch/flash-fft-conv): ``FlashFFTConv`` and ``FlashDepthWiseConv1d``.

Source: Fu, Kumbong, Nguyen and Ré, "FlashFFTConv", 2023 (arXiv 2311.05908), and the README and the code of the library.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyena_kernels import fftconv, short_conv
from hyena_kernels.compat.common import for_signal, unrolled, without_autocast, without_batch

__all__ = ["FlashDepthWiseConv1d", "FlashFFTConv"]


class FlashFFTConv(nn.Module):
    """Long convolution on a circle of ``seqlen`` points, with a gate on either side.

    With ``L ≤ seqlen / 2`` and filters of at most ``seqlen - L + 1`` taps it is causal. Longer filters are two-sided:
    tap ``seqlen - j`` has lag ``-j``. With ``L = seqlen`` the convolution is circular. All of these are exact: those
    with negative lags by one transform of at least ``2 L`` points.

    What differs: any ``seqlen`` and any L and H, odd ones included; strided signals; float32 and float64 too; the
    filter ``(1, H, K)``; each gate on its own; on a CPU too. Spectra stay in float32, where the library rounds them to
    ``dtype``. There are no buffers: those in a checkpoint of the library are ignored. Gradients in ``eval()`` too.

    Args:
        seqlen: points of the circle.
        dtype: float16 or bfloat16, as the library asks. It is kept and not used: results have the dtype of ``u``.
        use_32_butterfly: the library's choice of a kernel; not used.

    Raises:
        ValueError: ``seqlen`` is not positive.
        TypeError: ``dtype`` is neither float16 nor bfloat16.
    """

    def __init__(self, seqlen: int, dtype: torch.dtype = torch.float16, use_32_butterfly: bool = True) -> None:
        super().__init__()
        if seqlen < 1:
            raise ValueError(f"FlashFFTConv: seqlen must be positive, got {seqlen}")
        if dtype not in (torch.float16, torch.bfloat16):
            raise TypeError(f"FlashFFTConv: dtype must be torch.float16 or torch.bfloat16, got {dtype}")
        self.seqlen = seqlen
        self.dtype = dtype
        self.use_32_butterfly = use_32_butterfly

    def _load_from_state_dict(self, *args: object) -> None:
        """The library's tables of roots of unity have nowhere to go."""

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"{self.seqlen}, dtype={self.dtype}"

    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        """``postgate * ((pregate * u) ⋆ k)``.

        Args:
            u: ``(B, H, L)`` with L ≤ ``seqlen``.
            k: ``(H, K)`` or ``(1, H, K)``, float32 or of ``u``'s dtype; taps beyond ``seqlen`` are cut off.
            pregate: ``(B, H, L)``, of ``u``'s dtype.
            postgate: ``(B, H, L)``, of ``u``'s dtype.

        Returns:
            ``(B, H, L)`` of ``u``'s dtype, also under autocast.

        Raises:
            ValueError: L > ``seqlen``, or shapes do not fit.
        """
        if u.shape[-1] > self.seqlen:
            raise ValueError(f"FlashFFTConv: u {tuple(u.shape)} is longer than seqlen = {self.seqlen}")
        taps, k_rev = unrolled(without_batch(k)[..., : self.seqlen], self.seqlen, u.shape[-1])
        with without_autocast(u):
            return fftconv(u, taps, k_rev=k_rev, pre_gate=pregate, post_gate=postgate)


class FlashDepthWiseConv1d(nn.Module):
    """Depthwise convolution of a few taps, with the taps of ``torch.nn.Conv1d`` and zeros on both sides.

    What differs: any padding, in backward too (the library's fails for ``kernel_size - 1``); any number of taps from 1
    to 256, even ones included; strided signals; ``bias`` may be None; sums in float32; on a CPU too. The weights are a
    copy: the library shares them with the layer that they come from, unless ``is_bhl`` is False. Their state loads and
    saves, where the library's ``load_state_dict`` does nothing.

    Args:
        channels: D.
        kernel_size: K.
        padding: zeros before and after the signal.
        weights: ``(D, 1, K)`` or ``(D, K)``, as of ``Conv1d(D, D, K, groups=D)``.
        bias: ``(D,)``.
        is_bhl: whether signals are ``(B, D, L)``; otherwise ``(B, L, D)``, and the parameter ``weights`` is ``(K, D)``.
        device: where the parameters go; default where ``weights`` is.
        dtype: that of ``weights``.

    Raises:
        ValueError: shapes do not fit, ``padding`` is negative, or ``dtype`` is not that of ``weights``.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        padding: int,
        weights: Tensor,
        bias: Tensor | None,
        is_bhl: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if weights.numel() != channels * kernel_size or weights.shape[0] != channels or padding < 0:
            raise ValueError(
                f"FlashDepthWiseConv1d: weights have shape {tuple(weights.shape)}, expected "
                f"({channels}, 1, {kernel_size}), and padding {padding} may not be negative"
            )
        if dtype not in (None, weights.dtype):
            raise ValueError(f"FlashDepthWiseConv1d: dtype {dtype} is not that of the weights, {weights.dtype}")
        self.d = channels
        self.k = kernel_size
        self.padding = padding
        self.is_bhl = is_bhl
        taps = weights.detach().to(device).reshape(channels, kernel_size)
        self.weights = nn.Parameter((taps if is_bhl else taps.T).clone(memory_format=torch.contiguous_format))
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device).clone())

    def forward(self, input: Tensor) -> Tensor:
        """``y[t] = bias + sum_j weights[j] x[t - padding + j]``.

        Args:
            input: ``(B, D, L)``, or ``(B, L, D)`` without ``is_bhl``; of any dtype that ``short_conv`` takes, which may
                differ from that of the weights.

        Returns:
            ``(B, D, L + 2 padding - K + 1)``, or with the last two exchanged, of the signal's dtype.

        Raises:
            ValueError: shapes do not fit, or the signal with its zeros is shorter than the filter.
        """
        x = input if self.is_bhl else input.mT
        weight = self.weights if self.is_bhl else self.weights.T
        if x.shape[-1] + 2 * self.padding < self.k:
            raise ValueError(
                f"FlashDepthWiseConv1d: input {tuple(input.shape)} with {self.padding} zeros on both sides is shorter "
                f"than {self.k} taps"
            )
        # short_conv has K - 1 zeros before the signal and none after it.
        behind = self.k - 1 - self.padding
        if self.padding:
            x = F.pad(x, (max(0, -behind), self.padding))
        with without_autocast(x):
            y = short_conv(x, for_signal(weight, x), None if self.bias is None else for_signal(self.bias, x))
        y = y[..., max(0, behind) :]
        return y if self.is_bhl else y.mT
