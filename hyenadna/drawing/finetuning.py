"""Figures of fine-tuning: validation by epoch, and the test metric of several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hyenadna.drawing.style import BASELINE, MODEL, png_figure

_SIZE = 8.0


def validation_curves(
    runs: Mapping[str, Sequence[float]],
    tests: Mapping[str, tuple[int, float]],
    out: str | Path,
    *,
    metric: str,
    baselines: Mapping[str, float],
) -> None:
    """The validation metric of every run by epoch, and its test metric as a diamond.

    Args:
        runs: values after epoch 1, 2 and so on, by the name of the run.
        tests: the best epoch of a run and its test metric. A run without a value is left out.
        out: the PNG to write.
        metric: name of the metric.
        baselines: test metric of each baseline, drawn as lines.
    """
    with png_figure(out, width=8.0, height=4.4) as figure:
        axes = figure.subplots()
        for name, values in runs.items():
            [line] = axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
            if name in tests:
                axes.plot(*tests[name], "D", color=line.get_color(), markeredgecolor="black", zorder=3)
        axes.plot([], [], "D", color="white", markeredgecolor="black", label="test of the best epoch")
        for name, value in baselines.items():
            axes.axhline(value, color=BASELINE, linewidth=0.8, linestyle="--")
            text = f"test, {name}: {value:.4f}"
            axes.annotate(text, (1, value), xytext=(0, 2), textcoords="offset points", fontsize=_SIZE)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {metric}")
        axes.legend(fontsize=_SIZE)


def method_dots(
    methods: Mapping[str, Sequence[float]], out: str | Path, *, metric: str, baselines: Mapping[str, float]
) -> None:
    """The test metric of several methods: a dot for each run, a bar for the mean, baselines as lines.

    Args:
        methods: values of the runs, by the name of the method. The first is on top.
        out: the PNG to write.
        metric: name of the metric.
        baselines: test metric of each baseline.
    """
    with png_figure(out, width=8.0, height=1.6 + 0.5 * len(methods)) as figure:
        axes = figure.subplots()
        for row, values in enumerate(methods.values()):
            mean = float(np.mean(values))
            axes.plot(values, [row] * len(values), "o", color=MODEL, markersize=5, alpha=0.7)
            axes.plot([mean] * 2, [row - 0.3, row + 0.3], color=MODEL, linewidth=2.5)
            text = axes.annotate(f"{mean:.4f}", (mean, row - 0.38), ha="center", fontsize=_SIZE)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        for row, (name, value) in enumerate(baselines.items()):
            dashes = (0, (4, 1 + 2 * row))
            axes.axvline(value, color=BASELINE, linewidth=0.8, linestyle=dashes, label=f"{name}: {value:.4f}")
        axes.set_yticks(range(len(methods)), list(methods))
        axes.set_ylim(len(methods) - 0.4, -0.7)
        axes.margins(x=0.08)
        axes.set_xlabel(f"test {metric}; a dot for each run, a bar for their mean")
        if baselines:
            figure.legend(loc="outside lower left", fontsize=_SIZE)
