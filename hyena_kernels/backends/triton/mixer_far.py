"""``hyena_mixer_far`` in Triton: :mod:`.mixer` with the long convolutions of :mod:`.far_field_conv`."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.triton import mixer
from hyena_kernels.common.inputs import FarMixerInputs


def forward(inputs: FarMixerInputs) -> Tensor:
    """``hyena_mixer_far_fwd``: shapes, dtypes and result of :func:`hyena_kernels.hyena_mixer_far`, except float64."""
    return mixer.forward(inputs)


def backward(dy: Tensor, inputs: FarMixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """``hyena_mixer_far_bwd``: contiguous gradients of the six tensors, of length 0 where not needed."""
    return mixer.backward(dy, inputs, needs)
