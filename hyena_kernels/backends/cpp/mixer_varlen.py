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
    x_row, y_row = x[None], y[None]
    for start, length in zip(*host_rows.tolist(), strict=True):
        y_part, x_part = y_row.narrow(1, start, length), x_row.narrow(1, start, length)
        ops.hyena_mixer_fwd(y_part, x_part, weight, bias, k[..., :length], D)
    return y


def backward(dy: Tensor, inputs: MixerVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_varlen_bwd``."""
    x, weight, bias, k, D, _, host_rows = inputs
    grads = gradients_like(inputs, needs)
    shared = Sums(grads[1:5], needs[1:5], sizes.accumulator(x, weight, k))
    weight, bias, k, D = shared.widened((weight, bias, k, D))
    dx_row, dy_row, x_row = grads[0][None], dy[None], x[None]
    for start, length in zip(*host_rows.tolist(), strict=True):
        dx_part = dx_row.narrow(1, start, length) if needs[0] else None
        k_part = k[..., :length]
        parts = gradients_like((weight, bias, k_part, D), needs[1:5])
        dy_part, x_part = dy_row.narrow(1, start, length), x_row.narrow(1, start, length)
        ops.hyena_mixer_bwd(dx_part, *only_needed(parts, needs[1:5]), dy_part, x_part, weight, bias, k_part, D)
        shared.add(parts)
    shared.write()
    return grads
