"""The suite: pytest bench/ --benchmark-only"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.suite.cases import Case, cases
from bench.suite.suite import Suite, device_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, of those that the options ask for."""
    option = metafunc.config.getoption
    wanted, implementations = (
        set(filter(None, option(f"--bench-{name}").split(","))) for name in ("workload", "implementation")
    )
    max_length = option("--bench-max-length")
    chosen = [
        case
        for case in cases(device_of(metafunc.config), implementations, wanted)
        if case.length >= option("--bench-min-length") and (not max_length or case.length <= max_length)
    ]
    metafunc.parametrize("case", chosen, ids=str)


class Replay:
    """A clock that rounds which were timed before move on by what they took.

    Args:
        samples: seconds of the rounds.
    """

    def __init__(self, samples: Sequence[float]) -> None:
        self.seconds, self._samples = 0.0, iter(samples)

    def read(self) -> float:
        return self.seconds

    def advance(self) -> None:
        self.seconds += next(self._samples)


@pytest.mark.benchmark(disable_gc=True, warmup=False)
def test_suite(case: Case, suite: Suite, benchmark: Any) -> None:
    """Check a case, time it, and write it down."""
    outcome = suite.outcome(case)
    if outcome.error is not None:
        raise outcome.error
    if outcome.status == "failed_check":
        pytest.fail(f"{case}: {outcome.reason}, so there is no speed")
    if outcome.status != "measured":
        pytest.skip(outcome.reason or outcome.status)
    replay = Replay(outcome.samples)
    benchmark._timer = replay.read
    benchmark.pedantic(replay.advance, rounds=len(outcome.samples), iterations=1, warmup_rounds=0)
