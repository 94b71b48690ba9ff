"""Options of the suite, and its JSON file, which is complete after every measurement."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import machine, records
from bench.roofline import COUNTED_PEERS, cost, measure_ceilings, predict
from bench.run_file import FORMAT
from bench.workloads import Case

CASE_SECONDS = {"cuda": 15.0, "cpu": 30.0}
"""Longest time of one call that is waited for; a peer that is predicted to take longer is stopped."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "the benchmark suite")
    group.addoption("--bench-json", type=Path, help="file of the run (default: bench/results/<machine>/suite.json)")
    group.addoption("--bench-device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    group.addoption("--bench-seconds", type=float, default=540.0, help="for the whole suite (default: 540)")
    group.addoption("--bench-max-length", type=int, help="default: 1048576 on a GPU, 32768 on a CPU")
    group.addoption("--bench-min-length", type=int, default=1, help="default: 1")
    group.addoption("--bench-workload", default="", help="names separated by commas (default: all)")
    group.addoption("--bench-peer", default="", help="likewise of peers")
    group.addoption("--bench-threads", type=int, default=1, help="of the CPU (default: 1)")


class Suite:
    """What the measurements of a run share."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.device = torch.device(option("--bench-device") or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.path: Path = option("--bench-json") or (
            machine.ROOT / "bench" / "results" / machine.folder_name(self.device) / "suite.json"
        )
        self.deadline = time.monotonic() + option("--bench-seconds")
        self.case_seconds = CASE_SECONDS[self.device.type]
        if not self.on_gpu:
            torch.set_num_threads(option("--bench-threads"))
        self.longest: dict[tuple[Any, ...], tuple[int, float]] = {}
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "machine": {"name": machine.device_name(self.device), **machine.describe(self.device)},
            "commit": machine.commit(),
            "started": _now(),
            "finished": None,
            "settings": {
                "seconds": option("--bench-seconds"),
                "case_seconds": self.case_seconds,
                "dtype": str(self.dtype).removeprefix("torch."),
                "threads": None if self.on_gpu else torch.get_num_threads(),
            },
            "ceilings": measure_ceilings(self.device, self.dtype),
            "records": [],
        }

    @staticmethod
    def clock() -> float:
        """Seconds of the clock that the deadline is on."""
        return time.monotonic()

    def timer(self) -> float:
        """Seconds, after all work of the device is done; of the processor where there is one thread of it."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()

    @property
    def timer_name(self) -> str:
        if self.on_gpu:
            return "wall, synchronised"
        return "process time" if torch.get_num_threads() == 1 else "wall"

    def predicted(self, case: Case) -> float | None:
        """Seconds of a call, from the longest one measured of the same peer: attention does L² operations."""
        known = self.longest.get(_series(case))
        if known is None:
            return None
        length, seconds = known
        return seconds * (case.length / length) ** (2 if "attn" in case.peer or "sdpa" in case.peer else 1)

    def record(self, case: Case, status: str, reason: str | None = None, **fields: Any) -> None:
        """Put a record in the file."""
        made: dict[str, Any] = {
            **{name: getattr(case, name) for name in Case.__dataclass_fields__},
            "dtype": str(self.dtype).removeprefix("torch."),
            "backend": None,
            "status": status,
            "reason": reason,
            **dict.fromkeys(("error", "error_budget", "seconds", "seconds_min", "seconds_iqr", "rounds")),
            "timer": self.timer_name,
            **dict.fromkeys(("peak_bytes", "bytes", "flops", "predicted_seconds")),
            **fields,
        }
        if case.peer in COUNTED_PEERS and status == "measured":
            counted = cost(
                case.workload, case.variant, case.direction, batch=case.batch, width=case.width, length=case.length,
                itemsize=self.dtype.itemsize, peer=case.peer, backend=made["backend"],
            )  # fmt: skip
            made |= {
                "bytes": counted.bytes,
                "flops": counted.flops,
                "predicted_seconds": predict(counted, self.content["ceilings"]),
            }
        if made["seconds"]:
            self.longest[_series(case)] = (case.length, made["seconds"])
        self.content["records"].append(made)
        records.write_json(self.path, self.content)

    def finish(self) -> None:
        """Write down that the run went to its end."""
        self.content["finished"] = _now()
        records.write_json(self.path, self.content)


def _series(case: Case) -> tuple[Any, ...]:
    return case.workload, case.variant, case.peer, case.direction, case.batch, case.width


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Any:
    """The run."""
    made = Suite(request.config)
    yield made
    made.finish()
