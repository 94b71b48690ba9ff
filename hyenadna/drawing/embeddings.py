"""Maps of embeddings: their projection to two dimensions, and the scatter plots of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.drawing.style import PALETTE, TITLE_SIZE, png_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 20
"""A legend is drawn for at most this many classes; matplotlib's largest palette has as many colours."""

# More points than this are drawn smaller.
_MANY_POINTS = 2000


class Panel(NamedTuple):
    """One map: its title and its points, float ``(n, 2)``."""

    title: str
    points: np.ndarray


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
        ImportError: scikit-learn is absent; the message names the extra.
    """
    pca = require("sklearn.decomposition").PCA(2, random_state=seed)
    points = pca.fit_transform(_standardised(vectors))
    return Panel(f"PCA, {pca.explained_variance_ratio_.sum():.0%} of the variance", points)


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
        legend: title of the legend, which is drawn for at most 20 classes.
        ordered: the classes are percentages in order and take a sequential palette.
        note: a line below the maps.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    columns = len(panels) // rows
    with png_figure(out, width=4.2 * columns + 1.6, height=4.2 * rows + 0.6) as figure:
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for ax, panel in zip(axes, panels, strict=True):
            _scatter(ax, panel.points, classes, ordered=ordered)
            ax.set_title(panel.title, loc="left", fontsize=TITLE_SIZE)
        if len(np.unique(classes)) <= MAX_CLASSES:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right upper", title=legend, markerscale=2.0)
        if note:
            figure.supxlabel(textwrap.fill(note, 76), fontsize=8.0, x=0.01, ha="left")
    return Path(out)


def _standardised(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = require("sklearn.preprocessing").StandardScaler().fit_transform(vectors)
    return scaled


def _scatter(axes: Axes, points: np.ndarray, classes: np.ndarray, *, ordered: bool) -> None:
    from matplotlib import colormaps

    names = np.unique(classes)
    palette: list[Any] = [*PALETTE]
    if ordered:
        names = np.array(sorted(names, key=lambda name: float(name.split("%")[0])))
        palette = [colormaps["viridis"](i / max(1, len(names) - 1)) for i in range(len(names))]
    elif len(names) > len(PALETTE):
        palette = [colormaps["tab20"](i % MAX_CLASSES) for i in range(len(names))]
    size = 3.0 if len(points) > _MANY_POINTS else 9.0
    for name, colour in zip(names, palette, strict=False):
        x, y = points[classes == name].T
        axes.scatter(x, y, s=size, color=colour, alpha=0.6, linewidths=0, label=name or "none")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
