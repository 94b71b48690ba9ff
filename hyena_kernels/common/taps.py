"""Short filters: sizes, results in the memory order of the signal, and the last step of their gradients on GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_TAPS = 8
"""Largest number of taps of ``hyena_mixer``, and of the kernels that hold all taps of a channel in registers."""

MOST_TAPS = 256
"""Largest number of taps of ``short_conv``."""


def empty_signal(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor like ``x (B, D, L)``: in the order ``(B, L, D)`` of memory if ``x`` has it, else dense.

    A signal is channel-last if its channels are neighbours and its positions lie at least D elements apart. So a slice
    of the channels of a longer channel-last row is channel-last too.

    Args:
        x: ``(B, D, L)``.
        dtype: by default ``x``'s.
    """
    _, channel_stride, stride = x.stride()
    if channel_stride == 1 and stride >= x.shape[1] and stride != 1:
        # No view: autograd lets callers change one of several results in place only if it is none.
        return x.new_empty_strided(x.shape, (x.shape[1] * x.shape[2], 1, x.shape[1]), dtype=dtype)
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def short_gradients(tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> tuple[Tensor, ...]:
    """As ``gradients_like`` for the tensors of ``short_conv``. That of ``x`` has the order of :func:`empty_signal`."""
    x = tensors[0]
    assert x is not None, "the first input of an op is its signal"
    rest = (
        x.new_empty(0)
        if tensor is None or not needed
        else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip(tensors[1:], needs[1:], strict=True)
    )
    return empty_signal(x) if needs[0] else x.new_empty(0), *rest


def final_state(x: Tensor, taps: int, initial_state: Tensor | None) -> Tensor:
    """The last ``taps - 1`` samples of ``initial_state``, or of zeros, followed by ``x``.

    Args:
        x: ``(B, D, L)``.
        taps: K.
        initial_state: ``(B, D, K-1)`` of ``x``'s dtype, or None.

    Returns:
        ``(B, D, K-1)``, new and contiguous.
    """
    missing = taps - 1 - x.shape[2]
    if missing <= 0:
        return x[..., -missing:].clone(memory_format=torch.contiguous_format)
    state = x.new_empty((*x.shape[:2], taps - 1))
    if initial_state is None:
        state[..., :missing] = 0
    else:
        state[..., :missing] = initial_state[..., x.shape[2] :]
    state[..., missing:] = x
    return state


ALL = slice(None)


def write_tap_gradients(
    sums: Tensor,
    dweight: Tensor | None,
    dbias: Tensor | None,
    *,
    convolutions: int = 1,
    channels: slice = ALL,
) -> None:
    """Add the sums that kernels made over parts of the positions, in the order of the parts.

    Args:
        sums: ``(parts, N * (K + 1), C)`` in float32. For each of N convolutions, the gradients of its K taps and then
            the gradient of its bias.
        dweight: ``(N * D, K)``, written unless it is None.
        dbias: ``(N * D,)``, written unless it is None.
        convolutions: N.
        channels: the C channels, of D, that the sums belong to.
    """
    total = sums.sum(dim=0).unflatten(0, (convolutions, -1))
    if dweight is not None:
        dweight.unflatten(0, (convolutions, -1))[:, channels].copy_(total[:, :-1].transpose(1, 2))
    if dbias is not None:
        dbias.unflatten(0, (convolutions, -1))[:, channels].copy_(total[:, -1])
