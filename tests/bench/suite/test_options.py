"""Every option of the suite reaches the run: the cases, the settings in its file, or the timer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.suite import suite
from bench.suite.options import Options, add_arguments, read

# Another value of each option, and what shows it: the "settings" in the file, the "cases", or the "path". Those for a
# GPU are read there alone.
LINES: dict[str, tuple[Any, str]] = {
    "json": (Path("other.json"), "path"),
    "cases": ("targets", "cases"),
    "device": ("cpu", "default"),
    "dtype": ("bfloat16", "settings"),
    "seconds": (1.0, "settings"),
    "case_seconds": (2.0, "settings"),
    "min_length": (5000, "cases"),
    "max_length": (5000, "cases"),
    "workload": ("short_conv,hyena_mixer", "cases"),
    "implementation": ("hyena_kernels", "cases"),
    "threads": (2, "settings"),
    "l2": ("warm", "gpu"),
    "launch": ("graph", "gpu"),
    "processes": (3, "gpu"),
}


def made(**changes: Any) -> Options:
    """The options that are read where the command line has these."""
    values: dict[str, Any] = {}

    def add(name: str, **settings: Any) -> None:
        values[name] = settings.get("default")

    add_arguments(add, "bench-")
    for name, value in changes.items():
        assert f"--bench-{name.replace('_', '-')}" in values
        values[f"--bench-{name.replace('_', '-')}"] = value
    return read(values.__getitem__, "bench-")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a CPU, without the measurements that take seconds."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(suite, "measure_peak_rates", lambda *_: {})
    monkeypatch.setattr(suite.machine, "describe", lambda *_: {})
    monkeypatch.setattr(suite.machine, "commit", lambda: "unknown")


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("name", LINES)
def test_an_option_reaches_the_run(name: str) -> None:
    value, what = LINES[name]
    before, after = made(), made(**{name: value})
    if what == "default":
        assert before == after
        assert made(device="cuda").dtype == "bfloat16"
        assert made(device="cuda").case_seconds == 15.0
        return
    assert {field.name for field in fields(Options) if getattr(before, field.name) != getattr(after, field.name)} >= {
        name
    }
    if what == "cases":
        # The file of targets has another name.
        assert (before.json == after.json) == (name != "cases")
        one, two = before.chosen(), after.chosen()
        assert one
        assert two
        assert one != two
        if name != "cases":
            assert {*two} < {*one}
    if what == "settings":
        threads = torch.get_num_threads()
        try:
            files = [suite.Suite(options, []).content["settings"] for options in (before, after)]
        finally:
            torch.set_num_threads(threads)
        assert {key for key in files[0] if files[0][key] != files[1][key]} == {name}
        assert files[1][name] == value


@pytest.mark.usefixtures("cpu")
def test_cases_are_those_of_the_options() -> None:
    assert {case.length for case in made(min_length=2048, max_length=4096).chosen()} == {2048, 4096}
    assert {case.workload for case in made(workload="short_conv,hyena_mixer").chosen()} == {"short_conv", "hyena_mixer"}
    assert {case.implementation for case in made(implementation="hyena_kernels").chosen()} == {"hyena_kernels"}


def test_every_option_has_a_line() -> None:
    names: list[str] = []
    add_arguments(lambda name, **settings: names.append(name))
    assert {name.removeprefix("--").replace("-", "_") for name in names} == LINES.keys()
    assert {field.name for field in fields(Options)} == LINES.keys()
