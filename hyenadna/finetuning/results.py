"""The results of fine-tuning: results.json, the table for the terminal, and comparisons of several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyenadna.common.choices import METRICS, SPLITS
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import RESULTS_FILE
from hyenadna.drawing.finetuning import method_dots, validation_curves
from hyenadna.evaluation.baselines import baseline_accuracies
from hyenadna.finetuning.published import against_published

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig
    from hyenadna.finetuning.data import Splits


def summarise(
    config: FinetuneConfig, folds: list[Splits], results: list[dict[str, Any]], shape: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of results.json.

    Args:
        config: the options.
        folds: the splits of each fold, or of the only run without cross-validation.
        results: what each run reached, see :func:`hyenadna.finetuning.train.train`.
        shape: the configuration of the trained model.

    Returns:
        Mean and deviation of every metric over the runs, with the baselines and the published figure.
    """
    metrics: dict[str, Any] = {}
    for name in METRICS[config.task]:
        values = [value for result in results if (value := result["test"].get(name)) is not None]
        if values:
            metrics[name] = _mean(values)
    for shots in results[0].get("shots", {}):
        metrics[f"accuracy at {shots} shots"] = _mean([result["shots"][shots]["accuracy"] for result in results])
    first = folds[0]
    summary: dict[str, Any] = {
        "data": str(config.data),
        "method": config.method,
        "architecture": config.architecture,
        "ablation": "gpt-pretrained" if config.ablation == "gpt" and config.model else config.ablation,
        "parameters": results[0].get("parameters"),
        "model": str(config.model) if config.model else None,
        "split": {name: getattr(config, name) for name in ("split_seed", "valid_fraction", "folds", "length")}
        | ({} if config.keep == "middle" else {"keep": config.keep}),
        "demonstration_split": first.demonstration,
        "examples": {split: len(getattr(first, split)) for split in SPLITS}
        | ({"train": config.train_examples} if config.train_examples else {}),
        "classes": first.names,
        "notes": list(dict.fromkeys(note for data in folds for note in data.notes)),
        "metric": config.chosen_metric,
        "test": metrics,
        "runs": results,
    }
    if config.baseline:
        found = [baseline_accuracies(data.train, data.valid, data.test) for data in folds]
        # The last name holds the strength of one fold's regularisation, and differs between folds.
        names = found[0] if len(found) == 1 else list(found[0])[:2]
        summary["baseline"] = {name: float(np.mean([each[name] for each in found])) for name in names}
    return summary | against_published(config, folds, shape)


def _mean(values: list[float]) -> dict[str, Any]:
    # One run has no deviation.
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "runs": len(values)}


def _row(name: str, mean: dict[str, Any]) -> str:
    deviation = "" if mean["deviation"] is None else f"{mean['deviation']:.4f}"
    return f"{name:<52} {mean['mean']:>8.4f} {deviation:>8}  {mean['runs']}"


def as_lines(curves: list[list[dict[str, Any]]]) -> bytes:
    """The epochs of every run as JSON, one a line."""
    return "".join(json.dumps(row) + "\n" for rows in curves for row in rows).encode()


def draw_curves(curves: list[list[dict[str, Any]]], summary: dict[str, Any], out: Path) -> None:
    """Draw the validation metric of every run by epoch, with its test metric.

    Args:
        curves: a row for each epoch of each run.
        summary: see :func:`summarise`.
        out: the PNG to write.
    """
    metric = summary["metric"]
    runs, tests = {}, {}
    for rows, run in zip(curves, summary["runs"], strict=True):
        name = ", ".join(f"{word} {run[word]}" for word in ("seed", "fold") if word in run)
        runs[name] = [row[f"valid_{metric}"] for row in rows]
        if (value := run["test"].get(metric)) is not None:
            tests[name] = run["best_epoch"], value
    baselines = summary.get("baseline", {}) if metric == "accuracy" else {}
    validation_curves(runs, tests, out, metric=metric, baselines=baselines)


