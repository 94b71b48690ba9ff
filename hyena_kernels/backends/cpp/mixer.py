"""``hyena_mixer`` on the C++ kernels of ``csrc/cpu``, and its first stage as a function of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import MixerInputs


def forward(inputs: MixerInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_fwd``."""
    y = inputs.x.new_empty((*inputs.x.shape[:2], inputs.k.shape[1]))
    ops.hyena_mixer_fwd(y, *inputs)
    return y


def backward(dy: Tensor, inputs: MixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_bwd``."""
    grads = gradients_like(inputs, needs)
    ops.hyena_mixer_bwd(*only_needed(grads, needs), dy, *inputs)
    return grads


def project(x: Tensor, weight: Tensor, bias: Tensor | None, order: int = 2) -> tuple[Tensor, Tensor]:
    """Short convolution, split and first product of a Hyena operator, from channel-last to channel-first.

    This is the first stage of the mixer, to be tested and timed. The mixer runs it on a few channels at a time.

    Args:
        x: ``(B, L, (order+1) d)``, as :func:`hyena_kernels.hyena_mixer` takes it.
        weight: ``((order+1) d, Ks)`` with 1 ≤ Ks ≤ 8.
        bias: ``((order+1) d,)`` or None.
        order: N, at least 2.

    Returns:
        With ``p`` the short convolution of ``x``, split into ``p_0 … p_N``: the product ``p_N * p_{N-1} (B, d, L)`` and
        the gates ``p_0 … p_{N-2} (B, (N-1) d, L)``, both contiguous, of ``x``'s dtype.
    """
    batch, length, width = x.shape
    channels = width // (order + 1)
    first = x.new_empty((batch, channels, length))
    gates = x.new_empty((batch, (order - 1) * channels, length))
    ops.project_fwd(first, gates, x, weight, bias)
    return first, gates


def project_backward(
    dfirst: Tensor, dgates: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`project` in ``x``, ``weight`` and ``bias``. The last is computed without a bias too."""
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dweight, dbias = torch.empty_like(weight), weight.new_empty(weight.shape[0])
    ops.project_bwd(dx, dweight, dbias, dfirst, dgates, x, weight, bias)
    return dx, dweight, dbias
