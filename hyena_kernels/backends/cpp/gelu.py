"""``gelu`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.inputs import GeluInputs


def forward(inputs: GeluInputs) -> Tensor:
    """As ``hyena_kernels::gelu_fwd``."""
    x = inputs.x.contiguous()
    y = torch.empty_like(x)
    ops.gelu_fwd(y.view(-1), x.view(-1))
    return y


def backward(dy: Tensor, inputs: GeluInputs) -> Tensor:
    """As ``hyena_kernels::gelu_bwd``."""
    x = inputs.x.contiguous()
    dx = torch.empty_like(x)
    ops.gelu_bwd(dx.view(-1), dy.contiguous().view(-1), x.view(-1))
    return dx
