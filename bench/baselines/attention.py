"""Causal attention of every backend that torch has, and of the packages of flash-attn where they are installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.baselines.packages import imported
from hyena_kernels.testing import error_budget, relative_error

HEAD = 64
"""Width of a head: the one that every kernel is tuned for."""
QUERIES = 64
"""Queries at which an attention is checked, spread over the sequence."""

_SDPA = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}


_PACKAGES = {
    "flash_attn": "flash_attn",
    "flash_attn_3": "flash_attn_interface",
    "flash_attn_4": "flash_attn.cute",
}
"""Modules of its versions, all with ``flash_attn_func``; several can be installed beside each other."""


def function_of(implementation: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``q, k, v (B, H, L, 64)`` → ``(B, H, L, 64)``, causal.

    Raises:
        ImportError: that version of flash-attn is not installed.
    """
    if implementation in _PACKAGES:
        flash = imported(_PACKAGES[implementation], "flash_attn_func")

        def packaged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            found = flash(*(t.transpose(1, 2) for t in (q, k, v)), causal=True)
            # Versions 3 and 4 may return the logarithms of the sums as well.
            return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)

        return packaged
    kernel = _SDPA[implementation]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return attend


class Attention(nn.Module):
    """Projections and causal attention with heads of 64.

    Args:
        width: D, a multiple of 64.
        implementation: which attention, a name of ``bench.common.run_file.ATTENTION``.
    """

    def __init__(self, width: int, implementation: str) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attend = function_of(implementation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``."""
        batch, length, width = x.shape
        q, k, v = self.in_proj(x).view(batch, length, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        return self.out_proj(self.attend(q, k, v).transpose(1, 2).reshape(batch, length, width))


def error_at_some_queries(
    implementation: str, batch: int, width: int, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Error of an attention against float64, and its budget, at some queries of a sequence of any length."""
    q, k, v = (torch.randn(batch, width // HEAD, length, HEAD, device=device).to(dtype) for _ in range(3))
    with torch.no_grad():
        found = function_of(implementation)(q, k, v)
    at = torch.linspace(0, length - 1, min(QUERIES, length), device=device).long()
    mask = torch.arange(length, device=device) > at[:, None]

    def at_queries(wide: torch.dtype) -> Tensor:
        scores = q[:, :, at].to(wide) @ k.to(wide).transpose(-1, -2) * HEAD**-0.5
        # Weights in the dtype of the values, as the kernels have them.
        weights = scores.masked_fill(mask, float("-inf")).softmax(-1)
        return weights @ v.to(wide)

    oracle, plain = at_queries(torch.float64), at_queries(torch.float32).to(dtype)
    return relative_error(found[:, :, at], oracle), error_budget(plain, oracle)
