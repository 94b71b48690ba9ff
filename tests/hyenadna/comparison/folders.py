"""Folders as ``hyenadna finetune`` leaves them, without the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTED = 9_034
"""Sequences of the published test split of the promoters."""


def put(
    folder: Path,
    *values: float,
    preset: str | None = "gb-nontata-promoters",
    ablation: str = "none",
    method: str = "full",
    metric: str = "accuracy",
    tested: int = TESTED,
    seeds: Sequence[int] = (0, 1, 2),
    folds: int = 0,
    fold_numbers: Sequence[int] = (),
    **more: Any,
) -> Path:
    """Write the results.json of a run with these test values, one for each seed, and return its folder."""
    folder.mkdir(parents=True)
    runs: list[dict[str, Any]] = [
        {"seed": seed, "best_epoch": 1, "valid": value, "test": {"auroc": None, metric: value}}
        for seed, value in zip(seeds, values, strict=False)
    ]
    for run, fold in zip(runs, fold_numbers, strict=False):
        run["fold"] = fold
    summary = {
        "data": "/somewhere/promoters.tsv",
        "method": method,
        "model": None,
        "split": {"split_seed": 0, "valid_fraction": 0.1, "folds": folds, "length": None},
        "demonstration_split": False,
        "examples": {"train": 100, "valid": 10, "test": tested},
        "classes": ["0", "1"],
        "metric": metric,
        "runs": runs,
        "preset": preset,
        "deviations": {},
        "weights": "none" if method == "scratch" else "published",
        "epoch_chosen_on": "drawn from the training examples",
        "ablation": ablation,
        "parameters": 436_610,
    }
    (folder / "results.json").write_text(json.dumps(summary | more))
    return folder
