"""``hyena_mixer_step`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.inputs import MixerStepInputs
from hyena_kernels.common.steps import number_in


def forward(inputs: MixerStepInputs, step: int, window: int) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_step``."""
    x, short_state, weight, bias, u, future, taps, t = inputs
    step = step if t is None else number_in("hyena_mixer_step", t, taps.shape[2])
    y = x.new_empty((x.shape[0], taps.shape[1]))
    ops.hyena_mixer_step(y, short_state, u, x, weight, bias, future, taps, step, window)
    return y
