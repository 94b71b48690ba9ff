"""``far_field_conv`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FarFieldConvInputs


def forward(inputs: FarFieldConvInputs) -> Tensor:
    """As ``hyena_kernels::far_field_conv_fwd``."""
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    ops.far_field_conv_fwd(y, *inputs)
    return y


def backward(dy: Tensor, inputs: FarFieldConvInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::far_field_conv_bwd``."""
    grads = gradients_like(inputs, needs)
    ops.far_field_conv_bwd(*only_needed(grads, needs), dy, *inputs)
    return grads
