"""Convolutions of other packages, with the arguments of the ops of hyena_kernels.

Sources of the interfaces: the READMEs of flash-fft-conv (HazyResearch) and causal-conv1d (Dao-AILab), and "FFT Causal
Conv1d" in cuDNN's documentation. An adapter raises ImportError if its package is not installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_Adapter = Callable[[int, int, torch.dtype, torch.device], Callable[..., Tensor]]
"""Width, length, dtype and device → a function with the arguments of the op."""

_LARGEST_FLASHFFTCONV = 1 << 22
"""Points of the largest transform of FlashFFTConv."""


class Unavailable(Exception):
    """An implementation cannot run a case. The message is the reason."""


def imported(module: str, name: str) -> Any:
    """A function or class of a package.

    Raises:
        ImportError: the package is not installed, or its version does not have the name.
    """
    found = importlib.import_module(module)
    try:
        return getattr(found, name)
    except AttributeError:
        raise ImportError(f"{module} {getattr(found, '__version__', '')} has no {name}".replace("  ", " ")) from None


def compiled(function: Any) -> Any:
    """``torch.compile`` for one shape."""
    # With code for other shapes in the cache, torch would compile for dynamic shapes.
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def _with_skip(k: Tensor, D: Tensor) -> Tensor:
    """The filter with the skip added to its first tap: the same convolution."""
    return torch.cat([k[:, :1] + D[:, None], k[:, 1:]], dim=1)


def flashfftconv(width: int, length: int, dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    """FlashFFTConv: transforms of at least 2 L points, a power of two, with both gates inside.

    Raises:
        Unavailable: the dtype, width or length is not supported.
    """
    made = imported("flashfftconv", "FlashFFTConv")
    size = max(256, 1 << (2 * length - 1).bit_length())
    if dtype not in (torch.float16, torch.bfloat16):
        raise Unavailable("takes only float16 and bfloat16")
    if size > _LARGEST_FLASHFFTCONV:
        raise Unavailable(f"its transforms have at most {_LARGEST_FLASHFFTCONV} points")
    # It needs even lengths, and for two sizes multiples of 4.
    padding = -length % 4
    if size > 32768 and width % 16:
        raise Unavailable(f"above L = 16384 it takes multiples of 16 channels, not {width}")
    convolution = made(size, dtype=dtype).to(device)

    def run(u: Tensor, k: Tensor, D: Tensor, pre_gate: Tensor | None, post_gate: Tensor | None) -> Tensor:
        gates = () if pre_gate is None or post_gate is None else (pre_gate, post_gate)
        signals = [F.pad(each, (0, padding)) if padding else each for each in (u, *gates)]
        filters = _with_skip(k, D)
        y = convolution(signals[0], F.pad(filters, (0, padding)) if padding else filters, *signals[1:])
        return y[..., :length]

    return run


def cudnn_fft_causal_conv1d(width: int, length: int, dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    """``cudnn.ops.fft_causal_conv1d`` of cuDNN's frontend, with gates and skip outside."""
    convolve = imported("cudnn.ops", "fft_causal_conv1d")

    def run(u: Tensor, k: Tensor, D: Tensor, pre_gate: Tensor | None, post_gate: Tensor | None) -> Tensor:
        signal = u if pre_gate is None else u * pre_gate
        # Adding the skip to a 16-bit first tap would lose digits, so it is added to the result.
        y = convolve(signal, k) + signal * D[:, None].to(u.dtype)
        return y if post_gate is None else y * post_gate

    return run


def causal_conv1d(width: int, length: int, dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    """``causal_conv1d_fn`` of the package: 2 to 4 taps, without an activation."""
    convolve = imported("causal_conv1d", "causal_conv1d_fn")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(x, weight, bias, activation=None)

    return run


ADAPTERS: dict[str, tuple[str, _Adapter]] = {
    "flashfftconv": ("fftconv", flashfftconv),
    "cudnn_fft_causal_conv1d": ("fftconv", cudnn_fft_causal_conv1d),
    "causal_conv1d": ("short_conv", causal_conv1d),
}
"""The op and the adapter of each implementation."""
FILTERS_LIKE_SIGNALS = ("cudnn_fft_causal_conv1d",)
"""Implementations that need filters in the dtype of the signals. They are checked with such filters too."""
