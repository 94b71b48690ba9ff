"""``fftconv_varlen`` by way of this backend's ``fftconv``."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels.backends.torch import fftconv
from hyena_kernels.common import packed
from hyena_kernels.common.inputs import FftconvVarlenInputs


def forward(inputs: FftconvVarlenInputs) -> Tensor:
    """As ``hyena_kernels::fftconv_varlen_fwd``."""
    return packed.fftconv_forward(inputs, fftconv.forward)


def backward(dy: Tensor, inputs: FftconvVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_varlen_bwd``."""
    return packed.fftconv_backward(dy, inputs, needs, fftconv.backward)
