"""``fftconv`` on the compiled extension."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like


def forward(
    u: Tensor, k: Tensor, D: Tensor | None, pre_gate: Tensor | None, post_gate: Tensor | None, causal: bool
) -> Tensor:
    """As ``hyena_kernels::fftconv_fwd``."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    ops.fftconv_fwd(y, u, k, D, pre_gate, post_gate, sizes.centre(k.shape[1], causal))
    return y


def backward(
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    D: Tensor | None,
    pre_gate: Tensor | None,
    post_gate: Tensor | None,
    causal: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_bwd``."""
    grads = gradients_like((u, k, D, pre_gate, post_gate), needs)
    outs = [grad if needed else None for grad, needed in zip(grads, needs, strict=True)]
    ops.fftconv_bwd(*outs, dy, u, k, D, pre_gate, post_gate, sizes.centre(k.shape[1], causal))
    return grads
