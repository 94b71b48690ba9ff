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
    # Spectra of the nodes, of the moments of both sides and of sums of them, and one product of p spectra.
    spectra = sizes.fft_size(blocks, blocks, 0) * (2 * p - 1 + 5 * p)
    return int((4 * blocks * h + spectra + 2 * h * h) * dtype.itemsize)


def _rounds_products(device: torch.device) -> bool:
    """Whether torch has been told to round the operands of float32 products to TF32 or bfloat16."""
    backend = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}.get(device.type)
    if backend is None:
        return False
    # Before torch 2.9 there is one setting for all devices. Later the question for it may raise.
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    return torch.get_float32_matmul_precision() != "highest" if precision is None else precision in ("tf32", "bf16")


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the precision of its dtype, whatever ``torch.set_float32_matmul_precision`` says.

    The setting is of the whole process, and other threads may rely on it. So it is left alone. Products of float64 do
    not obey it.
    """
    if a.dtype == torch.float32 and _rounds_products(a.device):
        return (a.double() @ b.double()).float()
    return a @ b


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
        # (C, h, h): the tap of lag a - b at [a, b].
        self.toeplitz = taps[:, (place[:, None] - place).clamp_(min=0)].tril_()
        self.basis = far_field.basis(self.h, self.p, dtype=dtype, device=near.device)
        # Place d of a row holds the nodes of blocks that are d apart. There are none at d = 0.
        values = F.pad(nodes[..., : self.blocks - 1].to(dtype), (1, 0))
        self.spectrum = torch.fft.rfft(values, n=self.size)

    def in_blocks(self, x: Tensor) -> Tensor:
        """``(B, C, L) → (B, C, blocks, h)``, padded with zeros."""
        rest = self.blocks * self.h - self.length
        return (F.pad(x, (0, rest)) if rest else x).reshape(*x.shape[:2], self.blocks, self.h)

    def moments(self, x: Tensor) -> Tensor:
        """The spectrum of the moments over blocks: ``(B, C, blocks, h) → (B, C, p, size // 2 + 1)``."""
        return torch.fft.rfft(product(x, self.basis).transpose(2, 3), n=self.size)

    def _add_far(self, near: Tensor, spectra: list[Tensor]) -> Tensor:
        """The sum of a near field in blocks and of a far field in spectra of its values at the nodes: ``(B, C, L)``."""
        values = torch.fft.irfft(torch.stack(spectra, dim=2), n=self.size)[..., : self.blocks]
        return near.add_(product(values.transpose(2, 3), self.basis.T)).flatten(2)[..., : self.length]

    def convolve(self, x: Tensor, moments: Tensor) -> Tensor:
        """The convolution ``(B, C, L)`` of a signal in blocks, given its moments."""
        # Row m of the flipped spectra belongs to the difference β - α = m - (p - 1).
        flipped, p = self.spectrum.flip(1), self.p
        far = [(flipped[:, p - 1 - alpha : 2 * p - 1 - alpha] * moments).sum(2) for alpha in range(p)]
        return self._add_far(product(x, self.toeplitz.transpose(1, 2)), far)

    def correlate(self, g: Tensor, moments: Tensor) -> Tensor:
        """The transpose of :meth:`convolve`: the gradient of the signal, from that of the result in blocks."""
        # A lazy conjugate inside a registered op gives wrong results under torch.compile.
        spectrum, p = torch.conj_physical(self.spectrum), self.p
        far = [(spectrum[:, p - 1 - beta : 2 * p - 1 - beta] * moments).sum(2) for beta in range(p)]
        return self._add_far(product(g, self.toeplitz), far)

    def near_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        """Gradient of the near taps ``(C, h)``, summed over the batch, from ``g`` and ``x`` in blocks."""
        h = self.h
        rows, columns = (each.transpose(0, 1).flatten(1, 2) for each in (g, x.flip(-1)))
        products = product(rows.transpose(1, 2), columns)
        # Element [a, h-1-b] of a row of 2h is element h-1 + a-b of a row of 2h - 1: columns are sums of one lag. Adding
        # by index would be in any order on a GPU.
        skewed = F.pad(products, (0, h)).flatten(1)[:, : h * (2 * h - 1)].view(-1, h, 2 * h - 1)
        return skewed[..., h - 1 :].sum(1)

    def node_gradient(self, g_moments: Tensor, x_moments: Tensor, count: int) -> Tensor:
        """Gradient of the nodes ``(C, 2 p - 1, count)``, summed over the batch, from the moments of both sides."""
        p, conjugate = self.p, torch.conj_physical(x_moments)
        sums = [
            # All α and β with α - β = m.
            (g_moments[:, :, max(m, 0) : p + min(m, 0)] * conjugate[:, :, max(-m, 0) : p - max(m, 0)]).sum((0, 2))
            for m in range(1 - p, p)
        ]
        values = torch.fft.irfft(torch.stack(sums, dim=1), n=self.size)[..., 1 : self.blocks]
        return F.pad(values, (0, count - values.shape[-1]))
