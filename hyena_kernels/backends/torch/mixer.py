"""``hyena_mixer`` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyena_kernels.backends.torch import fft
from hyena_kernels.backends.torch.taps import taps_backward, taps_forward, taps_signal_gradient
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import MixerInputs


def project(
    x: Tensor, weight: Tensor, bias: Tensor | None, part: int, channels: int, b: slice, c: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Projection ``part`` of one slice, ``(B, D, L)``, before and after the short convolution."""
    rows = slice(part * channels + c.start, part * channels + c.stop)
    signal = x[b, :, rows].transpose(1, 2).to(dtype, memory_format=torch.contiguous_format, copy=True)
    offset = None if bias is None else bias[rows].to(dtype)
    return signal, taps_forward(signal, weight[rows].to(dtype), offset)


def differentiate_projections(
    gate_grads: Mapping[int, Tensor],
    signals: Sequence[Tensor],
    weight: Tensor,
    b: slice,
    c: slice,
    dx: Tensor | None,
    sums: tuple[Tensor, Tensor] | None,
) -> None:
    """The derivative of :func:`project` for the parts of one slice.

    Args:
        gate_grads: gradients ``(B, C, L)`` of the projections, by part.
        signals: the parts before their short convolutions, ``(B, C, L)`` each.
        weight: ``((N+1) d, Ks)`` short filters.
        b: rows of the batch.
        c: channels of a part.
        dx: ``(B, L, (N+1) d)``, of which the slice is written, or None.
        sums: gradients of the short filters and their bias, to which those of the slice are added, or None.
    """
    channels = weight.shape[0] // len(signals)
    for part, gate_grad in gate_grads.items():
        rows = slice(part * channels + c.start, part * channels + c.stop)
        taps = weight[rows].to(gate_grad.dtype)
        if sums is None:
            signal_grad = taps_signal_gradient(gate_grad, taps)
        else:
            signal_grad, *found = taps_backward(gate_grad, signals[part], taps)
            for total, some in zip(sums, found, strict=True):
                total[rows] += some
        if dx is not None:
            dx[b, :, rows] = signal_grad.transpose(1, 2)


def forward(inputs: MixerInputs) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_fwd``."""
    x, weight, bias, k, D = inputs
    batch, length, _ = x.shape
    steps, channels = k.shape[0], k.shape[1]
    dtype = sizes.accumulator(x, weight, k)
    size = sizes.fft_size(length, k.shape[2], 0)
    y = x.new_empty((batch, length, channels))
    row_bytes = (3 * size + 2 * length) * dtype.itemsize
    batch_step, channel_step = sizes.tile(batch, channels, row_bytes, x.device)
    for c in sizes.slices(channels, channel_step):
        filters_f = [fft.filter_spectrum(k[o, c], None if D is None else D[o, c], size, 0, dtype) for o in range(steps)]
        for b in sizes.slices(batch, batch_step):
            _, v = project(x, weight, bias, steps + 1, channels, b, c, dtype)
            for o in range(steps):
                v = v.mul_(project(x, weight, bias, steps - o, channels, b, c, dtype)[1])
                v = torch.fft.irfft(torch.fft.rfft(v, n=size).mul_(filters_f[o]), n=size)[..., :length]
            y[b, :, c] = v.mul_(project(x, weight, bias, 0, channels, b, c, dtype)[1]).transpose(1, 2)
    return y


def backward(dy: Tensor, inputs: MixerInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_bwd``."""
    x, weight, bias, k, D = inputs
    batch, length, width = x.shape
    steps, channels = k.shape[0], k.shape[1]
    dtype = sizes.accumulator(x, weight, k)
    size = sizes.fft_size(length, k.shape[2], 0)
    dx, dweight, dbias, dk, dD = grads = gradients_like(inputs, needs)
    needs_taps = needs[1] or needs[2]
    needs_projections = needs[0] or needs_taps
    needs_filters = needs[3]
    if not any(needs):
        return grads
    weight_sum = torch.zeros_like(weight, dtype=dtype)
    bias_sum = torch.zeros(width, dtype=dtype, device=x.device)
    row_bytes = ((4 + 2 * steps) * size + (4 + 4 * steps) * length) * dtype.itemsize
    batch_step, channel_step = sizes.tile(batch, channels, row_bytes, x.device)
    for c in sizes.slices(channels, channel_step):
        filters_f = [fft.filter_spectrum(k[o, c], None if D is None else D[o, c], size, 0, dtype) for o in range(steps)]
        # A lazy conjugate inside a registered op gives wrong results under torch.compile.
        filters_f_conj = [torch.conj_physical(filter_f) for filter_f in filters_f]
        filter_grads_f = [torch.zeros_like(filter_f) for filter_f in filters_f] if needs_filters else []
        skip_grads: list[Tensor | int] = [0] * steps
        for b in sizes.slices(batch, batch_step):
            signals, gates = zip(
                *(project(x, weight, bias, part, channels, b, c, dtype) for part in range(steps + 2)), strict=True
            )
            values, spectra = [gates[steps + 1]], []
            for o in range(steps):
                spectrum = torch.fft.rfft(values[o] * gates[steps - o], n=size)
                if needs_filters:
                    spectra.append(spectrum)
                # The last value is the partner of gate 0 in the result: only that gate's gradient needs it.
                if needs_projections or o < steps - 1:
                    values.append(torch.fft.irfft(spectrum * filters_f[o], n=size)[..., :length])
            grad = dy[b, :, c].transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
            gate_grads = {0: values[steps].mul_(grad)} if needs_projections else {}
            grad = grad * gates[0]
            for o in reversed(range(steps)):
                if needs[4]:
                    skip_grads[o] = skip_grads[o] + fft.skip_gradient(values[o], gates[steps - o], grad)
                if not (needs_projections or needs_filters) and o == 0:
                    break
                grad_f = torch.fft.rfft(grad, n=size)
                if needs_filters:
                    filter_grads_f[o] += spectra[o].conj_physical_().mul_(grad_f).sum(dim=0)
                if not needs_projections and o == 0:
                    break
                grad = torch.fft.irfft(grad_f.mul_(filters_f_conj[o]), n=size)[..., :length]
                if needs_projections:
                    gate_grads[steps - o] = grad * values[o]
                grad = grad.mul_(gates[steps - o])
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
        for o, filter_grad_f in enumerate(filter_grads_f):
            dk[o, c] = fft.filter_gradient(filter_grad_f, size, 0, k.shape[2])
        for o, skip_grad in enumerate(skip_grads if needs[4] else []):
            dD[o, c] = skip_grad
    if needs[1]:
        dweight.copy_(weight_sum)
    if needs[2]:
        dbias.copy_(bias_sum)
    return grads
