"""Names of the files of a training run, and the reader of its metrics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

from hyenadna.common.errors import InputError
from hyenadna.common.options import Options, made_by
from hyenadna.common.streams import is_input_stream, regular_file

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
SPLITS_FILE = "splits.bed"
STATE_FILE = "state.pt"
FINAL_KEY = "final_valid_perplexity"
"""Key in the last row of the metrics: the perplexity of the finished model on validation."""
MODEL_FOLDER = "model"
RESULTS_FILE = "results.json"
"""Results of ``hyenadna finetune``."""

MetricsFile = Annotated[Path, made_by("pretrain")]
"""A METRICS_FILE that must exist."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSONL file of metrics. A last line that a kill cut short is dropped.

    Raises:
        InputError: the file is missing or holds no rows of metrics.
    """
    if not is_input_stream(path) and not path.is_file():
        raise InputError(f"{path}: no such file; hyenadna pretrain writes one into the folder of a run")
    rows = []
    lines = regular_file(path).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"{path}:{number}: is not JSON ({error.msg}); give a metrics.jsonl") from error
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise InputError(f"{path}:{number}: is not a row of metrics (step is missing); give a metrics.jsonl")
        rows.append(row)
    return rows


def plain(options: Any) -> dict[str, Any]:
    """A dataclass as a dict for YAML, with paths as strings, in lists too."""

    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(entry) for entry in value]
        return str(value) if isinstance(value, Path) else value

    return {name: text(value) for name, value in dataclasses.asdict(options).items()}


def settings(options: Options) -> dict[str, Any]:
    """The options that decide the result of a run, as :func:`plain` gives them."""
    return {name: value for name, value in plain(options).items() if name not in options.runtime}