def describe(summary: dict[str, Any]) -> str:
    """The table of the results, for the terminal."""
    lines = [f"{'test':<52} {'mean':>8} {'± s.d.':>8}  runs"]
    row = summary["method"] if summary["ablation"] == "none" else summary["ablation"]
    if summary.get("architecture", "hyena") != "hyena":
        row = f"{summary['architecture']}, {row}"
    lines += [_row(f"{row}, {name}", value) for name, value in summary["test"].items()]
    lines += [f"{name + ', accuracy':<52} {value:>8.4f}" for name, value in summary.get("baseline", {}).items()]
    published = f"published {summary.get('published_row', '')}".strip()
    lines += [f"{f'{published}, {name}':<52} {value:>8.4f}" for name, value in summary.get("published", {}).items()]
    if summary.get("preset") and not summary["published"]:
        lines.append(f"no figure is published for the preset {summary['preset']}")
    lines += [f"not comparable with the published figure: {reason}" for reason in summary.get("not_comparable", ())]
    if deviations := summary.get("deviations"):
        changed = (f"{name} {used} (preset {wanted})" for name, (used, wanted) in deviations.items())
        lines.append(f"deviations from the preset: {', '.join(changed)}")
    if summary["demonstration_split"]:
        seed = summary["split"]["split_seed"]
        lines.append(f"the test was drawn from all examples (split_seed {seed}): a demonstration, not a benchmark")
    lines += [f"{name} has no value: {reason}" for name, reason in summary["runs"][0]["undefined"].items()]
    return "\n".join(lines)


def read_results(folder: Path) -> dict[str, Any]:
    """The contents of results.json in a folder of ``hyenadna finetune``.

    Raises:
        InputError: the file is missing, or is something else.
    """
    try:
        summary = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        summary["metric"], summary["examples"], summary["runs"][0], [run["test"] for run in summary["runs"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder / RESULTS_FILE}: no results of hyenadna finetune ({error})") from error
    return dict(summary)


def compare(folders: Sequence[Path], out: Path) -> str:
    """Compare the test metric of several fine-tunings on the same split, as a figure and a table.

    Everything in results.json that describes the split must agree: how it was drawn, its sizes, the classes, and the
    accuracy of the baselines on it. A few-shot run is compared with the number of shots of its training.

    Args:
        folders: folders of ``hyenadna finetune``. Their names are the rows.
        out: the PNG to write, see :func:`hyenadna.drawing.finetuning.method_dots`.

    Returns:
        The table, with mean, deviation and number of runs.

    Raises:
        InputError: a folder has no results, or another split or metric than the first, or two have the same name.
    """
    found = {folder.resolve().name: read_results(folder) for folder in folders}
    if len(found) < len(folders):
        raise InputError("`results`: a folder is there twice, or two have the same name. The rows need different names")
    first = next(iter(found.values()))
    metric = first["metric"]
    methods: dict[str, list[float]] = {}
    baselines: dict[str, float] = {}
    for name, summary in found.items():
        for key in ("metric", "split", "examples", "classes"):
            if summary.get(key) != first.get(key):
                raise InputError(f"{name} has the {key} {summary.get(key)}, others {first.get(key)}: not comparable")
        for baseline, value in summary.get("baseline", {}).items() if metric == "accuracy" else ():
            if baselines.setdefault(baseline, value) != value:
                raise InputError(f"{name}: {baseline} reached {value}, others {baselines[baseline]}: other data")
        methods[name] = [value for run in summary["runs"] if (value := run["test"].get(metric)) is not None]
        if not methods[name]:
            raise InputError(f"{name}: {metric} has no value in any run")
    method_dots(methods, out, metric=metric, baselines=baselines)
    lines = [f"{'test ' + metric:<52} {'mean':>8} {'± s.d.':>8}  runs"]
    lines += [_row(name, _mean(values)) for name, values in methods.items()]
    lines += [f"{name:<52} {value:>8.4f}" for name, value in baselines.items()]
    return "\n".join(lines)
