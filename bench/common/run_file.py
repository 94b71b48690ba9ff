"""The JSON file of a run of the suite and how it is read. docs/benchmarks.md describes the fields."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 2
OURS = "hyena_kernels"
ATTENTION = (
    "flash_attn", "flash_attn_3", "flash_attn_4", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math",
)  # fmt: skip
"""Attentions. In a model the name means a Transformer with that attention."""
IMPLEMENTATIONS = {
    OURS: "hyena_kernels",
    "published": "published Hyena",
    "published_compiled": "published, torch.compile",
    "sdpa_flash": "SDPA flash",
    "sdpa_cudnn": "SDPA cuDNN",
    "sdpa_efficient": "SDPA efficient",
    "sdpa_math": "SDPA math",
    "flash_attn": "flash-attn 2",
    "flash_attn_3": "flash-attn 3",
    "flash_attn_4": "flash-attn 4",
    "flashfftconv": "FlashFFTConv",
    "cudnn_fft_causal_conv1d": "cuDNN fft_causal_conv1d",
    "causal_conv1d": "causal-conv1d",
}
"""Implementations by name, with their names in tables and plots."""
CALLS, GRAPH = "calls", "graph"
"""How a measurement was launched: kernel by kernel from Python, or as the replay of one CUDA graph."""
_STATUSES = ("measured", "failed_check", "skipped", "timed_out", "out_of_memory")
"""Skipped: it cannot run on this machine. Timed out: it would take longer than its time budget."""

_OLD_KEYS = {"peer": "implementation", "ceilings": "peak_rates"}
_OLD_STATUSES = {"refused": "failed_check", "stopped": "timed_out"}
"""Names in files of format 1, and the names that replaced them in format 2."""

Record = Mapping[str, Any]

_TEXTS = ("workload", "variant", "implementation", "direction", "dtype", "status", "launch")
_OPS = ("fftconv", "short_conv", "hyena_mixer", "implicit_filter", "mixer_projection")
"""Workloads that were replays of CUDA graphs in files with that setting, before each record said so."""
_COUNTS = ("batch", "width", "length")
_NUMBERS = (
    "seconds", "seconds_min", "seconds_iqr", "rounds", "peak_bytes", "bytes", "flops", "predicted_seconds", "error",
    "error_budget", "ratio", "ratio_iqr",
)  # fmt: skip


class BadRun(Exception):
    """The file is not a run of the suite. The message is one line: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Run:
    """A run of the suite.

    Args:
        path: path of the file.
        machine: facts from ``bench.common.machine``.
        commit: commit of the measured code.
        started: ISO time.
        finished: ISO time; None if the run was cut off.
        settings: options of the command line.
        peak_rates: bytes and FLOPs per second, measured at the start of the run.
        records: one record per measurement, in the order of measuring.
    """

    path: Path
    machine: Mapping[str, Any]
    commit: str
    started: str
    finished: str | None
    settings: Mapping[str, Any]
    peak_rates: Mapping[str, float | None]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Name of the processor or GPU."""
        return str(self.machine.get("name") or self.machine.get("device") or "unknown machine")

    @property
    def on_gpu(self) -> bool:
        """Whether the run was made on a GPU: only GPUs have a compute capability."""
        return self.machine.get("capability") is not None

    @property
    def key(self) -> str:
        """Start of the names of its figures: the folder's name, plus the file's unless that is ``suite``."""
        folder = self.path.resolve().parent.name
        return folder if self.path.stem == "suite" else f"{folder}-{self.path.stem}"


def comparison_key(record: Record) -> tuple[Any, ...]:
    """Workload, variant, direction, batch, width, dtype and launch. Records with the same key are compared."""
    return tuple(record[name] for name in ("workload", "variant", "direction", "batch", "width", "dtype", "launch"))


def is_measured(record: Record) -> bool:
    """Whether a record has a time."""
    return record["status"] == "measured" and bool(record.get("seconds"))


def read_run(path: str | Path) -> Run:
    """Read the file of a run, finished or not. Names of format 1 are replaced by today's.

    Raises:
        BadRun: the file cannot be read, is not JSON, has another format, or a field is missing or wrong.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRun(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BadRun(f"{path}: is not JSON ({error}): give a file that `python -m bench.suite` wrote") from None
    if not isinstance(content, dict) or "format" not in content or not isinstance(content.get("records"), list):
        raise BadRun(f"{path}: is not a run of the suite: it needs format and records")
    if content["format"] not in (1, FORMAT):
        raise BadRun(f"{path}: has format {content['format']!r}, and this version reads 1 and {FORMAT}")
    if content["format"] == 1:
        content = _renamed(content) | {"records": [_renamed(record) for record in content["records"]]}
    for name in ("machine", "settings", "peak_rates"):
        if not isinstance(content.get(name, {}), dict):
            raise BadRun(f"{path}: {name} is not an object")
    as_graphs = _OPS if content.get("settings", {}).get("launch") == GRAPH else ()
    records = [_with_launch(record, as_graphs) for record in content["records"]]
    for index, record in enumerate(records):
        fault = _fault(record)
        if fault:
            raise BadRun(f"{path}: record {index}: {fault}")
    return Run(
        path=path,
        machine=content.get("machine", {}),
        commit=str(content.get("commit") or "unknown"),
        started=str(content.get("started") or "unknown"),
        finished=content.get("finished"),
        settings=content.get("settings", {}),
        peak_rates=content.get("peak_rates", {}),
        records=tuple(records),
    )


def _renamed(part: Any) -> Any:
    """A file of format 1, or a record of one, with the names of format 2."""
    if not isinstance(part, dict):
        return part
    renamed = {_OLD_KEYS.get(name, name): value for name, value in part.items()}
    if isinstance(status := part.get("status"), str):
        renamed["status"] = _OLD_STATUSES.get(status, status)
    return renamed


def _with_launch(record: Any, as_graphs: Collection[str]) -> Any:
    """A record, with how it was launched where an older file does not say so."""
    if not isinstance(record, dict):
        return record
    return {"launch": GRAPH if record.get("workload") in as_graphs else CALLS} | record


def _fault(record: Any) -> str | None:
    """The first thing that is wrong with a record, or None."""
    if not isinstance(record, dict):
        return "is not an object"
    for name in _TEXTS:
        if not isinstance(record.get(name), str):
            return f"{name} is {record.get(name)!r}, a text is needed"
    for name in _COUNTS:
        if type(record.get(name)) is not int or record[name] < 1:
            return f"{name} is {record.get(name)!r}, a count is needed"
    for name in _NUMBERS:
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{name} is {value!r}, a number or null is needed"
    if record["implementation"] not in IMPLEMENTATIONS:
        return f"no implementation is called {record['implementation']!r}"
    if record["launch"] not in (CALLS, GRAPH):
        return f"launch is {record['launch']!r}, not {CALLS} or {GRAPH}"
    if record["status"] not in _STATUSES:
        return f"status is {record['status']!r}, not one of {', '.join(_STATUSES)}"
    if record["status"] == "measured" and not (record.get("seconds") or 0) > 0:
        return f"is measured, but seconds is {record.get('seconds')!r}"
    return None
