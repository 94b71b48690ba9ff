"""``short_conv`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import only_needed
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.taps import empty_signal, final_state, short_gradients


def forward(inputs: ShortConvInputs, silu: bool) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    y = empty_signal(inputs.x)
    ops.short_conv_fwd(y, *inputs, silu)
    return y


def forward_states(inputs: ShortConvInputs, silu: bool) -> tuple[Tensor, Tensor]:
    """As ``hyena_kernels::short_conv_states_fwd``."""
    return forward(inputs, silu), final_state(inputs.x, inputs.weight.shape[1], inputs.initial_state)


def backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``."""
    grads = short_gradients(inputs, needs)
    ops.short_conv_bwd(*only_needed(grads, needs), dy, *inputs, silu)
    return grads
