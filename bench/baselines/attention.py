"""Causal attention: every backend of torch, and the versions of flash-attn that are installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.baselines.packages import imported
from hyena_kernels.testing import error_budget, relative_error

_HEAD = 64
"""Width of a head. Every attention kernel is tuned for it."""
_QUERIES = 64
"""Number of queries that are checked, spread over the sequence."""

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
"""Modules of flash-attn 2, 3 and 4, which can be installed side by side. Each has ``flash_attn_func``."""
_INSTALL = "pip install --no-build-isolation 'hyena-kernels[flash-attn]'"


def function_of(implementation: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A causal attention: ``q, k, v (B, H, L, 64)`` → ``(B, H, L, 64)``.

    Raises:
        ImportError: this version of flash-attn is not installed.
    """
    if implementation in _PACKAGES:
        try:
            flash = imported(_PACKAGES[implementation], "flash_attn_func")
        except ImportError as error:
            hint = f"; install it with {_INSTALL}" if implementation == "flash_attn" else ""
            raise ImportError(f"{error}{hint}") from None

        def packaged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            found = flash(*(rearrange(t, "b h l d -> b l h d") for t in (q, k, v)), causal=True)
            # Versions 3 and 4 may also return the logarithms of the softmax sums.
            return rearrange(found[0] if isinstance(found, tuple) else found, "b l h d -> b h l d")

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
        implementation: name of the attention, one of ``bench.common.run_file.ATTENTION``.
    """

    def __init__(self, width: int, implementation: str) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attend = function_of(implementation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``."""
        q, k, v = rearrange(self.in_proj(x), "b l (three h d) -> three b h l d", three=3, d=_HEAD)
        return self.out_proj(rearrange(self.attend(q, k, v), "b h l d -> b l (h d)"))


def error_at_some_queries(
    implementation: str, batch: int, width: int, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Error of an attention against float64 at some queries, and its budget."""
    q, k, v = (torch.randn(batch, width // _HEAD, length, _HEAD, device=device).to(dtype) for _ in range(3))
    with torch.no_grad():
        found = function_of(implementation)(q, k, v)
    at = torch.linspace(0, length - 1, min(_QUERIES, length), device=device).long()
    mask = torch.arange(length, device=device) > at[:, None]

    def at_queries(wide: torch.dtype) -> Tensor:
        scores = q[:, :, at].to(wide) @ k.to(wide).transpose(-1, -2) * _HEAD**-0.5
        weights = scores.masked_fill(mask, float("-inf")).softmax(-1)
        return weights @ v.to(wide)

    oracle, plain = at_queries(torch.float64), at_queries(torch.float32).to(dtype)
    return relative_error(found[:, :, at], oracle), error_budget(plain, oracle)
