"""``short_conv`` on the compiled extension."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import gradients_like


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    ops.short_conv_fwd(y, x, weight, bias)
    return y


def backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``."""
    grads = gradients_like((x, weight, bias), needs)
    outs = [grad if needed else None for grad, needed in zip(grads, needs, strict=True)]
    ops.short_conv_bwd(*outs, dy, x, weight)
    return grads
