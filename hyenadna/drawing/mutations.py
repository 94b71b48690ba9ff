"""Histograms of mutations: how many a sequence shows, and how many a line has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hyenadna.drawing.style import DASHES, PALETTE, RULE, png_figure

_MOST_BARS = 30
_BINS = 30
# Times the smallest number of mutations.
_WIDE = 4


def mutations_per_sequence(counts: Mapping[str, Mapping[int, int]], length: int, out: str | Path) -> Path:
    """Draw how many sequences show one mutation, two, and so on, as bars side by side for each class.

    Args:
        counts: sequences by the number of their mutations, by class.
        length: bases of a sequence, for the label.
        out: the PNG to write.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    from matplotlib.ticker import MaxNLocator

    most = max((number for one in counts.values() for number in one), default=1)
    # A bar for each number, or for a range of numbers where there would be too many.
    step = -(-most // _MOST_BARS)
    with png_figure(out, width=8.0, height=3.8) as figure:
        axes = figure.subplots()
        for place, (label, one) in enumerate(counts.items()):
            heights = np.zeros(-(-most // step))
            for number, count in one.items():
                heights[(number - 1) // step] += count
            left = 1 + step * np.arange(len(heights)) - 0.5 + step * (0.1 + 0.8 * place / len(counts))
            axes.bar(left, heights, 0.8 * step / len(counts), align="edge", color=_colour(place), label=label)
        axes.set_yscale("log")
        # One sequence is a bar too.
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"mutations in a sequence of {length:,} bases")
        axes.set_ylabel("sequences")
        figure.legend(loc="outside upper left", ncols=len(counts))
    return Path(out)


def mutations_per_line(counts: Mapping[str, Sequence[int]], threshold: float, out: str | Path) -> Path:
    """Draw how many lines have how many mutations, as steps for each class. A wide range has a logarithmic axis.

    Args:
        counts: mutations of each line, by class.
        threshold: lines with more are taken; a dashed line shows it.
        out: the PNG to write.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    seen = np.concatenate([np.asarray(values, dtype=float) for values in counts.values()])
    is_wide = seen.max() > _WIDE * seen.min()
    edges = (np.geomspace if is_wide else np.linspace)(seen.min() * 0.95, seen.max() * 1.05, _BINS)
    with png_figure(out, width=8.0, height=3.8) as figure:
        axes = figure.subplots()
        for place, (label, values) in enumerate(counts.items()):
            axes.hist(values, edges.tolist(), histtype="step", linewidth=1.6, color=_colour(place), label=label)
        if threshold > 0:
            name = f"more than {threshold:,g} are needed"
            axes.axvline(threshold, color=RULE, linewidth=1.0, linestyle=DASHES, label=name)
        if is_wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("mutations of a line")
        axes.set_ylabel("lines")
        figure.legend(loc="outside upper left", ncols=len(counts) + 1)
    return Path(out)


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]
