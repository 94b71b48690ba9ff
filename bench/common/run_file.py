"""The JSON file of a run of the suite: what is in it, and reading it; docs/benchmarks.md describes the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
OURS = "hyena_kernels"
ATTENTION = (
    "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "flash_attn", "flash_attn_3", "flash_attn_4",
)  # fmt: skip
"""Peers that are a Transformer with that attention, in a model."""
PEERS = {
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
"""How each peer is called in tables and plots."""
STATUSES = ("measured", "refused", "skipped", "stopped", "out_of_memory")
"""Refused: its check failed. Skipped: it cannot run there. Stopped: it would take longer than its time budget."""

Record = Mapping[str, Any]

_TEXTS = ("workload", "variant", "peer", "direction", "dtype", "status")
_COUNTS = ("batch", "width", "length")
_NUMBERS = (
    "seconds", "seconds_min", "seconds_iqr", "rounds", "peak_bytes", "bytes", "flops", "predicted_seconds", "error",
    "error_budget", "ratio", "ratio_iqr",
)  # fmt: skip


class BadRun(Exception):
    """A file that is no run of the suite; the message is one line with what is wrong where and what to do."""


@dataclass(frozen=True)
class Run:
    """A run of the suite.

    Args:
        path: of the file.
        machine: facts of ``bench.common.machine``.
        commit: of the code that was measured.
        started: ISO time.
        finished: ISO time, or None for a run that was cut off.
        settings: of the command line.
        ceilings: rates measured at its start.
        records: one for each measurement, in the order they were made.
    """

    path: Path
    machine: Mapping[str, Any]
    commit: str
    started: str
    finished: str | None
    settings: Mapping[str, Any]
    ceilings: Mapping[str, float | None]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Name of the processor or GPU."""
        return str(self.machine.get("name") or self.machine.get("device") or "unknown machine")

    @property
    def on_gpu(self) -> bool:
        """Whether it was made on a GPU, which alone has a compute capability."""
        return self.machine.get("capability") is not None

    @property
    def key(self) -> str:
        """A name for files: the folder's, with the file's where that is not ``suite``."""
        folder = self.path.resolve().parent.name
        return folder if self.path.stem == "suite" else f"{folder}-{self.path.stem}"


def case(record: Record) -> tuple[Any, ...]:
    """Workload, variant, direction, batch, width and dtype: peers and lengths are compared within one case."""
    return tuple(record[name] for name in ("workload", "variant", "direction", "batch", "width", "dtype"))


def is_measured(record: Record) -> bool:
    return record["status"] == "measured" and bool(record.get("seconds"))


def read_run(path: str | Path) -> Run:
    """Read the file of a run, finished or not.

    Raises:
        BadRun: it cannot be read, is no JSON, of another format, or has a record with a field that is missing or wrong.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRun(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BadRun(f"{path}: is no JSON ({error}): give a file that `pytest bench/ --benchmark-only` wrote") from None
    if not isinstance(content, dict) or "format" not in content or not isinstance(content.get("records"), list):
        raise BadRun(f"{path}: is no run of the suite: it needs format and records")
    if content["format"] != FORMAT:
        raise BadRun(f"{path}: has format {content['format']!r}, and this version reads {FORMAT}")
    for name in ("machine", "settings", "ceilings"):
        if not isinstance(content.get(name, {}), dict):
            raise BadRun(f"{path}: {name} is no object")
    for index, record in enumerate(content["records"]):
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
        ceilings=content.get("ceilings", {}),
        records=tuple(content["records"]),
    )


def _fault(record: Any) -> str | None:
    """What is wrong with a record, or None."""
    if not isinstance(record, dict):
        return "is no object"
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
    if record["peer"] not in PEERS:
        return f"no peer is called {record['peer']!r}"
    if record["status"] not in STATUSES:
        return f"status is {record['status']!r}, not one of {', '.join(STATUSES)}"
    if record["status"] == "measured" and not (record.get("seconds") or 0) > 0:
        return f"is measured, but seconds is {record.get('seconds')!r}"
    return None
