"""Stopping a training run between two steps, where a checkpoint can be written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal has asked the run to stop."""

    requested: bool = False


@contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request to stop at the end of the step.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread signals cannot be handled, and whoever
    started the thread has to stop it.
    """
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped within a step; continue from the last checkpoint with `resume`")
        stop.requested = True

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_interrupts_to_parent(worker: int) -> None:
    """Let a DataLoader worker live until the step is done and saved: Ctrl-C and SIGTERM reach every process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
