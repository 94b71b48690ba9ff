"""``short_conv`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import ShortConvInputs


def forward(inputs: ShortConvInputs) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    y = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    ops.short_conv_fwd(y, *inputs)
    return y


def backward(dy: Tensor, inputs: ShortConvInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``."""
    grads = gradients_like(inputs, needs)
    ops.short_conv_bwd(*only_needed(grads, needs), dy, inputs.x, inputs.weight)
    return grads
