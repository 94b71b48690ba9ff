"""``hyena_mixer_far`` in plain PyTorch: :mod:`hyena_kernels.backends.torch.mixer` with other convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.torch import fft
from hyena_kernels.backends.torch.far_field import FarField, row_bytes
from hyena_kernels.backends.torch.mixer import differentiate_projections, project
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import FarMixerInputs


def _filters(inputs: FarMixerInputs, c: slice, length: int, dtype: torch.dtype) -> list[FarField]:
    _, _, _, near, nodes, D = inputs
    steps = range(near.shape[0])
    return [FarField(near[o, c], nodes[o, c], None if D is None else D[o, c], length, dtype) for o in steps]


def forward(inputs: FarMixerInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_far_fwd``."""
    x, weight, bias, near, nodes, _ = inputs
    batch, length, _ = x.shape
    steps, channels = near.shape[0], near.shape[1]
    dtype = sizes.accumulator(x, weight, near)
    y = x.new_empty((batch, length, channels))
    each = row_bytes(length, near, nodes, dtype) + 2 * length * dtype.itemsize
    batch_step, channel_step = sizes.tile(batch, channels, each, x.device)
    for c in sizes.slices(channels, channel_step):
        filters = _filters(inputs, c, length, dtype)
        for b in sizes.slices(batch, batch_step):
            _, v = project(x, weight, bias, steps + 1, channels, b, c, dtype)
            for o in range(steps):
                signal = filters[o].in_blocks(v * project(x, weight, bias, steps - o, channels, b, c, dtype)[1])
                v = filters[o].convolve(signal, filters[o].moments(signal))
            y[b, :, c] = (v * project(x, weight, bias, 0, channels, b, c, dtype)[1]).transpose(1, 2)
    return y


def backward(dy: Tensor, inputs: FarMixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_far_bwd``."""
    x, weight, bias, near, nodes, _ = inputs
    batch, length, width = x.shape
    steps, channels = near.shape[0], near.shape[1]
    dtype = sizes.accumulator(x, weight, near)
    dx, dweight, dbias, dnear, dnodes, dD = grads = gradients_like(inputs, needs)
    needs_taps = needs[1] or needs[2]
    needs_projections = needs[0] or needs_taps
    if not any(needs):
        return grads
    weight_sum = torch.zeros_like(weight, dtype=dtype)
    bias_sum = torch.zeros(width, dtype=dtype, device=x.device)
    each = (1 + steps) * row_bytes(length, near, nodes, dtype) + (4 + 4 * steps) * length * dtype.itemsize
    batch_step, channel_step = sizes.tile(batch, channels, each, x.device)
    for c in sizes.slices(channels, channel_step):
        filters = _filters(inputs, c, length, dtype)
        near_sums: list[Tensor | int] = [0] * steps
        node_sums: list[Tensor | int] = [0] * steps
        skip_sums: list[Tensor | int] = [0] * steps
        for b in sizes.slices(batch, batch_step):
            signals, gates = zip(
                *(project(x, weight, bias, part, channels, b, c, dtype) for part in range(steps + 2)), strict=True
            )
            values, moments = [gates[steps + 1]], []
            for o in range(steps):
                signal = filters[o].in_blocks(values[o] * gates[steps - o])
                # A small part of the signal's size.
                moments.append(filters[o].moments(signal))
                # The last value is the partner of gate 0 in the result: only that gate's gradient needs it.
                if needs_projections or o < steps - 1:
                    values.append(filters[o].convolve(signal, moments[o]))
            grad = dy[b, :, c].transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
            gate_grads = {0: values[steps] * grad} if needs_projections else {}
            grad = grad * gates[0]
            for o in reversed(range(steps)):
                if needs[5]:
                    skip_sums[o] = skip_sums[o] + fft.skip_gradient(values[o], gates[steps - o], grad)
                g = filters[o].in_blocks(grad)
                g_moments = filters[o].moments(g)
                if needs[3]:
                    signal = filters[o].in_blocks(values[o] * gates[steps - o])
                    near_sums[o] = near_sums[o] + filters[o].near_gradient(g, signal)
                if needs[4]:
                    node_sums[o] = node_sums[o] + filters[o].node_gradient(g_moments, moments[o], nodes.shape[3])
                if not needs_projections and o == 0:
                    break
                grad = filters[o].correlate(g, g_moments)
                if needs_projections:
                    gate_grads[steps - o] = grad * values[o]
                grad = grad * gates[steps - o]
            if needs_projections:
                gate_grads[steps + 1] = grad
            differentiate_projections(
                gate_grads,
                signals,
                weight,
                b,
                c,
                dx if needs[0] else None,
                (weight_sum, bias_sum) if needs_taps else None,
            )
        for o in range(steps):
            if needs[3]:
                dnear[o, c] = near_sums[o]
            if needs[4]:
                dnodes[o, c] = node_sums[o]
            if needs[5]:
                dD[o, c] = skip_sums[o]
    if needs[1]:
        dweight.copy_(weight_sum)
    if needs[2]:
        dbias.copy_(bias_sum)
    return grads
