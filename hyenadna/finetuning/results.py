"""What fine-tuning reached: the table, the file and the picture of its runs, and of several beside each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyenadna.common.choices import DEFAULT_METRIC, METRICS as NAMES
from hyenadna.common.errors import InputError
from hyenadna.drawing.style import png_figure
from hyenadna.evaluation.baselines import yardsticks
from hyenadna.finetuning.presets import preset

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig
    from hyenadna.finetuning.data import Data

RESULTS_FILE = "results.json"


def summarise(config: FinetuneConfig, folds: list[Data], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of every metric over the runs, beside the yardsticks and the published figure."""
    metrics: dict[str, Any] = {}
    for name in NAMES[config.task]:
        values = [value for result in results if (value := result["test"].get(name)) is not None]
        if values:
            metrics[name] = _mean(values)
    first = folds[0]
    for shots in results[0].get("shots", {}):
        metrics[f"accuracy at {shots} shots"] = _mean([result["shots"][shots]["accuracy"] for result in results])
    summary: dict[str, Any] = {
        "data": str(config.data),
        "method": config.method,
        "model": str(config.model) if config.model else None,
        "split": {name: getattr(config, name) for name in ("split_seed", "valid_fraction", "folds", "length")},
        "demonstration_split": first.demonstration,
        "examples": {split: len(getattr(first, split)) for split in ("train", "valid", "test")},
        "classes": first.names,
        "metric": config.metric or DEFAULT_METRIC[config.task],
        "test": metrics,
        "runs": results,
    }
    if config.yardstick:
        found = [yardsticks(data.train, data.valid, data.test) for data in folds]
        names = found[0] if len(found) == 1 else list(found[0])[:2]
        summary["yardstick"] = {name: float(np.mean([each[name] for each in found])) for name in names}
    if config.preset is not None:
        summary["published"] = preset(config.preset).published
    return summary


