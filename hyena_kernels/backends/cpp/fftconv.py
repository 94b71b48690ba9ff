"""``fftconv`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FftconvInputs


def forward(inputs: FftconvInputs, causal: bool) -> Tensor:
    """As ``hyena_kernels::fftconv_fwd``."""
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    ops.fftconv_fwd(y, *inputs, sizes.centre(inputs.k.shape[1], causal))
    return y


def backward(dy: Tensor, inputs: FftconvInputs, causal: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_bwd``."""
    grads = gradients_like(inputs, needs)
    ops.fftconv_bwd(*only_needed(grads, needs), dy, *inputs, sizes.centre(inputs.k.shape[1], causal))
    return grads
