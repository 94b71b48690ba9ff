"""``implicit_filter`` in plain PyTorch.

Positions are processed in slices, transposed. So no tensor of all positions times the width of the network is made, and
the filter comes out as ``(D, L)``. Backward runs the network again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import ImplicitFilterInputs

# Positions computed at a time. On a CPU the activations of a network of width 64 should stay in the cache of one core.
_POSITIONS = {"cpu": 2048}
_POSITIONS_ELSEWHERE = 1 << 18


def _position_slices(z: Tensor) -> Iterator[slice]:
    return sizes.slices(z.shape[0], _POSITIONS.get(z.device.type, _POSITIONS_ELSEWHERE))


def _window(t: Tensor, deltas: Tensor, shift: float) -> Tensor:
    """``(D, L)`` window ``exp(-t |delta|) + shift``."""
    return torch.outer(deltas.abs().neg(), t).exp_().add_(shift)


def forward(inputs: ImplicitFilterInputs, shift: float) -> Tensor:
    """As ``hyena_kernels::implicit_filter_fwd``."""
    z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas = inputs
    k = z.new_empty((w_out.shape[0], z.shape[0]))
    for rows in _position_slices(z):
        h = torch.addmm(b_in[:, None], w_in, z[rows].t()).mul_(freq[:, None]).sin_()
        for weight, bias in zip(w_hidden, b_hidden, strict=True):
            h = torch.addmm(bias[:, None], weight, h).mul_(freq[:, None]).sin_()
        part = w_out @ h
        if t is not None and deltas is not None:
            part.mul_(_window(t[rows], deltas, shift))
        k[:, rows] = part
    return k


def backward(dk: Tensor, inputs: ImplicitFilterInputs, shift: float, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::implicit_filter_bwd``."""
    z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas = inputs
    grads = gradients_like(inputs, needs, zeros=True)
    dz, dfreq, dw_in, db_in, dw_hidden, db_hidden, dw_out, dt, ddeltas = grads
    needs_z, needs_freq, needs_w_in, needs_b_in, needs_w_hidden, needs_b_hidden, needs_w_out, needs_t, needs_deltas = (
        needs
    )
    for rows in _position_slices(z):
        # linear[i] is the network's i-th pre-activation without its frequency, sines[i] the input of its i-th layer.
        linear, sines = [torch.addmm(b_in[:, None], w_in, z[rows].t())], [z[rows].t()]
        for weight, bias in zip(w_hidden, b_hidden, strict=True):
            sines.append((linear[-1] * freq[:, None]).sin_())
            linear.append(torch.addmm(bias[:, None], weight, sines[-1]))
        sines.append((linear[-1] * freq[:, None]).sin_())

        dh = dk[:, rows]
        if t is not None and deltas is not None:
            decay = _window(t[rows], deltas, 0.0)
            if needs_t or needs_deltas:
                dexponent = (w_out @ sines[-1]).mul_(dh).mul_(decay)
                if needs_t:
                    dt[rows] = -(deltas.abs() @ dexponent)
                if needs_deltas:
                    ddeltas -= deltas.sign() * (dexponent @ t[rows])
            dh = decay.add_(shift).mul_(dh)
        if needs_w_out:
            dw_out += dh @ sines[-1].t()
        dsine = w_out.t() @ dh
        for layer in reversed(range(len(linear))):
            dsine.mul_((linear[layer] * freq[:, None]).cos_())
            if needs_freq:
                dfreq += (dsine * linear[layer]).sum(dim=1)
            dlinear = dsine.mul_(freq[:, None])
            weight = w_hidden[layer - 1] if layer else w_in
            dweight, dbias = (dw_hidden, db_hidden) if layer else (dw_in, db_in)
            if needs_w_hidden if layer else needs_w_in:
                (dweight[layer - 1] if layer else dweight).addmm_(dlinear, sines[layer].t())
            if needs_b_hidden if layer else needs_b_in:
                (dbias[layer - 1] if layer else dbias).add_(dlinear.sum(dim=1))
            if layer:
                dsine = weight.t() @ dlinear
            elif needs_z:
                dz[rows] = (weight.t() @ dlinear).t()
    return grads
