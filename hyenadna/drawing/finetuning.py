"""Figures of fine-tuning: validation by epoch, and the test metric of several methods."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyenadna.drawing.style import BASELINE, MODEL, PALETTE, png_figure

_SIZE = 8.0
_LINES = ("-", "--", ":", "-.")
# More runs are drawn alike, because a legend could not name them.
_MOST_RUNS = 16


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
    from matplotlib.ticker import MaxNLocator

    with png_figure(out, width=9.5, height=4.4) as figure:
        axes = figure.subplots()
        for i, (name, values) in enumerate(runs.items()):
            style: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "linestyle": _LINES[i // len(PALETTE) % 4]}
            if len(runs) > _MOST_RUNS:
                style = {"color": MODEL, "linewidth": 0.8, "alpha": 0.5}
                name = f"{len(runs):,} runs" if i == 0 else ""
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name, **style)
        for i, (name, test) in enumerate(tests.items()):
            colour = PALETTE[list(runs).index(name) % len(PALETTE)] if len(runs) <= _MOST_RUNS else MODEL
            label = "test of the best epoch" if i == 0 else ""
            axes.plot(*test, "D", color=colour, markeredgecolor="black", zorder=3, label=label)
        for i, (name, value) in enumerate(baselines.items()):
            label = textwrap.fill(f"test, {name}: {value:.4f}", 34)
            axes.axhline(value, color=BASELINE, linewidth=0.8, linestyle=(0, (4, 1 + 2 * i)), label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        last = max(map(len, runs.values()))
        axes.set_xlim(1 - 0.04 * max(last, 5), last + 0.04 * max(last, 5))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {metric}")
        figure.legend(loc="outside right upper", fontsize=_SIZE)


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
        axes.set_yticks(range(len(methods)), [textwrap.fill(name, 30) for name in methods])
        axes.set_ylim(len(methods) - 0.4, -0.7)
        axes.margins(x=0.08)
        axes.set_xlabel(f"test {metric}; a dot for each run, a bar for their mean")
        if baselines:
            figure.legend(loc="outside lower left", fontsize=_SIZE)
