"""``hyena_mixer_varlen`` in Triton: the kernels of ``hyena_mixer`` on one row, which stop where a packed row starts.

The short convolution masks each tap that would reach beyond the start. ``packed.py`` has the long convolutions.
"""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.triton import mixer
from hyena_kernels.backends.triton.packed import Packed
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import MixerInputs, MixerVarlenInputs


def forward(inputs: MixerVarlenInputs) -> Tensor:
    """Op ``hyena_mixer_varlen_fwd``: :func:`hyena_kernels.hyena_mixer_varlen`, except float64."""
    return mixer.forward(_as_batch(inputs), Packed(inputs.rows, inputs.host_rows))[0]


def backward(dy: Tensor, inputs: MixerVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """Op ``hyena_mixer_varlen_bwd``: contiguous gradients of the tensors, of length 0 where not needed."""
    grads = gradients_like(inputs, needs)
    dx, *filters = only_needed(grads[:5], needs[:5])
    wanted = (None if dx is None else dx[None], *filters)
    mixer.backward_into(wanted, dy[None], _as_batch(inputs), Packed(inputs.rows, inputs.host_rows))
    return grads


def _as_batch(inputs: MixerVarlenInputs) -> MixerInputs:
    """The tensors as those of one row: a view of ``(T, …)`` as ``(1, T, …)``."""
    return MixerInputs(inputs.x[None], *inputs[1:5])
