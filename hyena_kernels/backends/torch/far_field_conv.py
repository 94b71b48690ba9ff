"""``far_field_conv`` in plain PyTorch. :mod:`hyena_kernels.backends.torch.far_field` has the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.torch import fft
from hyena_kernels.backends.torch.far_field import FarField, row_bytes
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import FarFieldConvInputs


def forward(inputs: FarFieldConvInputs) -> Tensor:
    """As ``hyena_kernels::far_field_conv_fwd``."""
    u, near, nodes, D, pre_gate, post_gate = inputs
    batch, channels, length = u.shape
    dtype = sizes.accumulator(u, near)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    batch_step, channel_step = sizes.tile(batch, channels, row_bytes(length, near, nodes, dtype), u.device)
    for c in sizes.slices(channels, channel_step):
        filters = FarField(near[c], nodes[c], None if D is None else D[c], length, dtype)
        for b in sizes.slices(batch, batch_step):
            x = u[b, c].to(dtype)
            x = filters.in_blocks(x if pre_gate is None else x * pre_gate[b, c])
            out = filters.convolve(x, filters.moments(x))
            y[b, c] = out if post_gate is None else out * post_gate[b, c]
    return y


def backward(dy: Tensor, inputs: FarFieldConvInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::far_field_conv_bwd``."""
    u, near, nodes, D, pre_gate, post_gate = inputs
    batch, channels, length = u.shape
    dtype = sizes.accumulator(u, near)
    du, dnear, dnodes, dD, dpre, dpost = grads = gradients_like(inputs, needs)
    needs_signal = needs[0] or needs[4]
    batch_step, channel_step = sizes.tile(batch, channels, row_bytes(length, near, nodes, dtype), u.device)
    for c in sizes.slices(channels, channel_step):
        filters = FarField(near[c], nodes[c], None if D is None else D[c], length, dtype)
        near_sum: Tensor | int = 0
        node_sum: Tensor | int = 0
        skip_sum: Tensor | int = 0
        for b in sizes.slices(batch, batch_step):
            if needs[3]:
                factors = [None if each is None else each[b, c] for each in (dy, pre_gate, post_gate)]
                skip_sum = skip_sum + fft.skip_gradient(u[b, c], *factors)
            signal, grad = u[b, c].to(dtype), dy[b, c].to(dtype)
            x = filters.in_blocks(signal if pre_gate is None else signal * pre_gate[b, c])
            g = filters.in_blocks(grad if post_gate is None else grad * post_gate[b, c])
            x_moments = filters.moments(x) if needs[2] or needs[5] else x
            g_moments = filters.moments(g) if needs[2] or needs_signal else g
            if needs[5]:
                dpost[b, c] = filters.convolve(x, x_moments) * grad
            if needs[1]:
                near_sum = near_sum + filters.near_gradient(g, x)
            if needs[2]:
                node_sum = node_sum + filters.node_gradient(g_moments, x_moments, nodes.shape[2])
            if needs_signal:
                dx = filters.correlate(g, g_moments)
                if needs[4]:
                    dpre[b, c] = dx * signal
                if needs[0]:
                    du[b, c] = dx if pre_gate is None else dx * pre_gate[b, c]
        if needs[1]:
            dnear[c] = near_sum
        if needs[2]:
            dnodes[c] = node_sum
        if needs[3]:
            dD[c] = skip_sum
    return grads
