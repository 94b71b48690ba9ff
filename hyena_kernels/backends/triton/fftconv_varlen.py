"""``fftconv_varlen`` in Triton. ``packed.py`` says how packed rows are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.triton import packed
from hyena_kernels.backends.triton.fftconv import Gradients
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FftconvInputs, FftconvVarlenInputs


def forward(inputs: FftconvVarlenInputs) -> Tensor:
    """Op ``fftconv_varlen_fwd``: :func:`hyena_kernels.fftconv_varlen`, except float64."""
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    packed.forward_into(y[None], _as_batch(inputs), packed.Packed(inputs.rows, inputs.host_rows))
    return y


def backward(dy: Tensor, inputs: FftconvVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """Op ``fftconv_varlen_bwd``: contiguous gradients of the tensors, of length 0 where not needed."""
    grads = gradients_like(inputs, needs)
    du, dk, dD, dpre, dpost = only_needed(grads[:5], needs[:5])
    signals = [None if grad is None else grad[None] for grad in (du, dpre, dpost)]
    wanted = Gradients(signals[0], dk, dD, *signals[1:])
    packed.backward_into(wanted, dy[None], _as_batch(inputs), packed.Packed(inputs.rows, inputs.host_rows))
    return grads


def _as_batch(inputs: FftconvVarlenInputs) -> FftconvInputs:
    """The tensors as those of one row: a view of ``(D, T)`` as ``(1, D, T)``."""
    u, k, D, pre, post = inputs[:5]
    return FftconvInputs(u[None], k, D, *(None if gate is None else gate[None] for gate in (pre, post)))
