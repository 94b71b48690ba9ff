"""``pytest bench/ --benchmark-only``: the cases of ``python -m bench.suite`` as tests of pytest-benchmark.

All implementations of a comparison are timed in turns when the first of them is asked for. The test of each then
replays its rounds for the table of pytest-benchmark.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite.cases import Case
from bench.suite.suite import Suite


class _ReplayedClock:
    """A clock that moves only when it is told to."""

    seconds = 0.0

    def read(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


_CLOCK = _ReplayedClock()


@pytest.mark.benchmark(timer=_CLOCK.read, disable_gc=True, warmup=False)
def test_suite(case: Case, suite: Suite, benchmark: Any) -> None:
    """Check a case, time it and record it."""
    outcome = suite.outcome(case)
    if outcome.error is not None:
        raise outcome.error
    if outcome.status == "failed_check":
        pytest.fail(f"{case}: {outcome.reason}, so there is no time")
    if outcome.status != "measured":
        pytest.skip(outcome.reason or outcome.status)
    samples = iter(outcome.samples)
    benchmark.pedantic(_CLOCK.advance, setup=lambda: ((next(samples),), {}), rounds=len(outcome.samples))
