"""The processes that do one piece of work together, by default this one alone.

A function asks :func:`world` what its part is, and writes the same code for one process and for many. Only
``hyenadna.parallel.processes.start_world`` makes a larger world, which the command line does under torchrun. So a
script of several processes that calls such a function in one of them gets it done there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from hyenadna.common.errors import InputError

T = TypeVar("T")
Number = TypeVar("Number", int, float)


class SharedError(InputError):
    """An InputError that every process of a world raises. The first one tells it."""


class LostProcessError(InputError):
    """Another process has ended, or does not answer."""


class World:
    """One process alone. What it does for all, it does; what it hears from all, it has said.

    Attributes:
        rank: number of this process, from 0. The first one owns the files.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
    """

    rank = 0
    size = 1
    local_rank = 0

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank, in every process. Values are pickled: small ones only."""
        return [value]

    def sums(self, values: Sequence[Number]) -> list[Number]:
        """The sum over all processes of each of some numbers: whole ones, or ones of float64. All get the same bits."""
        return list(values)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the first process, in every process. The result is pickled.

        Raises:
            InputError: ``work`` has raised one, or an OSError, in the first process. Every process raises it.
        """
        return work()

    def begin(self, place: Path) -> None:
        """Note that the work on a file or folder has been accepted. The first process calls it."""

    def has_begun(self, place: Path) -> bool:
        """Whether it was accepted before torchrun started the processes again. The first process asks.

        Then the work is resumed, as with ``resume``. A start that was refused before is refused again.
        """
        return False

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """If any process leaves the block by an InputError or OSError, all raise it at its end. Else all wait there.

        Raises:
            InputError: with the message of the first process that raised one.
        """
        yield


_world: ContextVar[World | None] = ContextVar("world", default=None)
_ALONE = World()


def world() -> World:
    """The world of this process."""
    return _world.get() or _ALONE


@contextmanager
def joined(one: World) -> Iterator[World]:
    """Make ``one`` the :func:`world` of the block."""
    before = _world.set(one)
    try:
        yield one
    finally:
        _world.reset(before)
