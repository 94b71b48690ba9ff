"""Short filters: their limit, and the last step of their gradients on every GPU backend."""

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
    """Add up what kernels have summed over parts of the positions, in the order of the parts.

    Args:
        sums: ``(parts, N * (K + 1), C)`` in float32 of N convolutions: the gradients of the taps of each, then that of
            its bias.
        dweight: ``(N * D, K)``, to be written, or None.
        dbias: ``(N * D,)``, likewise.
        convolutions: N.
        channels: which C of the D channels of each the sums are for.
    """
    total = sums.sum(dim=0).unflatten(0, (convolutions, -1))
    if dweight is not None:
        dweight.unflatten(0, (convolutions, -1))[:, channels].copy_(total[:, :-1].transpose(1, 2))
    if dbias is not None:
        dbias.unflatten(0, (convolutions, -1))[:, channels].copy_(total[:, -1])
