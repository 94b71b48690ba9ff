"""Made-up runs of the suite: no figure in them was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

MADE_UP: dict[str, Any] = {
    "format": 2,
    "machine": {"name": "Made-up GPU", "device": "cuda", "torch": "0.0", "driver_version": "1.2"},
    "commit": "0123456789abcdef0123",
    "started": "2001-02-03T04:05:06",
    "finished": "2001-02-03T05:05:06",
    "settings": {"dtype": "bfloat16"},
    "peak_rates": {"copy_bytes_per_s": 1e12, "matmul_flops_per_s": 1e14},
}


def record(**fields: Any) -> dict[str, Any]:
    """A record of the 2-layer model, measured where ``seconds`` is given."""
    made: dict[str, Any] = {
        "workload": "two_layer_model",
        "variant": "checkpointed",
        "implementation": "hyena_kernels",
        "backend": None,
        "direction": "both",
        "batch": 1,
        "width": 128,
        "length": 1024,
        "dtype": "bfloat16",
        "status": "measured",
        "reason": None,
        "error": 1e-3,
        "error_budget": 4e-3,
        "seconds": 1e-3,
        "seconds_min": None,
        "seconds_iqr": None,
        "rounds": 9,
        "timer": "cuda events",
        "peak_bytes": None,
        "bytes": None,
        "flops": None,
        "predicted_seconds": None,
    }
    made |= fields
    if made["status"] != "measured":
        made |= {"seconds": None, "error": fields.get("error"), "reason": fields.get("reason", "made up")}
    return made


def headline_records() -> list[dict[str, Any]]:
    """Ours linear in L, attention quadratic up to 8K and timed out above. They cross at 2,048 · √2."""
    made = []
    for bits in range(10, 16):
        length = 1 << bits
        at: dict[str, Any] = {"length": length}
        made.append(record(**at, seconds=1e-6 * length, peak_bytes=1000 * length))
        made.append(record(**at, implementation="published", seconds=5e-6 * length, peak_bytes=4000 * length))
        slow = 1e-6 * length**2 / (2048 * 2**0.5)
        if length <= 8192:
            made.append(record(**at, implementation="sdpa_flash", seconds=slow, peak_bytes=2000 * length))
            made.append(record(**at, implementation="sdpa_efficient", seconds=2 * slow))
        else:
            at |= {"status": "timed_out", "reason": "over the budget of 1 s"}
            made += [record(**at, implementation=implementation) for implementation in ("sdpa_flash", "sdpa_efficient")]
    return made


def kernel_records() -> list[dict[str, Any]]:
    """fftconv at half of the copy bandwidth and twice the predicted time; an implementation that is not installed."""
    made = []
    for length in (1024, 2048):
        place: dict[str, Any] = {"workload": "fftconv", "variant": "gated", "length": length}
        for direction in ("forward", "both"):
            place["direction"] = direction
            counted = {"bytes": 10**9, "flops": 10**10, "predicted_seconds": 1e-3, "seconds_iqr": 4e-4}
            made.append(record(**place, backend="triton", seconds=2e-3, **counted))
            made.append(record(**place, implementation="flashfftconv", status="skipped", reason="not importable"))
    return made


def write_run(path: Path, records: Sequence[dict[str, Any]], **fields: Any) -> Path:
    """The file of a run with these records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**MADE_UP, **fields, "records": list(records)}), encoding="utf-8")
    return path


@pytest.fixture
def made_up() -> SimpleNamespace:
    """Functions that make up records and runs."""
    return SimpleNamespace(
        record=record, headline_records=headline_records, kernel_records=kernel_records, write_run=write_run
    )
