"""``fftconv_varlen``: the causal ``fftconv`` of many sequences of any lengths, packed into one row."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.fftconv import fftconv
from hyena_kernels.segments import SegmentPlan, plan_of


def fftconv_varlen(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    cu_seqlens: Tensor | SegmentPlan,
    max_seqlen: int | None = None,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The causal :func:`hyena_kernels.fftconv` of every segment of a packed row, ``(D, T) → (D, T)``."""
    plan = plan_of("fftconv_varlen", cu_seqlens, max_seqlen, u, 1)
    results = []
    for start, length in zip(plan.starts, plan.lengths, strict=True):
        part = slice(start, start + length)
        gates = [None if gate is None else gate[None, :, part] for gate in (pre_gate, post_gate)]
        one = fftconv(u[None, :, part], k[:, :length], D, pre_gate=gates[0], post_gate=gates[1], backend=backend)
        results.append(one[0])
    return torch.cat(results, dim=1)


# See the end of fftconv.py.
fftconv_varlen.fftconv_varlen = fftconv_varlen  # type: ignore[attr-defined]
