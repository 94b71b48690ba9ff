"""Figures of the studies on ENBED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyenadna.drawing.style import BASELINE, DASHES, MODEL, PALETTE, TITLE_SIZE, png_figure


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]], out: str | Path, *, label: str) -> None:
    """Draw a figure of every run as a dot, methods below each other, in panels side by side.

    Args:
        panels: values of each run by method, by the title of the panel. All panels have the same methods.
        out: the PNG to write.
        label: what the values are.

    Raises:
        InputError: ``out`` cannot be written.
    """
    methods = list(next(iter(panels.values())))
    with png_figure(out, width=2.6 + 2.4 * len(panels), height=1.2 + 0.32 * len(methods)) as figure:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, rows) in zip(grid, panels.items(), strict=True):
            for place, name in enumerate(methods):
                values = list(rows[name])
                colour = MODEL if len(values) > 1 else BASELINE
                axes.plot(values, [place] * len(values), "o", color=colour, markersize=5, alpha=0.7)
                axes.plot([sum(values) / len(values)] * 2, [place - 0.25, place + 0.25], color=colour, linewidth=1.5)
            axes.set_title(title.replace(", ", "\n"), loc="left", fontsize=TITLE_SIZE)
            axes.set_xlim(-0.02, 1.02)
            axes.axvline(1.0, color=PALETTE[-1], linewidth=0.8, linestyle=DASHES)
            axes.set_xlabel(label)
            axes.set_yticks(range(len(methods)), methods)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.tick_params(left=False)
