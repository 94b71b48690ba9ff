"""The numbered parts of a long result. Several processes share them out, and the result is the same for any number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from hyenadna.common.errors import InputError
from hyenadna.common.files import PartialFolder
from hyenadna.common.world import world

T = TypeVar("T")


class NumberedParts(PartialFolder):
    """A folder ``OUT.partial`` with a file ``part-NUMBER-INPUTS.ENDING`` for each finished part.

    A part is computed by itself from the next inputs. How many these are must not depend on the processes.

    Args:
        out: the file that the parts are joined into.
        settings: see :class:`PartialFolder`.
        ending: ending of the parts, with its dot.
        resume: resume from the parts in the folder.

    Raises:
        InputError: the folder of ``out`` does not exist; or as :class:`PartialFolder`.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, ending: str, resume: bool) -> None:
        self._ending = ending
        if not out.absolute().parent.is_dir():
            raise InputError(f"{out}: cannot be written (no folder {out.parent}); choose another place")
        super().__init__(out, settings, resume=resume)

    def files(self) -> list[Path]:
        """The finished parts, in order."""
        return sorted(self.folder.glob(f"part-*{self._ending}"))

    def inputs(self) -> dict[int, int]:
        """The inputs of each finished part, by its number."""
        names = [file.stem.split("-") for file in self.files()]
        return {int(number): int(inputs) for _, number, inputs in names}

    def done(self) -> int:
        """Number of inputs in the finished parts."""
        return sum(self.inputs().values())

    def place(self, number: int, inputs: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:08}-{inputs}{self._ending}"

    def compute(
        self,
        take: Callable[[], Iterator[T]],
        write: Callable[[int, Iterable[T]], int],
        shown: Callable[[int], object],
    ) -> None:
        """Have every part written that is not there yet, a part by each process in a round.

        All processes read all inputs, and wait for each other after a round. A round with an error is the last one.

        Args:
            take: the inputs of the next part. After the last part there are none.
            write: computes and writes the part of a number from its inputs, and returns how many these are. It shows
                its progress itself.
            shown: is told how many inputs other processes have finished.

        Raises:
            InputError: a process has raised one; the input has changed since a part was written; or the processes do
                not see the same folder.
        """
        self.begin_together()
        there = world().first(self.inputs)
        numbers = count()
        goes_on = True
        while goes_on:
            others = 0
            with world().agreed():
                for turn in range(world().size):
                    is_own = turn == world().rank
                    inputs = self._next(numbers, there, take, write if is_own else None)
                    others += 0 if is_own else inputs
                    goes_on = inputs > 0
                    if not goes_on:
                        break
            shown(others)
        expected = next(numbers) - 1
        world().first(lambda: self._check_complete(expected))

    def _next(
        self,
        numbers: Iterator[int],
        there: Mapping[int, int],
        take: Callable[[], Iterator[T]],
        write: Callable[[int, Iterable[T]], int] | None,
    ) -> int:
        """The inputs of the next part that is not there, which ``write`` writes, or another process. 0 at the end."""
        while (number := next(numbers)) in there:
            if (inputs := sum(1 for _ in take())) != there[number]:
                raise InputError(
                    f"{self.place(number, there[number])}: is the result of {there[number]:,} inputs, and {inputs:,} "
                    f"are at its place now: the input has changed; remove {self.folder}"
                )
        return sum(1 for _ in take()) if write is None else write(number, take())

    def _check_complete(self, expected: int) -> None:
        found = self.inputs()
        if missing := [number for number in range(expected) if number not in found]:
            raise InputError(
                f"{self.folder}: the first process does not see part {missing[0]}, which another one has written; all "
                "processes need one file system, which their machines share"
            )
        if len(self.files()) > expected:
            raise InputError(f"{self.folder}: holds more parts than the input has now; remove the folder")


def tell_idle(parts: int, unit: str, advice: str) -> None:
    """Write a line to standard error if there are fewer parts than processes.

    Args:
        parts: of what each process takes one at a time.
        unit: what one is called.
        advice: what to do.
    """
    if world().is_first and parts < world().size:
        text = f"{parts} {_plural(unit, parts)} for {world().size} processes: the others have nothing to do"
        print(f"note: {text}; {advice}", file=sys.stderr)


def _plural(unit: str, number: int) -> str:
    return unit if number == 1 else f"{unit}es" if unit.endswith("ch") else f"{unit}s"
