"""The op sequence of the published HyenaOperator in plain PyTorch, reimplemented with the same parameters.

Every step is a separate op, and autograd saves its inputs: transposed projections, ``conv1d``, a filter network over
all positions, ``torch.fft`` of length 2L in float32, gates. Source: ``standalone_hyenadna.py`` of HyenaDNA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyena_kernels import HyenaOperator


def published_fftconv(u: Tensor, k: Tensor, D: Tensor) -> Tensor:
    """Convolve by transforms of length 2L: ``u (B, D, L)``, ``k (D, L)``, ``D (D,)`` → ``(B, D, L)``."""
    size = 2 * u.shape[-1]
    k_f = torch.fft.rfft(k, n=size) / size
    u_f = torch.fft.rfft(u.to(dtype=k.dtype), n=size)
    y = torch.fft.irfft(u_f * k_f, n=size, norm="forward")[..., : u.shape[-1]]
    return (y + u * D.unsqueeze(-1)).to(dtype=u.dtype)


class PublishedHyenaOperator(nn.Module):
    """The published op sequence on the parameters of ``operator`` (order 2, no dropout)."""

    def __init__(self, operator: HyenaOperator) -> None:
        super().__init__()
        self.operator = operator

    def filter(self, L: int) -> Tensor:
        """The filter ``(1, L, D)``, computed like the original."""
        own = self.operator.filter_fn
        z, t = own.pos_emb(L)
        return own.modulation(t, own.implicit_filter(z))

    def forward(self, u: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``."""
        own = self.operator
        L = u.shape[1]
        p = own.in_proj(u).transpose(1, 2)
        x0, x1, v = own.short_filter(p)[..., :L].split(own.d_model, dim=1)
        v = published_fftconv(v * x1, self.filter(L)[0].transpose(0, 1), own.filter_fn.bias)
        return own.out_proj((v * x0).transpose(1, 2))


class ExactFilter(PublishedHyenaOperator):
    """The published op sequence whose filter stays float32 under autocast, like ours."""

    def filter(self, L: int) -> Tensor:
        """The filter ``(1, L, D)``, computed without autocast."""
        with torch.autocast(self.operator.in_proj.weight.device.type, enabled=False):
            return super().filter(L)


class PublishedBlock(nn.Module):
    """The published op sequence on the parameters of a HyenaDNA block, without slicing or recomputing.

    Args:
        block: a ``HyenaDNABlock``.
        operator: class that replaces its mixer.
    """

    def __init__(self, block: Any, operator: type[PublishedHyenaOperator] = PublishedHyenaOperator) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.mixer = operator(block.mixer)

    def forward(self, residual: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``."""
        residual = residual + self.mixer(self.norm1(residual))
        return residual + self.mlp(self.norm2(residual))
