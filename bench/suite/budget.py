"""The time of a run: how it is divided, and how long a case will take, judging by shorter lengths."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from bench.suite.cases import Case

_FRACTIONS = {"headline": 0.4, "rest": 0.4, "graphed": 0.2}
"""What is kept of the time for each kind of case, relative to the others. Unused time goes to the other kinds."""
_LINEAR, _QUADRATIC = 1.1, 2.0
"""Expected exponents of the time against length: of attention the second, of everything else the first."""


class Budget:
    """The time that is left of a run.

    Args:
        seconds: seconds of the run, from now on.
        open_cases: number of comparisons to come, by kind.
        clock: monotonic seconds.
    """

    def __init__(
        self, seconds: float, open_cases: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.end = clock() + seconds
        self.open_cases = dict(open_cases)
        fractions = {kind: fraction for kind, fraction in _FRACTIONS.items() if self.open_cases.get(kind, 0) > 0}
        self.kept = {kind: seconds * fraction / sum(fractions.values()) for kind, fraction in fractions.items()}

    def left(self, kind: str) -> float:
        """Seconds that a case of this kind may take. Seconds kept for other kinds are not counted."""
        others = (kept for each, kept in self.kept.items() if each != kind and self.open_cases.get(each, 0) > 0)
        return self.end - self.clock() - sum(others)

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Charge the time of the block, one comparison, to this kind."""
        start = self.clock()
        try:
            yield
        finally:
            self.kept[kind] = max(0.0, self.kept.get(kind, 0.0) - (self.clock() - start))
            self.open_cases[kind] = self.open_cases.get(kind, 1) - 1


class TimeEstimator:
    """Estimate the time of a case from the same case at a shorter length."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[int, float, float]] = {}

    def observe(self, case: Case, call: float, other: float) -> None:
        """Record the wall seconds of one call, and of building and checking."""
        self._known[case.series] = case.length, call, other

    def estimate(self, case: Case) -> tuple[float, float] | None:
        """Estimated seconds of one call, and of building and checking; None if no length was observed."""
        if case.series not in self._known:
            return None
        length, call, other = self._known[case.series]
        factor = (case.length / length) ** (_QUADRATIC if case.is_attention else _LINEAR)
        return call * factor, other * factor
