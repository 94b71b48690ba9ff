"""Seconds of a run: how they are shared, and what a case will take of them, from what it took at shorter lengths."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from bench.suite.cases import Case

FRACTIONS = {"headline": 0.5, "rest": 0.5}
"""Part of the time of each kind of case; what one leaves over when it has no more cases is the other's."""
LINEAR, QUADRATIC = 1.1, 2.0
"""Exponents of the length with which the time of a case is expected to grow: of attention the second."""


class Budget:
    """What is left of the time of a run.

    Args:
        seconds: in all, from now on.
        open_cases: number of comparisons to come, by kind.
        clock: monotonic seconds.
    """

    def __init__(
        self, seconds: float, open_cases: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.end = clock() + seconds
        self.open_cases = dict(open_cases)
        self.kept = {kind: seconds * part for kind, part in FRACTIONS.items()}

    def left(self, kind: str) -> float:
        """Seconds that a case of this kind may take, without those that are kept for cases of the others."""
        others = (self.kept[each] for each in FRACTIONS if each != kind and self.open_cases.get(each, 0) > 0)
        return self.end - self.clock() - sum(others)

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """What happens inside is a comparison of this kind."""
        start = self.clock()
        try:
            yield
        finally:
            self.kept[kind] = max(0.0, self.kept[kind] - (self.clock() - start))
            self.open_cases[kind] = self.open_cases.get(kind, 1) - 1


class TimeEstimator:
    """What cases took, and what they will take at greater lengths."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[int, float, float]] = {}

    def learn(self, case: Case, call: float, other: float) -> None:
        """Wall seconds of one call, and of building and checking what is called."""
        self._known[case.series] = case.length, call, other

    def expect(self, case: Case) -> tuple[float, float] | None:
        """The same of a case that was not run, from the last length of the same; None of the first one."""
        if case.series not in self._known:
            return None
        length, call, other = self._known[case.series]
        factor = (case.length / length) ** (QUADRATIC if case.is_attention else LINEAR)
        return call * factor, other * factor
