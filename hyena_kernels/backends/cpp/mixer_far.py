"""``hyena_mixer_far`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FarMixerInputs


def forward(inputs: FarMixerInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_far_fwd``."""
    y = inputs.x.new_empty((*inputs.x.shape[:2], inputs.near.shape[1]))
    ops.hyena_mixer_far_fwd(y, *inputs)
    return y


def backward(dy: Tensor, inputs: FarMixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_far_bwd``."""
    grads = gradients_like(inputs, needs)
    ops.hyena_mixer_far_bwd(*only_needed(grads, needs), dy, *inputs)
    return grads
