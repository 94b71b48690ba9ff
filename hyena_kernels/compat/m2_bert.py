"""The call of M2-BERT (HazyResearch/m2): ``fftconv_ref`` of ``src.mm.hyena_utils``.

Source: Fu et al., "Monarch Mixer", 2023 (arXiv 2310.12109), and the code of the repository.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.compat.common import long_convolution, skip_of, without_autocast

__all__ = ["fftconv_ref"]


def fftconv_ref(
    u_variable: Tensor,
    k: Tensor,
    D_variable: Tensor,
    dropout_mask: Tensor | None,
    gelu: bool = True,
    k_rev: Tensor | None = None,
    flashfft: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """``mask * gelu(u ⋆ k + D u)``, with filters of up to ``2 L`` taps on a circle of ``2 L`` points.

    M2-BERT's bidirectional filter is ``pad(k, (0, L)) + pad(k_rev.flip(-1), (L, 0))``. On the circle its reverse part
    has lags -1, -2, …: the first reverse tap is one position ahead. The argument ``k_rev`` is another convention, that
    of safari: lags 0, -1, …. Both are exact here. The GELU is the exact one, by erf.

    What differs: the skip is given as ``(H, 1)`` or ``(1, H, 1)``, as M2-BERT's code does; other shapes that broadcast
    are refused. Under autocast nothing is rounded in between.

    Args:
        u_variable: ``(B, H, L)``, or ``(…, H, Z, L)`` with blocks ``Z`` that are convolved on their own.
        k: ``(H, K)`` or ``(1, H, K)``; taps beyond ``2 L`` are cut off.
        D_variable: ``(H, 1)``; with ``u`` of more than three dimensions ``(H, 1, 1)``. Ones may come before.
        dropout_mask: ``(B, H)`` factors of the result; with ``u`` of three dimensions.
        gelu: whether the GELU is applied.
        k_rev: ``(H, K)`` taps of lags 0, -1, ….
        flashfft: a ``FlashFFTConv`` of ``2 L`` points. It is called in bfloat16 in place of the convolution.

    Returns:
        The shape and dtype of ``u_variable``.

    Raises:
        ValueError: shapes do not fit, or ``k_rev`` comes with ``flashfft``, which would ignore it.
    """
    u = u_variable
    skip = skip_of("fftconv_ref", D_variable, u, 1 if u.dim() == 3 else 2)
    if flashfft is None:
        return long_convolution("fftconv_ref", u, k, skip, dropout_mask, gelu, k_rev)
    if k_rev is not None:
        raise ValueError("fftconv_ref: flashfft ignores k_rev: put its taps into k, at places L … 2 L - 1")
    with without_autocast(u):
        out = flashfft(u.to(torch.bfloat16).contiguous(), k) + u * D_variable
        out = F.gelu(out) if gelu else out
        return (out if dropout_mask is None else out * dropout_mask[..., None]).to(u.dtype)
