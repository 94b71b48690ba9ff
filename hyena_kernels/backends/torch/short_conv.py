"""``short_conv`` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.torch.taps import taps_backward, taps_forward
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import ShortConvInputs


def forward(inputs: ShortConvInputs) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    x, weight, bias = inputs
    dtype = sizes.accumulator(x, weight)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    batch_step, channel_step = sizes.tile(x.shape[0], x.shape[1], 3 * x.shape[2] * dtype.itemsize, x.device)
    for c in sizes.slices(x.shape[1], channel_step):
        w, offset = weight[c].to(dtype), None if bias is None else bias[c].to(dtype)
        for b in sizes.slices(x.shape[0], batch_step):
            y[b, c] = taps_forward(x[b, c].to(dtype), w, offset)
    return y


def backward(dy: Tensor, inputs: ShortConvInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``."""
    x, weight, _ = inputs
    dtype = sizes.accumulator(x, weight)
    dx, dweight, dbias = grads = gradients_like(inputs, needs)
    batch_step, channel_step = sizes.tile(x.shape[0], x.shape[1], 5 * x.shape[2] * dtype.itemsize, x.device)
    for c in sizes.slices(x.shape[1], channel_step):
        w = weight[c].to(dtype)
        weight_sum, bias_sum = torch.zeros_like(w), torch.zeros_like(w[:, 0])
        for b in sizes.slices(x.shape[0], batch_step):
            signal, weight_part, bias_part = taps_backward(dy[b, c].to(dtype), x[b, c].to(dtype), w)
            weight_sum += weight_part
            bias_sum += bias_part
            if needs[0]:
                dx[b, c] = signal
        if needs[1]:
            dweight[c] = weight_sum
        if needs[2]:
            dbias[c] = bias_sum
    return grads
