"""Options of the suite, shared by ``python -m bench.suite`` and ``pytest bench/ --benchmark-only``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from bench.common import machine
from bench.suite.cases import Case, cases, published_sizes

_DTYPES = ("bfloat16", "float16", "float32")
_CASE_SECONDS = {"cuda": 15.0, "cpu": 120.0}

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "json": {"type": Path, "help": "JSON file of the run (default: bench/results/<machine>/<cases>.json)"},
    "cases": {
        "choices": ("suite", "targets"),
        "default": "suite",
        "help": "which cases: the suite, or the shapes of bench.kernels.targets (default: suite)",
    },
    "device": {"choices": ("cuda", "cpu"), "help": "device (default: cuda if there is one, else cpu)"},
    "dtype": {"choices": _DTYPES, "help": "dtype of the signals (default: bfloat16 on a GPU, float32 on a CPU)"},
    "seconds": {"type": float, "default": 540.0, "help": "time for the whole run (default: 540)"},
    "case-seconds": {"type": float, "help": "longest call (default: 15 on a GPU, 120 on a CPU)"},
    "min-length": {"type": int, "default": 1, "help": "shortest length (default: 1)"},
    "max-length": {"type": int, "help": "longest length (default: no limit)"},
    "workload": {"default": "", "help": "workloads, separated by commas (default: all)"},
    "implementation": {
        "default": "",
        "help": "implementations, separated by commas (default: all; on a CPU, those that run there fast)",
    },
    "threads": {"type": int, "default": 1, "help": "CPU threads (default: 1)"},
    "l2": {"choices": ("cold", "warm"), "default": "cold", "help": "L2 cache of a GPU before an op (default: cold)"},
    "launch": {
        "choices": ("calls", "graph"),
        "default": "calls",
        "help": "on a GPU, time an op by its calls or by the replay of a CUDA graph (default: calls)",
    },
    "processes": {
        "type": int,
        "default": 1,
        "help": "processes that compile Triton kernels ahead (default: 1, which compiles nothing ahead)",
    },
}


@dataclass(frozen=True)
class Options:
    """Values of the options; the fields are named like the options."""

    json: Path
    cases: str
    device: str
    dtype: str
    seconds: float
    case_seconds: float
    min_length: int
    max_length: int | None
    workload: frozenset[str]
    implementation: frozenset[str]
    threads: int
    l2: str
    launch: str
    processes: int

    def chosen(self) -> list[Case]:
        """The cases to run, shortest lengths first."""
        found = cases(self.device, self.implementation, self.workload, targets=self.cases == "targets")
        max_length = self.max_length or max((case.length for case in found), default=0)
        return [case for case in found if self.min_length <= case.length <= max_length]

    def missing(self) -> str | None:
        """Why chosen workloads were left out because a package is missing; None if none were."""
        wanted = not self.workload or {"hyenadna", "training_step"} & self.workload
        return published_sizes()[1] if wanted else None


def add_arguments(add: Callable[..., Any], prefix: str = "") -> None:
    """Declare the options with an ``add_argument`` or ``addoption``, as ``--<prefix><name>``."""
    for name, settings in _ARGUMENTS.items():
        add(f"--{prefix}{name}", **settings)


def read(get: Callable[[str], Any], prefix: str = "") -> Options:
    """Options from a function that returns the value of ``--<prefix><name>``; fills in what depends on the device."""
    values = {field.name: get(f"--{prefix}{field.name.replace('_', '-')}") for field in fields(Options)}
    device = values["device"] = values["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    values["dtype"] = values["dtype"] or ("bfloat16" if device == "cuda" else "float32")
    values["case_seconds"] = values["case_seconds"] or _CASE_SECONDS[device]
    results = machine.ROOT / "bench" / "results" / machine.folder_name(device)
    values["json"] = values["json"] or results / f"{values['cases']}.json"
    for name in ("workload", "implementation"):
        values[name] = frozenset(filter(None, values[name].split(",")))
    return Options(**values)
