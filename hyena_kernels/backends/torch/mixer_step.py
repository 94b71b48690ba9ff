"""``hyena_mixer_step`` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyena_kernels.common.inputs import MixerStepInputs
from hyena_kernels.common.steps import number_in


def forward(inputs: MixerStepInputs, step: int, window: int) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_step``."""
    t = inputs.t
    if t is None:
        return _forward(inputs, _of_number(inputs, step, window))
    if t.device.type == "cpu":
        return _forward(inputs, _of_number(inputs, number_in("hyena_mixer_step", t, inputs.taps.shape[2]), window))
    return _forward(inputs, _of_tensor(inputs, t, window))


# Takes the recurrence o and its signal at t. It stores the signal in ``u`` and returns the convolution at t.
_Convolve = Callable[[int, Tensor], Tensor]


def _forward(inputs: MixerStepInputs, convolve: _Convolve) -> Tensor:
    x, short_state, weight, bias, u, _, taps, _ = inputs
    history = torch.cat([short_state, x.unsqueeze(2)], dim=2)
    projections = torch.linalg.vecdot(history.to(u.dtype), weight.to(u.dtype))
    if bias is not None:
        projections += bias
    short_state.copy_(history[:, :, 1:])
    *gates, v = projections.unflatten(1, (taps.shape[0] + 2, taps.shape[1])).unbind(1)
    for o in range(taps.shape[0]):
        v = convolve(o, v * gates[-1 - o])
    return (v * gates[0]).to(x.dtype).contiguous()


def _of_number(inputs: MixerStepInputs, t: int, window: int) -> _Convolve:
    """The convolutions of a window that begins where Python knows it."""
    u, future, taps = inputs.u, inputs.future, inputs.taps
    start = t - t % window
    lags = taps[:, :, : t - start + 1].flip(2)

    def convolve(o: int, v: Tensor) -> Tensor:
        u[o, :, :, t] = v
        return future[o, :, :, t] + torch.linalg.vecdot(u[o, :, :, start : t + 1], lags[o])

    return convolve


def _of_tensor(inputs: MixerStepInputs, t: Tensor, window: int) -> _Convolve:
    """As :func:`_of_number` for a ``t`` that only the device knows: all shapes are the same at every step."""
    u, future, taps = inputs.u, inputs.future, inputs.taps
    place = t.reshape(1)
    start = t - t % window
    offsets = torch.arange(window, device=t.device)
    inside = offsets <= t - start
    places = torch.where(inside, start + offsets, t)
    lags = taps.index_select(2, t - places)

    def convolve(o: int, v: Tensor) -> Tensor:
        u[o].index_copy_(2, place, v.unsqueeze(2))
        # Where the window has not begun, the product may be infinity times zero.
        products = torch.where(inside, u[o].index_select(2, places) * lags[o], 0)
        return future[o].index_select(2, place).squeeze(2) + products.sum(2)

    return convolve
