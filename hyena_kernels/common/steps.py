"""Steps of decoding: numbers from 0 to G-1."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor


def check_step(op: str, t: int, horizon: int) -> None:
    """Raise IndexError, with the name of an op, unless there is a step ``t`` of G = ``horizon``."""
    if not 0 <= t < horizon:
        raise IndexError(f"{op}: t is {t}, expected 0 ≤ t < G = {horizon}")


def number_of(op: str, t: Any) -> int:
    """The step that an argument ``t`` names, which is a whole number of any kind.

    Raises:
        TypeError: it is no whole number.
    """
    try:
        return operator.index(t)
    except TypeError:
        raise TypeError(f"{op}: t must be a whole number or an int64 tensor, got {type(t).__name__}") from None


def number_in(op: str, t: Tensor, horizon: int) -> int:
    """The step in a tensor on the CPU.

    Raises:
        IndexError: there is no such step of G = ``horizon``.
    """
    step = int(t)
    check_step(op, step, horizon)
    return step
