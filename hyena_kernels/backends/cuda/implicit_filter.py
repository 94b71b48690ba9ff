"""``implicit_filter`` on CUDA: forward in one fused kernel, backward in slices with matrix products by torch.

In forward, a block takes 64 positions through all layers in shared memory and writes their filters with the window. No
tensor of positions times width is ever in memory. Backward computes the network again for a slice of positions at a
time. torch computes the matrix products, with its precision settings, and fused kernels do the rest. Sums over
positions are added slice by slice, so that every run gives the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cuda.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import ImplicitFilterInputs

# Bytes of the activations and gradients of a slice of positions.
SCRATCH_BYTES = 128 << 20


def forward(inputs: ImplicitFilterInputs, shift: float) -> Tensor:
    """As ``hyena_kernels::implicit_filter_fwd``."""
    z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas = inputs
    k = z.new_empty((w_out.shape[0], z.shape[0]))
    if k.numel():
        weights = w_in.t().contiguous(), w_hidden.transpose(1, 2).contiguous(), w_out.t().contiguous()
        ops.filter(
            k, z, freq.contiguous(), weights[0], b_in.contiguous(), weights[1], b_hidden.contiguous(), weights[2], t,
            deltas, shift,
        )  # fmt: skip
    return k


def backward(dk: Tensor, inputs: ImplicitFilterInputs, shift: float, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::implicit_filter_bwd``."""
    z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas = inputs
    grads = gradients_like(inputs, needs, zeros=True)
    dz, dfreq, dw_in, db_in, dw_hidden, db_hidden, dw_out, dt, ddeltas = grads
    needs_z, needs_freq, needs_w_in, needs_b_in, needs_w_hidden, needs_b_hidden, needs_w_out, needs_t, needs_deltas = (
        needs
    )
    if not dk.numel() or not any(needs):
        return grads
    channels, width = w_out.shape
    layers = w_hidden.shape[0]
    column_bytes = 4 * (3 * channels + (2 * layers + 5) * width)
    step = max(1024, SCRATCH_BYTES // column_bytes // 1024 * 1024)
    for rows in sizes.slices(z.shape[0], step):
        # linear[i] is the network's i-th pre-activation without its frequency, sines[i] the input of its i-th layer.
        linear, sines = [torch.addmm(b_in[:, None], w_in, z[rows].t())], [z[rows].t()]
        for weight, bias in zip(w_hidden, b_hidden, strict=True):
            sines.append(_sine(linear[-1], freq))
            linear.append(torch.addmm(bias[:, None], weight, sines[-1]))
        sines.append(_sine(linear[-1], freq))

        dh = dk[:, rows]
        if t is not None and deltas is not None:
            wants_exponent = needs_t or needs_deltas
            decayed = torch.empty(dh.shape, dtype=dh.dtype, device=dh.device) if wants_exponent else None
            windowed = torch.empty(dh.shape, dtype=dh.dtype, device=dh.device)
            ops.filter_window(windowed, decayed, dh, t[rows], deltas, shift)
            if decayed is not None:
                dexponent = decayed.mul_(w_out @ sines[-1])
                if needs_t:
                    dt[rows] = -(deltas.abs() @ dexponent)
                if needs_deltas:
                    ddeltas -= deltas.sign() * (dexponent @ t[rows])
            dh = windowed
        if needs_w_out:
            dw_out.addmm_(dh, sines[-1].t())
        grad = w_out.t() @ dh
        for layer in reversed(range(layers + 1)):
            # From the gradient of the sines to the gradient of their arguments, without the frequency.
            sums = grad.new_empty((width, ops.filter_blocks(grad.shape[1])))
            ops.filter_sine_backward(grad, sums, linear.pop(), freq)
            if needs_freq:
                dfreq += sums.sum(dim=1)
            weight = w_hidden[layer - 1] if layer else w_in
            dweight, dbias = (dw_hidden, db_hidden) if layer else (dw_in, db_in)
            if needs_w_hidden if layer else needs_w_in:
                (dweight[layer - 1] if layer else dweight).addmm_(grad, sines[layer].t())
            if needs_b_hidden if layer else needs_b_in:
                (dbias[layer - 1] if layer else dbias).add_(grad.sum(dim=1))
            if layer:
                grad = weight.t() @ grad
            elif needs_z:
                dz[rows] = (weight.t() @ grad).t()
    return grads


def _sine(linear: Tensor, freq: Tensor) -> Tensor:
    sine = torch.empty_like(linear)
    ops.filter_sine(sine, linear, freq)
    return sine
