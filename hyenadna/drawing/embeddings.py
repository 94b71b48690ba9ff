"""Maps of embeddings: their projection to two dimensions, and the scatter plots of it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.drawing.style import LABEL_SIZE, NONE, PALETTE, TITLE_SIZE, png_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 20
"""So many classes have a colour and a mark of their own. The rarest of more are drawn as one."""

# More points than this are drawn smaller.
_MANY_POINTS = 2000
# Colours and marks together tell classes apart, for readers who are colour-blind and in grey.
_COLOURS, _MARKS = PALETTE[:-1], "os^D"
# A limit leaves out at most this fraction of the points on each side, and two of few.
_OUTSIDE = 0.01
_FEWEST = 20
_LABEL = 24


class Panel(NamedTuple):
    """One map: its title, its points, float ``(n, 2)``, and the names of its axes."""

    title: str
    points: np.ndarray
    axes: tuple[str, str] = ("", "")


def colour_classes(
    colour: str, *, label: np.ndarray, contig: np.ndarray, start: np.ndarray, end: np.ndarray, bins: int
) -> np.ndarray:
    """The class of each sequence: its label, its contig, or the bin of its place along the contig.

    Args:
        colour: ``"label"``, ``"contig"`` or ``"position"``.
        label: str ``(n,)``, "" where a sequence has none.
        contig: str ``(n,)``.
        start: int ``(n,)``, 0-based.
        end: int ``(n,)``, exclusive.
        bins: number of bins along each contig. A contig ends where its last sequence ends.

    Returns:
        str ``(n,)``.

    Raises:
        InputError: no sequence has a label.
    """
    if colour == "contig":
        return contig
    if colour == "position":
        lengths = {name: max(1, int(end[contig == name].max())) for name in np.unique(contig)}
        reach = np.array([lengths[name] for name in contig])
        place = np.minimum((start + end) // 2 * bins // reach, bins - 1)
        return np.array([f"{i / bins:.0%} to {(i + 1) / bins:.0%}" for i in range(bins)])[place]
    if not (label != "").any():
        raise InputError("the embeddings have no labels: choose another `colour`, or embed with labels or a BED")
    return label


def pca_panel(vectors: np.ndarray, *, seed: int = 0) -> Panel:
    """The first two principal components of standardised columns.

    Args:
        vectors: float ``(n, D)``.
        seed: seed of the randomised solver.

    Raises:
        InputError: the vectors have one column, or are all the same.
        ImportError: scikit-learn is absent; the message names the extra.
    """
    if vectors.shape[1] < 2 or (vectors == vectors[0]).all():
        raise InputError("a map needs vectors of two columns or more that are not all the same")
    pca = require("sklearn.decomposition").PCA(2, random_state=seed)
    points = pca.fit_transform(_standardised(vectors))
    shares = pca.explained_variance_ratio_
    names = (f"component {i} ({share:.1%} of the variance)" for i, share in enumerate(shares, start=1))
    return Panel(f"PCA, {shares.sum():.0%} of the variance", points, (next(names), next(names)))


def umap_panels(
    vectors: np.ndarray, neighbors: Sequence[int], min_dist: Sequence[float], *, seed: int = 0
) -> list[Panel]:
    """UMAP of standardised columns, for every pair of settings.

    Args:
        vectors: float ``(n, D)``.
        neighbors: numbers of neighbours.
        min_dist: least distances between points.
        seed: seed of UMAP.

    Returns:
        A panel for each pair; ``min_dist`` varies fastest.

    Raises:
        InputError: a number of neighbours is not below n.
        ImportError: umap-learn or scikit-learn is absent; the message names the extra.
    """
    if max(neighbors) >= len(vectors):
        raise InputError(f"`neighbors` {max(neighbors)}: must be below the {len(vectors)} vectors there are")
    scaled = _standardised(vectors)
    umap = require("umap").UMAP
    return [
        Panel(
            f"UMAP, {neighbours} neighbours, distance {distance:g}",
            umap(n_neighbors=neighbours, min_dist=distance, random_state=seed, n_jobs=1).fit_transform(scaled),
        )
        for neighbours in neighbors
        for distance in min_dist
    ]


def embedding_maps(
    panels: Sequence[Panel],
    classes: np.ndarray,
    out: str | Path,
    *,
    rows: int = 1,
    legend: str = "",
    ordered: bool = False,
    note: str = "",
) -> Path:
    """Draw maps side by side, each class in a colour.

    Args:
        panels: the maps, row by row.
        classes: str ``(n,)``, the class of each point.
        out: the PNG to write.
        rows: rows of panels.
        legend: title of the legend. It names at most 20 classes, and the others together.
        ordered: the classes are percentages in order and take a sequential palette.
        note: a line below the maps. Points that lie far outside are drawn at the border, and counted there.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    columns = len(panels) // rows
    styles = _styles(classes, ordered=ordered)
    longest = max(len(line) for style in styles for line in style.label.split("\n"))
    width = 4.2 * columns + 0.8 + 0.075 * max(longest, len(legend))
    with png_figure(out, width=width, height=4.4 * rows + 0.6) as figure:
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        outside = sum(_scatter(ax, panel, styles) for ax, panel in zip(axes, panels, strict=True))
        handles, names = axes[0].get_legend_handles_labels()
        shown = slice(None, None, max(1, math.ceil(len(names) / MAX_CLASSES))) if ordered else slice(None)
        # The legend of one row of panels is as high as 22 lines of this size.
        size = min(LABEL_SIZE, LABEL_SIZE * 22 / sum(1 + style.label.count("\n") for style in styles[shown]))
        figure.legend(
            handles[shown], names[shown], loc="outside right upper", title=legend, markerscale=2.0, fontsize=size
        )
        if outside:
            mark = f"{outside:,} points lie far outside the map: triangles at its border point to them"
            note = f"{note}. {mark}" if note else mark
        if note:
            figure.supxlabel(textwrap.fill(note, int(18 * width)), fontsize=8.0, x=0.01, ha="left")
    return Path(out)