def _mean(values: list[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "deviation": deviation, "runs": len(values)}


def as_lines(curves: list[list[dict[str, Any]]]) -> bytes:
    """The epochs of every run as JSON, one a line."""
    return "".join(json.dumps(row) + "\n" for rows in curves for row in rows).encode()


def draw_curves(curves: list[list[dict[str, Any]]], key: str, summary: dict[str, Any], out: Path) -> None:
    """The validation metric of every run by epoch, its test as a diamond, and the yardsticks, of the test too."""
    with png_figure(out, width=8.0, height=4.4) as figure:
        axes = figure.subplots()
        for rows, run in zip(curves, summary["runs"], strict=True):
            name = ", ".join(f"{word} {rows[0][word]}" for word in ("seed", "fold") if word in rows[0])
            [line] = axes.plot(
                [row["epoch"] for row in rows], [row[key] for row in rows], marker="o", markersize=3, label=name
            )
            if (value := run["test"].get(summary["metric"])) is not None:
                axes.plot(run["best_epoch"], value, "D", color=line.get_color(), markeredgecolor="black", zorder=3)
        axes.plot([], [], "D", color="white", markeredgecolor="black", label="test, with the best epoch")
        if summary["metric"] == "accuracy":
            for name, value in summary.get("yardstick", {}).items():
                axes.axhline(value, color="#767676", linewidth=0.8, linestyle="--")
                axes.annotate(
                    f"test, {name}: {value:.4f}", (1, value), xytext=(0, 2), textcoords="offset points", fontsize=8.0
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(key.replace("valid_", "validation "))
        axes.legend(fontsize=8.0)


def read_results(folder: Path) -> dict[str, Any]:
    """What results.json of a folder of ``hyenadna finetune`` holds.

    Raises:
        InputError: there is none, or it is something else.
    """
    try:
        summary = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        summary["metric"], summary["examples"], summary["runs"][0], [run["test"] for run in summary["runs"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder / RESULTS_FILE}: no results of hyenadna finetune ({error})") from error
    return dict(summary)


def compare(folders: Sequence[Path], out: Path) -> str:
    """The test metric of several fine-tunings on the same split: a picture, and its table.

    What can be told from results.json is checked: how the split was drawn, its sizes, the classes, and what yardsticks
    reached on it. A few-shot run stands with the demonstrations that it was trained with.

    Args:
        folders: of ``hyenadna finetune``; their names are the rows.
        out: PNG to write: a dot for each run, a bar for the mean, the yardsticks as lines.

    Returns:
        The table, with mean, deviation and number of runs.

    Raises:
        InputError: a folder without results; another split or another metric than the first has; two equal names.
    """
    found = {folder.resolve().name: read_results(folder) for folder in folders}
    if len(found) < len(folders):
        raise InputError("--results: a folder is there twice, or two have the same name, which their rows go by")
    first = next(iter(found.values()))
    for name, summary in found.items():
        for key in ("metric", "split", "examples", "classes"):
            if summary.get(key) != first.get(key):
                raise InputError(f"{name} has the {key} {summary.get(key)}, others {first.get(key)}: not comparable")
    metric = first["metric"]
    yardsticks: dict[str, float] = {}
    for name, summary in found.items():
        for yardstick, value in summary.get("yardstick", {}).items() if metric == "accuracy" else ():
            if yardsticks.setdefault(yardstick, value) != value:
                raise InputError(
                    f"{name}: {yardstick} reached {value}, beside others {yardsticks[yardstick]}: other data"
                )
    lines = [f"{'test ' + metric:<52} {'mean':>8} {'± s.d.':>8}  runs"]
    with png_figure(out, width=8.0, height=1.6 + 0.5 * len(found)) as figure:
        axes = figure.subplots()
        for row, (name, summary) in enumerate(found.items()):
            values = [run["test"][metric] for run in summary["runs"] if run["test"].get(metric) is not None]
            if not values:
                raise InputError(f"{name}: {metric} has no value in any run")
            mean = _mean(values)
            lines.append(f"{name:<52} {mean['mean']:>8.4f} {mean['deviation']:>8.4f}  {mean['runs']}")
            axes.plot(values, [row] * len(values), "o", color="#0072B2", markersize=5, alpha=0.7)
            axes.plot([mean["mean"]] * 2, [row - 0.3, row + 0.3], color="#0072B2", linewidth=2.5)
            text = axes.annotate(f"{mean['mean']:.4f}", (mean["mean"], row - 0.38), ha="center", fontsize=8.0)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        for row, (name, value) in enumerate(yardsticks.items()):
            lines.append(f"{name:<52} {value:>8.4f}")
            axes.axvline(
                value, color="#767676", linewidth=0.8, linestyle=(0, (4, 1 + 2 * row)), label=f"{name}: {value:.4f}"
            )
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.4, -0.7)
        axes.margins(x=0.08)
        axes.set_xlabel(f"test {metric}; a dot for each run, a bar for their mean")
        if yardsticks:
            figure.legend(loc="outside lower left", fontsize=8.0)
    return "\n".join(lines)


def describe(summary: dict[str, Any]) -> str:
    """The table of what was reached, for the terminal."""
    lines = [f"{'test':<52} {'mean':>8} {'± s.d.':>8}  runs"]
    for name, value in summary["test"].items():
        lines.append(
            f"{summary['method'] + ', ' + name:<52} {value['mean']:>8.4f} {value['deviation']:>8.4f}  {value['runs']}"
        )
    for name, value in summary.get("yardstick", {}).items():
        lines.append(f"{name + ', accuracy':<52} {value:>8.4f}")
    for name, value in summary.get("published", {}).items():
        lines.append(f"{'published, ' + name:<52} {value:>8.4f}")
    if summary["demonstration_split"]:
        seed = summary["split"]["split_seed"]
        lines.append(f"the test was drawn from all examples (--split_seed {seed}): a demonstration split, no benchmark")
    for result in summary["runs"][:1]:
        lines += [f"{name} has no value: {reason}" for name, reason in result["undefined"].items()]
    return "\n".join(lines)
