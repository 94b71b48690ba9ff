"""``hyena_mixer_varlen`` by way of this backend's ``hyena_mixer``."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.triton import mixer
from hyena_kernels.common import packed
from hyena_kernels.common.inputs import MixerVarlenInputs


def forward(inputs: MixerVarlenInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_varlen_fwd``."""
    return packed.mixer_forward(inputs, mixer.forward)


def backward(dy: Tensor, inputs: MixerVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_varlen_bwd``."""
    return packed.mixer_backward(dy, inputs, needs, mixer.backward)
