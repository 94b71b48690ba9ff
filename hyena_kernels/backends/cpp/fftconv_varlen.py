"""``fftconv_varlen`` on the C++ kernels of ``csrc/cpu``, segment by segment in place."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FftconvVarlenInputs
from hyena_kernels.common.packed import Sums


def forward(inputs: FftconvVarlenInputs) -> Tensor:
    """As ``hyena_kernels::fftconv_varlen_fwd``."""
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    ops.fftconv_varlen_fwd(y, *inputs[:5], inputs.host_rows.contiguous())
    return y


def backward(dy: Tensor, inputs: FftconvVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_varlen_bwd``."""
    u, k, D, pre_gate, post_gate, _, host_rows = inputs
    du, dk, dD, dpre, dpost, *_ = grads = gradients_like(inputs, needs)
    shared = Sums((dk, dD), needs[1:3], sizes.accumulator(u, k))
    filters = shared.widened((k, D))
    parts = only_needed(gradients_like(filters, needs[1:3]), needs[1:3])
    own = only_needed((du, dpre, dpost), (needs[0], needs[3], needs[4]))
    rows = host_rows.contiguous()
    ops.fftconv_varlen_bwd(*own, *shared.sums, *parts, dy, u, *filters, pre_gate, post_gate, rows)
    shared.write()
    return grads
