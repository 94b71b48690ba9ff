"""Options of ``pytest bench/ --benchmark-only``, and the run that its tests share."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bench.suite import options as suite_options
from bench.suite.suite import Suite

_PREFIX = "bench-"
_START = time.monotonic()
"""The time of a run includes the collection of the tests and their imports."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of ``python -m bench.suite``, each with ``--bench-`` in front."""
    suite_options.add_arguments(parser.getgroup("bench", "the benchmark suite").addoption, _PREFIX)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case that the options choose."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", suite_options.read(metafunc.config.getoption, _PREFIX).chosen(), ids=str)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """The run."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    chosen = [call.params["case"] for call in calls if call and "case" in call.params]
    made = Suite(suite_options.read(request.config.getoption, _PREFIX), chosen, spent=time.monotonic() - _START)
    yield made
    made.finish()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the workloads that were left out because a package is missing."""
    if reason := suite_options.read(terminalreporter.config.getoption, _PREFIX).missing():
        terminalreporter.write_line(reason)
