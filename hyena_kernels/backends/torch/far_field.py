"""The long convolution of some channels by near field and far field, in plain PyTorch.

The near field of a block is a product with the lower triangular Toeplitz matrix of the taps of lags 0 … h-1. The far
field goes through the moments ``M[J, β] = sum_b φ_β(b) x[J h + b]`` and the convolution over blocks
``T[I, α] = sum_{d ≥ 1} sum_β f(d h + (α - β) s) M[I - d, β]``, to ``sum_α φ_α(a) T[I, α]``.
:mod:`hyena_kernels.common.far_field` names the letters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.common import far_field, sizes


def row_bytes(length: int, near: Tensor, nodes: Tensor, dtype: torch.dtype) -> int:
    """Bytes of scratch that the methods of :class:`FarField` need for one row of ``length`` positions."""
    h, p = far_field.settings_of(near, nodes)
    blocks = far_field.block_count(length, h)
    spectrum = sizes.fft_size(blocks, blocks, 0) * (p * p + 6 * p)
    return int((4 * blocks * h + 2 * spectrum + 2 * h * h) * dtype.itemsize)


class FarField:
    """Filters of some channels, ready to convolve signals ``(B, C, L)``.

    Args:
        near: ``(C, h)`` taps of the first lags.
        nodes: ``(C, 2 p - 1, N)`` values at the nodes.
        D: ``(C,)`` skip, which is added to tap 0, or None.
        length: number of positions L.
        dtype: float32 or float64, in which everything is computed.
    """

    def __init__(self, near: Tensor, nodes: Tensor, D: Tensor | None, length: int, dtype: torch.dtype) -> None:
        self.length = length
        self.h, self.p = far_field.settings_of(near, nodes)
        self.blocks = far_field.block_count(length, self.h)
        self.size = sizes.fft_size(self.blocks, self.blocks, 0)
        taps = near.to(dtype, copy=True)
        if D is not None:
            taps[:, 0] += D
        place = torch.arange(self.h, device=near.device)
        self.lags = place[:, None] - place
        self.toeplitz = taps[:, self.lags.clamp(min=0)].tril_()
        self.basis = far_field.basis(self.h, self.p, dtype=dtype, device=near.device)
        node = torch.arange(self.p, device=near.device)
        self.differences = node[:, None] - node + self.p - 1
        # Place d of a row holds the nodes of blocks that are d apart. There are none at d = 0.
        values = F.pad(nodes[..., : self.blocks - 1].to(dtype), (1, 0))
        self.spectrum = torch.fft.rfft(values, n=self.size)[:, self.differences]

    def in_blocks(self, x: Tensor) -> Tensor:
        """``(B, C, L) → (B, C, blocks, h)``, padded with zeros."""
        padded = F.pad(x, (0, self.blocks * self.h - self.length))
        return padded.view(*x.shape[:2], self.blocks, self.h)

    def moments(self, x: Tensor) -> Tensor:
        """The spectrum of the moments over blocks: ``(B, C, blocks, h) → (B, C, p, size // 2 + 1)``."""
        return torch.fft.rfft((x @ self.basis).transpose(2, 3), n=self.size)

    def _expanded(self, spectrum: Tensor) -> Tensor:
        values = torch.fft.irfft(spectrum, n=self.size)[..., : self.blocks]
        return values.transpose(2, 3) @ self.basis.T

    def convolve(self, x: Tensor, moments: Tensor) -> Tensor:
        """The convolution ``(B, C, L)`` of a signal in blocks, given its moments."""
        far = torch.einsum("cabf,ncbf->ncaf", self.spectrum, moments)
        y = torch.matmul(x, self.toeplitz.transpose(1, 2)).add_(self._expanded(far))
        return y.flatten(2)[..., : self.length]

    def correlate(self, g: Tensor, moments: Tensor) -> Tensor:
        """The transpose of :meth:`convolve`: the gradient of the signal, from that of the result in blocks."""
        # A lazy conjugate inside a registered op gives wrong results under torch.compile.
        far = torch.einsum("cabf,ncaf->ncbf", torch.conj_physical(self.spectrum), moments)
        x = torch.matmul(g, self.toeplitz).add_(self._expanded(far))
        return x.flatten(2)[..., : self.length]

    def near_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        """Gradient of the near taps ``(C, h)``, summed over the batch, from ``g`` and ``x`` in blocks."""
        products = torch.einsum("ncia,ncib->cab", g, x)
        taps = products.new_zeros((products.shape[0], self.h))
        rows, columns = torch.tril_indices(self.h, self.h, device=g.device)
        return taps.index_add_(1, rows - columns, products[:, rows, columns])

    def node_gradient(self, g_moments: Tensor, x_moments: Tensor, count: int) -> Tensor:
        """Gradient of the nodes ``(C, 2 p - 1, count)``, summed over the batch, from the moments of both sides."""
        pairs = torch.einsum("ncaf,ncbf->cabf", g_moments, torch.conj_physical(x_moments))
        sums = pairs.new_zeros((pairs.shape[0], 2 * self.p - 1, pairs.shape[-1]))
        sums.index_add_(1, self.differences.flatten(), pairs.flatten(1, 2))
        values = torch.fft.irfft(sums, n=self.size)[..., 1 : self.blocks]
        return F.pad(values, (0, count - values.shape[-1]))
