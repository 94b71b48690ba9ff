"""Published figures beside those of this machine, as dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.drawing.style import BASELINE, MODEL, RULE, png_figure

_SIZE = 8.0
_INCHES_A_LINE = 0.17


class Dots(NamedTuple):
    """A line of the figure. ``published`` is one value or None, ``ours`` a value for each run, or empty."""

    dataset: str
    row: str
    published: float | None
    ours: Sequence[float]


def published_and_ours(panels: Mapping[str, Sequence[Dots]], out: str | Path) -> None:
    """A panel for each table: a diamond for what is published, a dot for each run, a bar for their mean.

    Args:
        panels: lines by the panel's title. Lines of one dataset follow one another.
        out: the PNG to write.
    """
    grouped = {
        title: [(dataset, list(lines)) for dataset, lines in groupby(dots, lambda line: line.dataset)]
        for title, dots in panels.items()
    }
    # A line for each dataset's name, and one for each of its rows.
    height = max(sum(1 + len(lines) for _, lines in groups) for groups in grouped.values())
    with png_figure(out, width=2 + 4.2 * len(panels), height=1.2 + _INCHES_A_LINE * height) as figure:
        for axes, (title, groups) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], grouped.items(), strict=True
        ):
            labels: list[str] = []
            names: list[int] = []
            for dataset, lines in groups:
                names.append(len(labels))
                labels.append(dataset)
                for line in lines:
                    place = len(labels)
                    labels.append(line.row)
                    axes.axhline(place, color="#eeeeee", linewidth=0.6, zorder=0)
                    if line.published is not None:
                        axes.plot(line.published, place, "D", markersize=4.5, color="white", markeredgecolor=BASELINE)
                    axes.plot(line.ours, [place] * len(line.ours), "o", color=MODEL, markersize=3.5, alpha=0.7)
                    if line.ours:
                        axes.plot([float(np.mean(line.ours))] * 2, [place - 0.4, place + 0.4], color=MODEL, linewidth=2)
            axes.set_yticks(range(len(labels)), labels, fontsize=_SIZE)
            axes.tick_params(axis="y", length=0)
            for place in names:
                axes.get_yticklabels()[place].set_fontweight("bold")
                axes.get_yticklabels()[place].set_color(RULE)
            axes.set_ylim(height - 0.3, -0.7)
            axes.margins(x=0.06)
            axes.set_title(title, fontsize=_SIZE + 1)
        first = figure.axes[0]
        if any(line.published is not None for found in panels.values() for line in found):
            first.plot([], [], "D", markersize=4.5, color="white", markeredgecolor=BASELINE, label="published")
        first.plot([], [], "o", color=MODEL, markersize=3.5, label="ours, a dot for each run, a bar for their mean")
        figure.legend(loc="outside lower left", ncols=2, fontsize=_SIZE)
