"""The suite: pytest bench/ --benchmark-only

Each test is one workload of one peer at one length, the shortest first. Before anything is timed it is held against
float64 at that shape, and a peer that fails gets no time. All peers of a workload are timed in turns when the first of
them is asked for; the test of each then gives its rounds to pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.suite.cases import Case, cases
from bench.suite.suite import Suite, device_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, of those that the options ask for."""
    option = metafunc.config.getoption
    wanted, peers = (set(filter(None, option(f"--bench-{name}").split(","))) for name in ("workload", "peer"))
    longest = option("--bench-max-length")
    chosen = [
        case
        for case in cases(device_of(metafunc.config), peers, wanted)
        if case.length >= option("--bench-min-length") and (not longest or case.length <= longest)
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
    if outcome.status == "refused":
        pytest.fail(f"{case}: {outcome.reason}, so there is no speed")
    if outcome.status != "measured":
        pytest.skip(outcome.reason or outcome.status)
    replay = Replay(outcome.samples)
    benchmark._timer = replay.read
    benchmark.pedantic(replay.advance, rounds=len(outcome.samples), iterations=1, warmup_rounds=0)
