"""The figure of a probe: its F1 by classifier, and what was taken for what."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyenadna.drawing.style import BEST, LABEL_SIZE, MODEL, NONE, TITLE_SIZE, png_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Cells of more classes have no room for a number.
_MOST_NUMBERS = 12
_LABEL = 22


def probe_figure(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    confusion: np.ndarray,
    classes: Sequence[str],
    out: str | Path,
    *,
    metric: str,
    classifier: str,
    published: Mapping[str, float],
) -> Path:
    """Draw the metric of every classifier, and the confusion of one of them.

    Args:
        scores: values of the folds, by classifier and then by the kind of weights, such as "random weights".
        confusion: int ``(classes, classes)``; rows are the true classes.
        classes: their names.
        out: the PNG to write.
        metric: name of the metric.
        classifier: name of the one whose confusion it is.
        published: published figures by model, drawn as lines beside that classifier.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    side = max(3.2, 1.4 + 0.42 * min(len(classes), 30))
    with png_figure(out, width=5.0 + side + 1.6, height=side + 1.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(5.0, side + 1.6))
        kinds = list(dict.fromkeys(kind for by_kind in scores.values() for kind in by_kind))
        height = 0.7 / len(kinds)
        for row, by_kind in enumerate(scores.values()):
            for i, kind in enumerate(kinds):
                values = by_kind[kind]
                place = row + (i - (len(kinds) - 1) / 2) * height
                mean = float(np.mean(values))
                colour = (MODEL, NONE)[i % 2]
                left.barh(place, mean, 0.9 * height, color=colour, label=kind if row == 0 else None)
                left.plot(values, [place] * len(values), "o", color="black", markersize=3, alpha=0.6)
                left.annotate(f"{mean:.3f}", (0.01, place), va="center", fontsize=LABEL_SIZE, color="white")
        row = list(scores).index(classifier)
        for i, (name, value) in enumerate(published.items()):
            dashes = ("-", "--", "-.", ":")[i % 4]
            left.plot([value] * 2, [row - 0.47, row + 0.47], dashes, color=BEST, label=f"{name}: {value:.3f}")
        left.set_yticks(range(len(scores)), [textwrap.fill(name, 14) for name in scores])
        left.set(xlim=(0, 1), ylim=(len(scores) - 0.5, -0.5))
        left.set_xlabel(f"{metric}; a dot for each fold, a bar for their mean")
        if len(kinds) > 1 or published:
            figure.legend(loc="outside lower left", ncols=2, fontsize=LABEL_SIZE)
        _confusion(right, confusion, classes)
        right.set_title(f"{classifier}: fraction of each true class", loc="left", fontsize=TITLE_SIZE)
        figure.colorbar(right.images[0], ax=right, shrink=0.8)
    return Path(out)


def _confusion(axes: Axes, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Draw the share of every class that was taken for each class."""
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = [name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(len(names)), [f"{name} ({count:,})" for name, count in zip(names, confusion.sum(axis=1), strict=True)]
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=colour)
