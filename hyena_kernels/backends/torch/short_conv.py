"""``short_conv`` and its step in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.backends.torch import taps
from hyena_kernels.common import sizes
from hyena_kernels.common.inputs import ShortConvInputs, ShortConvUpdate
from hyena_kernels.common.taps import MAX_TAPS, empty_signal, final_state, short_gradients


def forward(inputs: ShortConvInputs, silu: bool) -> Tensor:
    """As ``hyena_kernels::short_conv_fwd``."""
    x, weight, bias, _ = inputs
    dtype = sizes.accumulator(x, weight)
    y = empty_signal(x)
    rows = 4 if silu or _is_long(inputs) else 3
    batch_step, channel_step = sizes.tile(x.shape[0], x.shape[1], rows * _width(inputs) * dtype.itemsize, x.device)
    for c in sizes.slices(x.shape[1], channel_step):
        w, offset = weight[c].to(dtype), None if bias is None else bias[c].to(dtype)
        for b in sizes.slices(x.shape[0], batch_step):
            value = _convolved(_signal(inputs, b, c, dtype), w, offset, _is_long(inputs))
            y[b, c] = F.silu(value, inplace=True) if silu else value
    return y


def forward_states(inputs: ShortConvInputs, silu: bool) -> tuple[Tensor, Tensor]:
    """As ``hyena_kernels::short_conv_states_fwd``."""
    return forward(inputs, silu), final_state(inputs.x, inputs.weight.shape[1], inputs.initial_state)


def backward(dy: Tensor, inputs: ShortConvInputs, silu: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::short_conv_bwd``."""
    x, weight, bias, _ = inputs
    dtype, is_long, before = sizes.accumulator(x, weight), _is_long(inputs), weight.shape[1] - 1
    dx, dweight, dbias, dstate = grads = short_gradients(inputs, needs)
    rows = 8 if silu or is_long else 5
    batch_step, channel_step = sizes.tile(x.shape[0], x.shape[1], rows * _width(inputs) * dtype.itemsize, x.device)
    for c in sizes.slices(x.shape[1], channel_step):
        w = weight[c].to(dtype)
        offset = bias[c].to(dtype) if silu and bias is not None else None
        weight_sum, bias_sum = torch.zeros_like(w), torch.zeros_like(w[:, 0])
        for b in sizes.slices(x.shape[0], batch_step):
            signal, grad = _signal(inputs, b, c, dtype), dy[b, c].to(dtype)
            if silu:
                grad = torch.ops.aten.silu_backward(grad, _convolved(signal, w, offset, is_long))
            derivative = taps.long_taps_backward if is_long else taps.taps_backward
            signal_part, weight_part, bias_part = derivative(grad, signal, w)
            weight_sum += weight_part
            bias_sum += bias_part
            if needs[0]:
                dx[b, c] = signal_part[..., before:] if is_long else signal_part
            if needs[3]:
                dstate[b, c] = signal_part[..., :before]
        if needs[1]:
            dweight[c] = weight_sum
        if needs[2]:
            dbias[c] = bias_sum
    return grads


def _is_long(inputs: ShortConvInputs) -> bool:
    """Whether the signal is computed with the samples before it, rather than with fewer products where it begins."""
    return inputs.initial_state is not None or inputs.weight.shape[1] > MAX_TAPS


def _width(inputs: ShortConvInputs) -> int:
    return inputs.x.shape[2] + inputs.weight.shape[1] - 1


def _signal(inputs: ShortConvInputs, batch: slice, channels: slice, dtype: torch.dtype) -> Tensor:
    """A slice of the signal, with the K - 1 samples before it if the filter is :func:`_is_long`."""
    x = inputs.x[batch, channels].to(dtype)
    if not _is_long(inputs):
        return x
    if inputs.initial_state is None:
        return F.pad(x, (inputs.weight.shape[1] - 1, 0))
    return torch.cat((inputs.initial_state[batch, channels].to(dtype), x), dim=-1)


def _convolved(signal: Tensor, weight: Tensor, bias: Tensor | None, is_long: bool) -> Tensor:
    return (taps.long_taps_forward if is_long else taps.taps_forward)(signal, weight, bias)


def update(inputs: ShortConvUpdate, silu: bool) -> Tensor:
    """As ``hyena_kernels::short_conv_update``. Rolls ``inputs.state`` in place."""
    x, state, weight, bias = inputs
    dtype, before = sizes.accumulator(x, weight), weight.shape[1] - 1
    samples = torch.cat((state, x[..., None]), dim=-1)
    y = (samples[..., state.shape[2] - before :].to(dtype) * weight.to(dtype)).sum(dim=-1)
    if bias is not None:
        y += bias.to(dtype)
    state.copy_(samples[..., 1:])
    return (F.silu(y, inplace=True) if silu else y).to(x.dtype)
