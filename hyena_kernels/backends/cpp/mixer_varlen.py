"""``hyena_mixer_varlen`` on the C++ kernels of ``csrc/cpu``, segment by segment in place."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import MixerVarlenInputs
from hyena_kernels.common.packed import Sums


def forward(inputs: MixerVarlenInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_varlen_fwd``."""
    x, weight, bias, k, D, _, host_rows = inputs
    y = x.new_empty((x.shape[0], k.shape[1]))
    ops.hyena_mixer_varlen_fwd(y, x, weight, bias, k, D, host_rows.contiguous())
    return y


def backward(dy: Tensor, inputs: MixerVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_varlen_bwd``."""
    x, host_rows = inputs.x, inputs.host_rows
    grads = gradients_like(inputs, needs)
    shared = Sums(grads[1:5], needs[1:5], sizes.accumulator(x, inputs.short_weight, inputs.k))
    filters = shared.widened(inputs[1:5])
    parts = only_needed(gradients_like(filters, needs[1:5]), needs[1:5])
    dx = grads[0] if needs[0] else None
    ops.hyena_mixer_varlen_bwd(dx, *shared.sums, *parts, dy, x, *filters, host_rows.contiguous())
    shared.write()
    return grads
