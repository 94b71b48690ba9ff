"""``hyenadna cancer``: the rows of the study, their fine-tunings, and what the test says about each."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyenadna.cancer import intervals, shuffling, study_page
from hyenadna.cancer.rows import Row, plan_rows
from hyenadna.cancer.study_config import CancerConfig
from hyenadna.cancer.study_data import StudyData, Windows, counts, read_study
from hyenadna.cancer.yardsticks import yardsticks
from hyenadna.common.errors import InputError
from hyenadna.common.files import PartialFolder, atomic_dir
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import MODEL_FOLDER, RESULTS_FILE, settings
from hyenadna.common.writers import one_writer
from hyenadna.data.dataset import LabelledDataset
from hyenadna.finetuning.config import apply_preset
from hyenadna.finetuning.results import read_results
from hyenadna.finetuning.train import finetune, predict
from hyenadna.inference.predict import load_classifier
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars

ROWS_FOLDER = "rows"
"""Folder with one folder of ``hyenadna finetune`` for each row."""


@without_transformers_bars()
@one_writer(make_folders=True)
def study(config: CancerConfig, *, progress: bool = True) -> dict[str, Any]:
    """Train every row, compare it with the yardsticks, write ``config.out``, and return its results.json.

    Raises:
        InputError: tables, checkpoints or options that do not fit. Finished rows are kept in ``OUT.partial``, and
            ``resume`` continues with the others.
    """
    # 1. The tables, the rows and the folder of those that are finished.
    config.check()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pick_device(config.device)
    data = [read_study(folder) for folder in config.data]
    _check_classes(data)
    parts = PartialFolder(config.out, _plain(config), resume=config.resume)
    labels: dict[str, dict[str, str]] = {}
    rows: list[Row] = []

    def finished() -> str:
        done = sum(_is_finished(row) for row in rows)
        return f"{done} of {len(rows)} rows" if done or (parts.folder / ROWS_FOLDER).is_dir() else ""

    with parts.keep(finished):
        if config.shuffle_labels:
            parts.begin()
            for number, tables in enumerate(data):
                place = parts.folder / f"shuffled-{number}"
                data[number], labels[str(tables.folder)] = shuffling.shuffle(tables, config.seed, place)
        rows += plan_rows(config, data, parts.folder / ROWS_FOLDER)
        # 2. The yardsticks of each folder, and the rows.
        parts.begin()
        measured = []
        for number, (folder, tables) in enumerate(zip(config.data, data, strict=True)):
            own = [row for row in rows if row.number == number]
            measured += _measure(config, folder, tables, own, progress)
        # 3. The page, and then the folder as a whole.
        results: dict[str, Any] = {
            "settings": _plain(config),
            "interval": {"level": intervals.LEVEL, "resamples": config.resamples, "seed": config.seed,
                         "drawn": "lines within their class", "why": intervals.WHY_LINES},
            "data": [
                {"folder": str(folder), "length": tables.length, "classes": tables.classes, **counts(tables),
                 "overlaps": tables.overlaps, "notes": tables.notes}
                for folder, tables in zip(config.data, data, strict=True)
            ],
            "shuffled_labels": labels,
            "rows": measured,
        }  # fmt: skip
        with atomic_dir(config.out, merge=True) as draft:
            (draft / RESULTS_FILE).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            study_page.write_files(results, draft)
            # Not moved: if the folder cannot be put in its place, the rows must still be there.
            shutil.copytree(parts.folder / ROWS_FOLDER, draft / ROWS_FOLDER)
        parts.remove()
    return results


def _plain(config: CancerConfig) -> dict[str, Any]:
    """The options that decide the result, as JSON values."""
    found = settings(config)
    return found | {name: [str(path) for path in found[name]] for name in ("data", "model")}


def _check_classes(data: list[StudyData]) -> None:
    for other in data[1:]:
        if other.classes != data[0].classes:
            raise InputError(
                f"{other.folder}: has the classes {', '.join(other.classes)}, and {data[0].folder} has "
                f"{', '.join(data[0].classes)}: study them apart"
            )


def _is_finished(row: Row) -> bool:
    return (row.config.out / RESULTS_FILE).is_file()


# The rows of one folder of tables


_Drawn = dict[str, dict[str, np.ndarray]]
"""Every metric in every resample, by level and name."""


@dataclass
class _Scale:
    """What all rows of one folder are measured with: the test windows, and the same resamples of their lines."""

    test: Windows
    classes: list[str]
    weights: np.ndarray

    def measure(self, logs: np.ndarray) -> tuple[dict[str, Any], _Drawn]:
        """The figures of a row, and every metric in every resample by level."""
        sequence = intervals.per_sequence(logs, self.test.labels, self.test.lines)
        line, vote = intervals.per_line(logs, self.test.labels, self.test.lines)
        levels = {"sequence": sequence, "line": line, "vote": vote}
        drawn = {name: intervals.resample(found, self.weights) for name, found in levels.items()}
        found: dict[str, Any] = {name: intervals.estimates(values) for name, values in drawn.items()}
        for name in ("line", "vote"):
            right = int((levels[name].guessed == levels[name].labels).sum())
            found[name]["exact"] = intervals.exact_interval(right, len(self.test.names))
        found["confusion"] = {name: self._confusion(each) for name, each in levels.items()}
        found["lines"] = self._lines(sequence, line, vote)
        return found, drawn

    def _confusion(self, found: intervals.Predictions) -> list[list[int]]:
        table = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        np.add.at(table, (found.labels, found.guessed), 1)
        return [list(row) for row in table.tolist()]

    def _lines(
        self, sequence: intervals.Predictions, line: intervals.Predictions, vote: intervals.Predictions
    ) -> dict[str, Any]:
        right = np.bincount(self.test.lines, weights=sequence.guessed == sequence.labels)
        sizes = np.bincount(self.test.lines)
        return {
            name: {
                "label": self.classes[int(line.labels[i])],
                "patient": self.test.patients[i],
                "predicted": self.classes[int(line.guessed[i])],
                "voted": self.classes[int(vote.guessed[i])],
                "sequences": int(sizes[i]),
                "right": int(right[i]),
                "log_odds": dict(zip(self.classes, line.scores[i].tolist(), strict=True)),
            }
            for i, name in enumerate(self.test.names)
        }


def _measure(
    config: CancerConfig, folder: Path, data: StudyData, rows: list[Row], progress: bool
) -> list[dict[str, Any]]:
    """Every yardstick and every row of one folder, with its figures on the test windows."""
    test = data.splits["test"]
    scale = _Scale(test, data.classes, intervals.draw_lines(test.line_labels, config.resamples, config.seed))
    common = {"data": str(folder), "length": data.length}
    measured: list[dict[str, Any]] = []
    with bar("yardsticks", 5, "yardstick", progress=progress) as shown:
        for found in yardsticks(data):
            shown.update()
            row = {"name": found.name, "kind": "yardstick", "inputs": found.inputs, **common, "note": found.note}
            measured.append(row | (_EMPTY if found.logs is None else scale.measure(found.logs)[0]))
    # The row on mutated windows of each setting, which its control comes behind.
    mutated: dict[str, tuple[dict[str, Any], _Drawn]] = {}
    for place, plan in enumerate(rows, start=1):
        row = {"name": plan.setting, "kind": "model", "inputs": plan.inputs, **common}
        if plan.inputs == "unmutated" and test.references is None:
            measured.append(row | {"note": "the tables have no column reference; hyenadna mutate writes it"} | _EMPTY)
            continue
        if not _is_finished(plan):
            if progress:
                print(f"row {place} of {len(rows)}: {plan.setting}, {plan.inputs} windows", file=sys.stderr)
            finetune(plan.config, progress=progress)
        figures, drawn = scale.measure(_predict(plan, data))
        measured.append(row | _of_training(plan) | figures)
        if plan.inputs == "mutated":
            mutated[plan.setting] = measured[-1], drawn
        else:
            own, known = mutated[plan.setting]
            own["gain"] = _differences(known, drawn)
    return measured


_EMPTY: dict[str, Any] = {"sequence": None, "line": None, "vote": None, "confusion": None, "lines": None}


def _of_training(row: Row) -> dict[str, Any]:
    """What the fine-tuning of a row says about its runs, of which the best one on validation is measured."""
    summary = read_results(row.config.out)
    run = max(summary["runs"], key=lambda run: float(run["valid"]))
    return {
        "method": summary["method"],
        "model": summary["model"],
        "folder": f"{ROWS_FOLDER}/{row.config.out.name}",
        "seed": run["seed"],
        "best_epoch": run["best_epoch"],
        "validation": {summary["metric"]: run["valid"]},
        "over_seeds": summary["test"],
        **{name: summary[name] for name in ("weights", "epoch_chosen_on", "deviations")},
        "published": summary.get("published", {}),
        "note": "; ".join(summary.get("not_comparable", [])),
    }


def _differences(mutated: _Drawn, unmutated: _Drawn) -> dict[str, dict[str, list[float | None]]]:
    """Every metric on mutated windows less that on unmutated ones, in the same resamples."""
    return {
        level: intervals.estimates({name: values - unmutated[level][name] for name, values in found.items()})
        for level, found in mutated.items()
    }


def _predict(row: Row, data: StudyData) -> np.ndarray:
    """Log-probabilities of the saved model for every test window, in the order of the table."""
    test = data.splits["test"]
    sequences = test.sequences if row.inputs == "mutated" else test.references
    assert sequences is not None
    tuned = apply_preset(row.config)
    device = pick_device(tuned.device)
    model: Any = load_classifier(tuned.out / MODEL_FOLDER)
    model.to(device)
    names = [model.config.id2label[i] for i in range(len(data.classes))]
    if names != data.classes:
        raise InputError(
            f"{tuned.out}: its model has the classes {', '.join(names)}: remove the folder, and train anew"
        )
    return intervals.log_probabilities(predict(model, LabelledDataset(sequences, test.labels), tuned, device))
