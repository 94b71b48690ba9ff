"""Short filters: their largest size, and the last step of their gradients on every GPU backend."""

from __future__ import annotations

from torch import Tensor

MAX_TAPS = 8
"""Largest number of taps of a short convolution."""

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
