"""What the lines of the tables of options say, for ``test_every_option.py``."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Line:
    """What an option does.

    Attributes:
        change: the option with another value, and what it must come with.
        base: changes to the verb's base, for both runs.
        moves: name in :class:`Seen` of what must differ.
        why: why the result stays the same; empty where it must differ.
        close: how much numbers of an equal result may differ: 0, or by rounding.
        refused: how the message begins with which the value is refused.
        stop_after: see ``option_runs.run``. Without the option the second run is refused.
        again: run it twice, the first time without the option.
    """

    change: dict[str, Any]
    base: dict[str, Any]
    moves: str = ""
    why: str = ""
    close: float = 0.0
    refused: str = ""
    stop_after: int | None = None
    again: bool = False


def reaches(moves: str = "", *, base: dict[str, Any] | None = None, **change: Any) -> Line:
    """The result differs, and in it what ``moves`` names."""
    return Line(change, base or {}, moves)


def keeps(
    why: str,
    *,
    moves: str = "",
    close: float = 0.0,
    stop_after: int | None = None,
    again: bool = False,
    base: dict[str, Any] | None = None,
    **change: Any,
) -> Line:
    """The result stays the same, for the reason ``why``. How it is computed differs, if ``moves`` names it."""
    return Line(change, base or {}, moves, why, close, stop_after=stop_after, again=again)


def refused(message: str, *, base: dict[str, Any] | None = None, **change: Any) -> Line:
    """This value is refused, which shows that somebody reads it."""
    return Line(change, base or {}, refused=message)


NO_DEVICE = refused("`device` tpu9: ", device="tpu9")
PLACE = "the place alone"
SPEED = "speed and memory alone"
ROUNDING = 1e-5
# Steps of AdamW turn a rounding of a gradient near 0 into more.
TRAINED = 2e-3
