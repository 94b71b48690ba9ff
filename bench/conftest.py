"""Options of the suite, and the run that its tests kind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bench.suite.cases import published_sizes
from bench.suite.suite import Suite

STARTED = time.monotonic()
"""Collecting the tests, with what they import, is part of the time of the suite."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "the benchmark suite")
    group.addoption("--bench-json", type=Path, help="file of the run (default: bench/results/<machine>/suite.json)")
    group.addoption("--bench-device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    group.addoption("--bench-seconds", type=float, default=540.0, help="for the whole suite (default: 540)")
    group.addoption("--bench-case-seconds", type=float, help="longest call (default: 15 on a GPU, 120 on a CPU)")
    group.addoption("--bench-max-length", type=int, help="default: all")
    group.addoption("--bench-min-length", type=int, default=1, help="default: 1")
    group.addoption("--bench-workload", default="", help="names separated by commas (default: all)")
    group.addoption(
        "--bench-implementation", default="", help="likewise of implementations; those named run on a CPU too"
    )
    group.addoption("--bench-threads", type=int, default=1, help="of the CPU (default: 1)")
    group.addoption("--bench-l2", choices=("cold", "warm"), default="cold", help="what an op finds in a GPU's L2 cache")


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Any:
    """The run."""
    chosen = (getattr(item, "callspec", None) for item in request.session.items)
    to_come = [each.params["case"] for each in chosen if each and "case" in each.params]
    made = Suite(request.config, to_come, spent=time.monotonic() - STARTED)
    yield made
    made.finish()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What could not be measured for want of a package."""
    workloads = terminalreporter.config.getoption("--bench-workload")
    if not workloads or {"hyenadna", "training_step"} & set(workloads.split(",")):
        reason = published_sizes()[1]
        if reason:
            terminalreporter.write_line(reason)
