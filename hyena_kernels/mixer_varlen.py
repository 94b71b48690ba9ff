"""``hyena_mixer_varlen``: the ``hyena_mixer`` of many sequences of any lengths, packed into one row."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.segments import SegmentPlan, plan_of


def hyena_mixer_varlen(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None = None,
    *,
    cu_seqlens: Tensor | SegmentPlan,
    max_seqlen: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """:func:`hyena_kernels.hyena_mixer` of every segment of a packed row, ``(T, (N+1) d) → (T, d)``."""
    plan = plan_of("hyena_mixer_varlen", cu_seqlens, max_seqlen, x, 0)
    results = []
    for start, length in zip(plan.starts, plan.lengths, strict=True):
        one = hyena_mixer(
            x[None, start : start + length], short_weight, short_bias, k[..., :length], D, backend=backend
        )
        results.append(one[0])
    return torch.cat(results)
