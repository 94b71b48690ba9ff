"""``gelu`` in plain PyTorch, which computes 16-bit tensors in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels.common.inputs import GeluInputs


def forward(inputs: GeluInputs) -> Tensor:
    """As ``hyena_kernels::gelu_fwd``."""
    return F.gelu(inputs.x.contiguous(), approximate="tanh")


def backward(dy: Tensor, inputs: GeluInputs) -> Tensor:
    """As ``hyena_kernels::gelu_bwd``."""
    return torch.ops.aten.gelu_backward(dy.contiguous(), inputs.x.contiguous(), approximate="tanh")