class _Style(NamedTuple):
    """How the points of a class are drawn: their rows, the name in the legend, colour and mark."""

    rows: np.ndarray
    label: str
    colour: Any
    mark: str


def _styles(classes: np.ndarray, *, ordered: bool) -> list[_Style]:
    """The classes as they are drawn, those without a name and the rarest of too many last, in grey."""
    from matplotlib import colormaps

    names, counts = np.unique(classes, return_counts=True)
    if ordered:
        names = np.array(sorted(names, key=lambda name: float(name.split("%")[0])))
        palette = [colormaps["viridis"](i / max(1, len(names) - 1)) for i in range(len(names))]
        return [_Style(classes == n, str(n), colour, "o") for n, colour in zip(names, palette, strict=True)]
    named = names != ""
    frequent = names[named]
    if len(frequent) > MAX_CLASSES:
        frequent = np.sort(frequent[np.argsort(-counts[named], kind="stable")[: MAX_CLASSES - 1]])
    styles = [
        _Style(classes == name, _wrapped(str(name)), _COLOURS[i % len(_COLOURS)], _MARKS[i // len(_COLOURS)])
        for i, name in enumerate(frequent)
    ]
    if others := int(named.sum()) - len(frequent):
        rest = (classes != "") & ~np.isin(classes, frequent)
        styles.append(_Style(rest, f"{others:,} other classes", NONE, "x"))
    if not named.all():
        styles.append(_Style(classes == "", "none", NONE, "o"))
    return styles


def _wrapped(name: str) -> str:
    """A label in at most two lines."""
    return "\n".join(textwrap.wrap(name, _LABEL, max_lines=2, placeholder=" …")) or name


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Limits of an axis that leave out a few points, if these lie so far away that all others would be squeezed."""
    low, high = float(values.min()), float(values.max())
    if len(values) >= _FEWEST:
        few = max(2, int(_OUTSIDE * len(values)))
        inner = np.sort(values)[few:-few]
        span = float(inner[-1] - inner[0])
        near = values[(values >= inner[0] - span) & (values <= inner[-1] + span)]
        low, high = float(near.min()), float(near.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _standardised(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = require("sklearn.preprocessing").StandardScaler().fit_transform(vectors)
    return scaled


def _scatter(axes: Axes, panel: Panel, styles: Sequence[_Style]) -> int:
    """Draw the points of a panel, and return how many of them lie outside of its limits."""
    points = panel.points
    limits = np.array([_limits(column) for column in points.T])
    inside = np.clip(points, *limits.T)
    beyond = np.sign(points - inside)
    # The triangle of a point in a corner points to the side.
    marks = np.select([beyond[:, 0] < 0, beyond[:, 0] > 0, beyond[:, 1] < 0, beyond[:, 1] > 0], list("<>v^"), "")
    size = 3.0 if len(points) > _MANY_POINTS else 9.0
    for rows, label, colour, mark in styles:
        for shape in np.unique(marks[rows]):
            x, y = inside[rows & (marks == shape)].T
            if shape:
                axes.scatter(
                    x, y, s=40.0, color=colour, marker=shape, edgecolors="black", linewidths=0.6, clip_on=False
                )
            else:
                axes.scatter(x, y, s=size, color=colour, marker=mark, alpha=0.6, linewidths=0.8 * (mark == "x"))
        # Drawn for the legend alone: a class may have no point inside.
        axes.scatter([], [], s=9.0, color=colour, marker=mark, linewidths=0.8 * (mark == "x"), label=label)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set_title(panel.title, loc="left", fontsize=TITLE_SIZE)
    axes.set_xlabel(panel.axes[0], fontsize=LABEL_SIZE)
    axes.set_ylabel(panel.axes[1], fontsize=LABEL_SIZE)
    axes.set_xticks([])
    axes.set_yticks([])
    return int((marks != "").sum())
