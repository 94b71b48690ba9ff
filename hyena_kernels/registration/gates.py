"""Gates and skips of the long convolutions: their checks, and their shapes as backends get them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hyena_kernels.registration import checks, library


def check_skip(op: str, D: Any, u: Tensor) -> None:
    """Raise unless ``D`` is ``(D,)`` or ``(D, 1)`` for the channels of ``u (B, D, L)``."""
    checks.floats(op, "D", D, "(D,) or (D, 1)")
    channels = u.shape[1]
    if D.shape != (channels,) and D.shape != (channels, 1):
        raise ValueError(f"{op}: D has shape {tuple(D.shape)}, expected (D,) = ({channels},) or (D, 1)")


def check_gate(op: str, name: str, gate: Any, u: Tensor) -> None:
    """Raise unless a gate broadcasts to the shape of ``u (B, D, L)``."""
    checks.floats(op, name, gate, "(B, D, L)")
    if gate.shape == u.shape:
        return
    pairs = zip(reversed(gate.shape), reversed(u.shape), strict=False)
    if gate.dim() > 3 or any(have != 1 and have != want for have, want in pairs):
        raise ValueError(
            f"{op}: {name} has shape {tuple(gate.shape)}, expected one that broadcasts to (B, D, L) = {tuple(u.shape)}"
        )


def like_signal(op: str, name: str, gate: Tensor, u: Tensor, *, each_sample: bool = False) -> Tensor:
    """A gate in the dtype and the shape of the signal; ``each_sample``: in the shape ``(1, B * D, L)``.

    Raises:
        TypeError: the gate has another dtype than the signal, after autocast.
    """
    gate = library.to_autocast(gate)
    if gate.dtype != u.dtype:
        raise TypeError(f"{op}: {name} {tuple(gate.shape)} has dtype {gate.dtype}, expected the signal's {u.dtype}")
    if each_sample:
        batch, channels, length = u.shape
        # A gate that is constant over the positions is copied without them.
        last = gate.shape[-1] if gate.dim() else 1
        rows = gate.expand(batch, channels, last).reshape(1, batch * channels, last)
        return rows.expand(1, batch * channels, length)
    return gate if gate.shape == u.shape else gate.expand(u.shape)
