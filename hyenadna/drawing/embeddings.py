"""Maps of embeddings: their projection to two dimensions, and the scatter plots of it."""

from __future__ import annotations

import copy
import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
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
# Below so many vectors UMAP computes the distances of all pairs.
_EXACT = 4096
# Sides of a panel alone and of one among many, in inches, and the width of many.
_SIDE, _LEAST_SIDE, _WIDTH = 4.2, 2.0, 12.6


class Panel(NamedTuple):
    """One map: its title, its points, float ``(n, 2)``, and the names of its axes."""

    title: str
    points: np.ndarray
    axes: tuple[str, str] = ("", "")


def colour_classes(
    colour: str,
    *,
    label: np.ndarray,
    contig: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    bins: int,
    width: int | None = None,
) -> np.ndarray:
    """The class of each sequence: its label, its contig, or the bin that holds the middle of the sequence.

    Args:
        colour: ``"label"``, ``"contig"``, ``"position"`` for the place along any contig, or ``"bin"`` for the contig
            and the number of the bin in it, such as chr1_7. The first has the number 0.
        label: str ``(n,)``, "" where a sequence has none.
        contig: str ``(n,)``.
        start: int ``(n,)``, 0-based.
        end: int ``(n,)``, exclusive.
        bins: number of bins along each contig. A contig ends where its last sequence ends.
        width: bases of a bin of the colour ``"bin"``, in place of ``bins``.

    Returns:
        str ``(n,)``. What has no label, or no contig for its bin, is "".

    Raises:
        InputError: no sequence has a label, or no contig for its bin.
    """
    if colour == "contig":
        return contig
    if colour in ("position", "bin"):
        if colour == "bin" and not (contig != "").any():
            raise InputError("the embeddings have no positions: embed a BED, or a table with `position_columns`")
        lengths = {name: max(1, int(end[contig == name].max())) for name in np.unique(contig)}
        reach = np.array([lengths[name] for name in contig])
        middle = (start + end) // 2
        place = np.minimum(middle * bins // reach, bins - 1) if width is None else middle // width
        if colour == "bin":
            return np.array([f"{name}_{i}" if name else "" for name, i in zip(contig, place, strict=True)])
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
    _check_columns(vectors)
    pca = require("sklearn.decomposition").PCA(2, random_state=seed)
    points = pca.fit_transform(_standardised(vectors))
    shares = pca.explained_variance_ratio_
    names = (f"component {i} ({share:.1%} of the variance)" for i, share in enumerate(shares, start=1))
    return Panel(f"PCA, {shares.sum():.0%} of the variance", points, (next(names), next(names)))


def _check_columns(vectors: np.ndarray) -> None:
    if vectors.shape[1] < 2 or (vectors == vectors[0]).all():
        raise InputError("a map needs vectors of two columns or more that are not all the same")


def tsne_panel(vectors: np.ndarray, *, seed: int = 0) -> Panel:
    """t-SNE of standardised columns, with a perplexity of 30, or a third of the other points if these are few.

    Args:
        vectors: float ``(n, D)``.
        seed: seed of t-SNE.

    Raises:
        InputError: see :func:`pca_panel`.
        ImportError: scikit-learn is absent; the message names the extra.
    """
    _check_columns(vectors)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = require("sklearn.manifold").TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return Panel(f"t-SNE, perplexity {perplexity:.3g}", tsne.fit_transform(_standardised(vectors)))


def umap_panels(
    vectors: np.ndarray,
    neighbors: Sequence[int],
    min_dist: Sequence[float],
    *,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> list[Panel]:
    """UMAP of standardised columns, for every pair of settings.

    The nearest neighbours are looked for once for the panels that can share them. Points are those of UMAP alone, bit
    by bit: a panel depends on its own settings, and not on the other panels.

    Args:
        vectors: float ``(n, D)``.
        neighbors: numbers of neighbours.
        min_dist: least distances between points.
        seed: seed of UMAP.
        done: called after each panel.

    Returns:
        A panel for each pair; ``min_dist`` varies fastest.

    Raises:
        InputError: a number of neighbours is not below n.
        ImportError: umap-learn or scikit-learn is absent; the message names the extra.
    """
    if max(neighbors) >= len(vectors):
        raise InputError(f"`neighbors` {max(neighbors)}: must be below the {len(vectors)} vectors there are")
    umap = require("umap").UMAP
    found = _Neighbours(_standardised(vectors), max(neighbors), seed, shared=len(neighbors) * len(min_dist) > 1)
    panels = []
    for neighbours in neighbors:
        more = found.arguments(neighbours)
        for distance in min_dist:
            # Every panel begins with the same random numbers.
            fit = umap(n_neighbors=neighbours, min_dist=distance, n_jobs=1, **copy.deepcopy(more))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "precomputed_knn")
                points = fit.fit_transform(found.vectors)
            panels.append(Panel(f"UMAP, {neighbours} neighbours, distance {distance:g}", points))
            done()
    return panels


class _Neighbours:
    """The nearest neighbours that UMAP would look for itself, for several panels.

    UMAP computes all distances below 4,096 vectors. Their neighbours are then the first of a longer list. With more
    vectors it approximates, and another number of neighbours has another list.
    """

    def __init__(self, vectors: np.ndarray, most: int, seed: int, *, shared: bool) -> None:
        self.vectors = vectors
        self._seed, self._shared = seed, shared
        self._nearest: tuple[np.ndarray, np.ndarray] | None = None
        if shared and len(vectors) < _EXACT:
            measure = require("umap").distances.named_distances["euclidean"]
            # The vectors as UMAP itself reads them.
            distances = require("sklearn.metrics").pairwise_distances(vectors.astype(np.float32), metric=measure)
            self._nearest = self._search(distances, most, "precomputed", None)[:2]

    def arguments(self, neighbours: int) -> dict[str, Any]:
        """Arguments of UMAP for so many neighbours."""
        if not self._shared:
            return {"random_state": self._seed}
        if self._nearest is not None:
            indices, distances = (array[:, :neighbours].copy() for array in self._nearest)
            return {"random_state": self._seed, "precomputed_knn": (indices, distances, None)}
        # The search takes the first of the random numbers, and the map the next.
        random = np.random.RandomState(self._seed)
        nearest = self._search(self.vectors.astype(np.float32), neighbours, "euclidean", random)
        return {"random_state": random, "precomputed_knn": (*nearest[:2], None)}

    @staticmethod
    def _search(vectors: np.ndarray, most: int, metric: str, random: Any) -> Any:
        search = require("umap").umap_.nearest_neighbors
        return search(vectors, most, metric, {}, False, random, low_memory=True, use_pynndescent=True, n_jobs=1)


def embedding_maps(
    panels: Sequence[Panel],
    classes: np.ndarray,
    out: str | Path,
    *,
    rows: int = 1,
    legend: str = "",
    ordered: bool = False,
    top: int | None = None,
    note: str = "",
    grid: tuple[Sequence[str], Sequence[str]] | None = None,
    title: str = "",
) -> Path:
    """Draw maps side by side, each class in a colour.

    Args:
        panels: the maps, row by row.
        classes: str ``(n,)``, the class of each point.
        out: the PNG to write.
        rows: rows of panels.
        legend: title of the legend. It names at most 20 classes, and the others together.
        ordered: the classes are percentages in order and take a sequential palette.
        top: pick out so many of the most frequent classes, 20 at most. The others are grey, and lie below them.
        note: lines below the maps. Points that lie far outside are drawn at the border, and counted there.
        grid: names of the rows and of the columns, in place of a title of each panel.
        title: the title of a grid.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    columns = len(panels) // rows
    styles = _styles(classes, ordered=ordered, top=top)
    longest = max(len(line) for style in styles for line in style.label.split("\n"))
    side = _SIDE if columns <= _WIDTH // _SIDE else max(_LEAST_SIDE, _WIDTH / columns)
    width = side * columns + 0.8 + 0.075 * max(longest, len(legend))
    with png_figure(out, width=width, height=(side + 0.2) * rows + 0.6 + 0.15 * note.count("\n")) as figure:
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        outside = sum(_scatter(ax, panel, styles, side / _SIDE) for ax, panel in zip(axes, panels, strict=True))
        handles, names = axes[0].get_legend_handles_labels()
        shown = slice(None, None, max(1, math.ceil(len(names) / MAX_CLASSES))) if ordered else slice(None)
        # The legend of one row of panels is as high as 22 lines of this size.
        size = min(LABEL_SIZE, LABEL_SIZE * 22 / sum(1 + style.label.count("\n") for style in styles[shown]))
        figure.legend(
            handles[shown], names[shown], loc="outside right upper", title=legend, markerscale=2.0, fontsize=size
        )
        if grid is not None:
            for i, ax in enumerate(axes):
                ax.set_title("", loc="left")
                ax.set_title(grid[1][i] if i < columns else "", fontsize=TITLE_SIZE)
                ax.set_ylabel(grid[0][i // columns] if i % columns == 0 else "", fontsize=TITLE_SIZE)
            figure.suptitle(title, fontsize=TITLE_SIZE + 1, x=0.01, ha="left")
        if outside:
            where = "the map" if len(panels) == 1 else "their map"
            mark = f"{outside:,} points lie far outside {where}: triangles at its border point to them"
            note = f"{note}. {mark}" if note and "\n" not in note else "\n".join(filter(None, (note, mark)))
        if note:
            lines = (textwrap.fill(line, int(16 * width)) for line in note.split("\n"))
            figure.supxlabel("\n".join(lines), fontsize=8.0, x=0.01, ha="left")
    return Path(out)


class _Style(NamedTuple):
    """How the points of a class are drawn: their rows, the name in the legend, colour, mark, and what lies on top."""

    rows: np.ndarray
    label: str
    colour: Any
    mark: str
    order: float = 1.0


def _styles(classes: np.ndarray, *, ordered: bool, top: int | None = None) -> list[_Style]:
    """The classes as they are drawn, those without a name and the rarest of too many last, in grey."""
    from matplotlib import colormaps

    names, counts = np.unique(classes, return_counts=True)
    if ordered:
        names = np.array(sorted(names, key=lambda name: float(name.split("%")[0])))
        palette = [colormaps["viridis"](i / max(1, len(names) - 1)) for i in range(len(names))]
        return [_Style(classes == n, str(n), colour, "o") for n, colour in zip(names, palette, strict=True)]
    named = names != ""
    frequent = names[named]
    most = MAX_CLASSES - 1 if top is None and len(frequent) > MAX_CLASSES else top
    if most is not None:
        frequent = np.sort(frequent[np.argsort(-counts[named], kind="stable")[:most]])
    order = 1.0 if top is None else 2.0
    styles = [
        _Style(classes == name, _wrapped(str(name)), _COLOURS[i % len(_COLOURS)], _MARKS[i // len(_COLOURS)], order)
        for i, name in enumerate(frequent)
    ]
    if others := int(named.sum()) - len(frequent):
        rest = (classes != "") & ~np.isin(classes, frequent)
        styles.append(_Style(rest, f"{others:,} other classes", NONE, "x" if top is None else "o"))
    if not named.all():
        styles.append(_Style(classes == "", "none", NONE, "o" if top is None else "x"))
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


def _scatter(axes: Axes, panel: Panel, styles: Sequence[_Style], scale: float = 1.0) -> int:
    """Draw the points of a panel, smaller by ``scale``, and return how many lie outside of its limits."""
    points = panel.points
    limits = np.array([_limits(column) for column in points.T])
    inside = np.clip(points, *limits.T)
    beyond = np.sign(points - inside)
    # The triangle of a point in a corner points to the side.
    marks = np.select([beyond[:, 0] < 0, beyond[:, 0] > 0, beyond[:, 1] < 0, beyond[:, 1] > 0], list("<>v^"), "")
    size = (3.0 if len(points) > _MANY_POINTS else 9.0) * scale
    for rows, label, colour, mark, order in styles:
        for shape in np.unique(marks[rows]):
            x, y = inside[rows & (marks == shape)].T
            if shape:
                edge: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.6 * scale, "clip_on": False}
                axes.scatter(x, y, s=40.0 * scale**2, color=colour, marker=shape, zorder=order, **edge)
            else:
                line = 0.8 * scale * (mark == "x")
                axes.scatter(x, y, s=size, color=colour, marker=mark, alpha=0.6, linewidths=line, zorder=order)
        # Drawn for the legend alone: a class may have no point inside.
        axes.scatter([], [], s=9.0, color=colour, marker=mark, linewidths=0.8 * (mark == "x"), label=label)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set_title(panel.title, loc="left", fontsize=TITLE_SIZE)
    axes.set_xlabel(panel.axes[0], fontsize=LABEL_SIZE)
    axes.set_ylabel(panel.axes[1], fontsize=LABEL_SIZE)
    axes.set_xticks([])
    axes.set_yticks([])
    return int((marks != "").sum())
