"""``fftconv`` in plain PyTorch.

The mathematics is the convolution theorem: with transforms of a size N at which nothing wraps around,
``y = irfft(rfft(u) * rfft(k))``. The gradient of ``u`` is the correlation of ``dy`` with ``k``. The gradient of ``k``
is the correlation of ``dy`` with ``u``, summed over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.torch import fft
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import FftconvInputs


def _row_bytes(size: int, dtype: torch.dtype, buffers: int) -> int:
    return size * dtype.itemsize * buffers


def forward(inputs: FftconvInputs, causal: bool) -> Tensor:
    """As ``hyena_kernels::fftconv_fwd``."""
    u, k, D, pre_gate, post_gate = inputs
    batch, channels, length = u.shape
    dtype = sizes.accumulator(u, k)
    tap = sizes.centre(k.shape[1], causal)
    size = sizes.fft_size(length, k.shape[1], tap)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    batch_step, channel_step = sizes.tile(batch, channels, _row_bytes(size, dtype, 3), u.device)
    for c in sizes.slices(channels, channel_step):
        filter_f = fft.filter_spectrum(k[c], None if D is None else D[c], size, tap, dtype)
        for b in sizes.slices(batch, batch_step):
            x = u[b, c].to(dtype)
            if pre_gate is not None:
                x = x * pre_gate[b, c]
            signal_f = torch.fft.rfft(x, n=size).mul_(filter_f)
            out = torch.fft.irfft(signal_f, n=size)[..., :length]
            y[b, c] = out if post_gate is None else out.mul_(post_gate[b, c])
    return y


def backward(dy: Tensor, inputs: FftconvInputs, causal: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_bwd``."""
    u, k, D, pre_gate, post_gate = inputs
    batch, channels, length = u.shape
    dtype = sizes.accumulator(u, k)
    tap = sizes.centre(k.shape[1], causal)
    size = sizes.fft_size(length, k.shape[1], tap)
    du, dk, dD, dpre, dpost = grads = gradients_like(inputs, needs)
    needs_filter = needs[1]
    needs_signal = needs[0] or needs[3]
    batch_step, channel_step = sizes.tile(batch, channels, _row_bytes(size, dtype, 6), u.device)
    for c in sizes.slices(channels, channel_step):
        filter_f = fft.filter_spectrum(k[c], None if D is None else D[c], size, tap, dtype)
        # A lazy conjugate inside a registered op gives wrong results under torch.compile.
        filter_f_conj = torch.conj_physical(filter_f) if needs_signal else filter_f
        filter_grad_f = torch.zeros_like(filter_f) if needs_filter else filter_f
        skip_grad: Tensor | int = 0
        for b in sizes.slices(batch, batch_step):
            if needs[2]:
                factors = [None if each is None else each[b, c] for each in (dy, pre_gate, post_gate)]
                skip_grad = skip_grad + fft.skip_gradient(u[b, c], *factors)
            signal = u[b, c].to(dtype)
            x = signal if pre_gate is None else signal * pre_gate[b, c]
            grad = dy[b, c].to(dtype)
            signal_f = torch.fft.rfft(x, n=size) if needs_filter or needs[4] else filter_f
            if needs[4]:
                dpost[b, c] = torch.fft.irfft(signal_f * filter_f, n=size)[..., :length].mul_(grad)
            if post_gate is not None:
                grad = grad * post_gate[b, c]
            if not (needs_filter or needs_signal):
                continue
            grad_f = torch.fft.rfft(grad, n=size)
            if needs_filter:
                filter_grad_f += signal_f.conj_physical_().mul_(grad_f).sum(dim=0)
            if needs_signal:
                dx = torch.fft.irfft(grad_f.mul_(filter_f_conj), n=size)[..., :length]
                if needs[3]:
                    dpre[b, c] = dx * signal
                if needs[0]:
                    du[b, c] = dx if pre_gate is None else dx.mul_(pre_gate[b, c])
        if needs_filter:
            dk[c] = fft.filter_gradient(filter_grad_f, size, tap, k.shape[1])
        if needs[2]:
            dD[c] = skip_grad
    return grads
