"""Figures of the study of cancer types: intervals of every row, confusion of lines, and the log-odds of each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.drawing.style import BASELINE, BEST, DASHES, LABEL_SIZE, MODEL, PALETTE, RULE, TITLE_SIZE, png_figure


class Bar(NamedTuple):
    """A row of :func:`forest`.

    Attributes:
        name: its label.
        is_model: a model, and no yardstick.
        values: value, lower end and upper end, one for each panel; None where there is none.
        published: a published figure for the first panel, or None.
    """

    name: str
    is_model: bool
    values: Sequence[Sequence[float | None] | None]
    published: float | None = None


def forest(bars: Sequence[Bar], panels: Sequence[str], out: str | Path, *, chance: float) -> None:
    """Draw the accuracy of every row with its interval, in panels side by side.

    Args:
        bars: the rows, the first on top.
        panels: titles of the panels.
        out: the PNG to write.
        chance: accuracy of a guess, drawn as a line.

    Raises:
        InputError: ``out`` cannot be written.
    """
    with png_figure(out, width=9.5, height=1.3 + 0.34 * len(bars)) as figure:
        for place, (axes, title) in enumerate(zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True)):
            axes.axvline(chance, color=RULE, linewidth=0.8, linestyle=DASHES)
            for row, bar in enumerate(bars):
                colour = MODEL if bar.is_model else BASELINE
                found = bar.values[place]
                if found is not None and None not in found:
                    value, low, high = (float(number) for number in found if number is not None)
                    axes.plot([low, high], [row, row], color=colour, linewidth=2.0, solid_capstyle="butt")
                    axes.plot(value, row, "o" if bar.is_model else "s", color=colour, markersize=5)
                if place == 0 and bar.published is not None:
                    axes.plot(bar.published, row, "D", color=BEST, markersize=5, markerfacecolor="none")
            axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
            axes.set_xlim(-0.02, 1.02)
            axes.set_xlabel("test accuracy, 95% interval over lines")
            axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
            axes.set_ylim(len(bars) - 0.5, -0.5)
            axes.tick_params(left=False)


def confusions(tables: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str], out: str | Path) -> None:
    """Draw the confusion of lines for several rows: a line of the figure is a true class, a column the predicted one.

    Args:
        tables: counts of lines ``[true][predicted]`` by the name of the row.
        classes: names of the classes.
        out: the PNG to write.

    Raises:
        InputError: ``out`` cannot be written.
    """
    columns = min(4, len(tables))
    lines = -(-len(tables) // columns)
    side = 1.4 + 0.55 * len(classes)
    with png_figure(out, width=columns * side, height=lines * side) as figure:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(tables) :]:
            axes.set_visible(False)
        for axes, (name, table) in zip(grid.flat, tables.items(), strict=False):
            counts = np.asarray(table, dtype=np.float64)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for (row, column), count in np.ndenumerate(counts):
                dark = shares[row, column] > 0.6
                axes.text(column, row, f"{count:.0f}", ha="center", va="center", color="white" if dark else "black")
            axes.set_title(name, fontsize=LABEL_SIZE)
            axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
            axes.set_yticks(range(len(classes)), classes)
            axes.set_xlabel("predicted", fontsize=LABEL_SIZE)
            axes.set_ylabel("true", fontsize=LABEL_SIZE)
            axes.tick_params(left=False, bottom=False)
            axes.spines[["left", "bottom"]].set_visible(False)


def line_histograms(rows: Mapping[str, Mapping[str, Sequence[float]]], out: str | Path, *, of: str) -> None:
    """Draw how the mean log-odds of the lines are spread, a panel for each row and a colour for each true class.

    Args:
        rows: mean log-odds of the lines by true class, by the name of the row.
        out: the PNG to write.
        of: the class that the log-odds speak for.

    Raises:
        InputError: ``out`` cannot be written.
    """
    with png_figure(out, width=7.5, height=0.6 + 1.25 * len(rows)) as figure:
        for axes, (name, classes) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
            # With the 0 that divides the predictions, also where all lines lie on one side of it.
            everything = np.concatenate([[0.0], *classes.values()])
            edges = np.histogram_bin_edges(everything, bins=24)
            for place, (label, values) in enumerate(classes.items()):
                axes.hist(values, bins=edges, color=PALETTE[place % len(PALETTE)], alpha=0.55, label=label)
            axes.axvline(0, color=RULE, linewidth=0.8, linestyle=DASHES)
            axes.set_title(name, loc="left", fontsize=TITLE_SIZE)
            axes.set_ylabel("lines", fontsize=LABEL_SIZE)
        axes.set_xlabel(f"mean log-odds of {of} over the sequences of a line")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
