"""``hyenadna plot``: maps of embeddings, training curves, comparisons of fine-tunings, maps of a mutagenesis."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from hyenadna.cli.plot_config import EmbeddingsPlot, MutagenesisPlot, ResultsPlot, TrainingPlot
from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.run_layout import read_metrics
from hyenadna.data.genome import open_genome
from hyenadna.data.tables import partial_table
from hyenadna.drawing import figures as plot
from hyenadna.drawing.style import png_figure
from hyenadna.evaluation.probe import probe
from hyenadna.finetuning.results import compare
from hyenadna.inference.embeddings import Embeddings
from hyenadna.inference.likelihood import Likelihood, load_language_model
from hyenadna.inference.mutagenesis import BASES, mutation_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette, as in plot.py; what has more classes takes matplotlib's 20.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_MOST_CLASSES = 20


def draw_training(config: TrainingPlot) -> str:
    """Draw the curves of a pretraining run; returns a line on the picture.

    Raises:
        InputError: a file or option that does not fit.
    """
    config.check()
    plot.training_curves(read_metrics(config.metrics), config.out)
    return f"training curves in {config.out}"


def draw_results(config: ResultsPlot) -> str:
    """Draw what several fine-tunings reached; returns their table.

    Raises:
        InputError: a folder or option that does not fit.
    """
    config.check()
    return f"{compare(config.results, config.out)}\npicture in {config.out}"


def draw_embeddings(config: EmbeddingsPlot) -> str:
    """Draw a map of embeddings; returns a line on what it shows.

    Raises:
        InputError: a file or option that does not fit.
        ImportError: a package is absent; the message names the extra.
    """
    config.check()
    found = Embeddings.read(config.embeddings)
    if len(found) < 3:
        raise InputError(f"{config.embeddings}: {len(found)} vectors are no map; embed at least 3 sequences")
    colours = colour_classes(found, config.colour, config.position_bins)
    line = ""
    if config.probe:
        try:
            groups = found.contig if config.probe_by_contig else None
            line = probe(found.vectors, colours, groups, seed=config.seed).describe()
        except InputError as error:
            line = str(error)
    panels = project(found.vectors, config)
    rows = len(config.neighbors) if config.method == "umap" else 1
    with png_figure(config.out, width=4.2 * (len(panels) // rows) + 1.6, height=4.2 * rows + 0.6) as figure:
        axes = np.atleast_1d(figure.subplots(rows, len(panels) // rows)).ravel()
        for ax, (title, points) in zip(axes, panels, strict=True):
            _scatter(ax, points, colours, ordered=config.colour == "position")
            ax.set_title(title, loc="left", fontsize=10.0)
        if len(np.unique(colours)) <= _MOST_CLASSES:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right upper", title=config.colour, markerscale=2.0)
        if line:
            figure.supxlabel(textwrap.fill(line, 76), fontsize=8.0, x=0.01, ha="left")
    return f"{line or f'{len(found):,} sequences'}; picture in {config.out}"


def colour_classes(found: Embeddings, colour: str, bins: int) -> np.ndarray:
    """The class of each vector, str ``(n,)``: its label, its contig, or the bin of its place along the contig.

    Raises:
        InputError: there are no labels.
    """
    if colour == "contig":
        return found.contig
    if colour == "position":
        lengths = {name: max(1, int(found.end[found.contig == name].max())) for name in np.unique(found.contig)}
        reach = np.array([lengths[name] for name in found.contig])
        place = np.minimum((found.start + found.end) // 2 * bins // reach, bins - 1)
        return np.array([f"{i / bins:.0%} to {(i + 1) / bins:.0%}" for i in range(bins)])[place]
    if not (found.label != "").any():
        raise InputError(
            "the embeddings have no labels: choose another `colour`, or embed with --label_column or a BED"
        )
    return found.label


def project(vectors: np.ndarray, config: EmbeddingsPlot) -> list[tuple[str, np.ndarray]]:
    """Titles and points ``(n, 2)``: the first two principal components, or UMAP for each pair of settings.

    Vectors are standardised first, column by column.
    """
    scaled = require("sklearn.preprocessing").StandardScaler().fit_transform(vectors)
    if config.method == "pca":
        pca = require("sklearn.decomposition").PCA(2, random_state=config.seed)
        points = pca.fit_transform(scaled)
        return [(f"PCA, {pca.explained_variance_ratio_.sum():.0%} of the variance", points)]
    if max(config.neighbors) >= len(vectors):
        raise InputError(f"`neighbors` {max(config.neighbors)}: must be below the {len(vectors)} vectors there are")
    umap = require("umap").UMAP
    return [
        (
            f"UMAP, {neighbours} neighbours, distance {distance:g}",
            umap(n_neighbors=neighbours, min_dist=distance, random_state=config.seed, n_jobs=1).fit_transform(scaled),
        )
        for neighbours in config.neighbors
        for distance in config.min_dist
    ]


def _scatter(axes: Axes, points: np.ndarray, classes: np.ndarray, *, ordered: bool) -> None:
    from matplotlib import colormaps

    names = np.unique(classes)
    if ordered:
        names = np.array(sorted(names, key=lambda name: float(name.split("%")[0])))
    palette: list[Any] = (
        [*_PALETTE] if len(names) <= len(_PALETTE) else [colormaps["tab20"](i % 20) for i in range(len(names))]
    )
    if ordered:
        palette = [colormaps["viridis"](i / max(1, len(names) - 1)) for i in range(len(names))]
    size = 3.0 if len(points) > 2000 else 9.0
    for name, colour in zip(names, palette, strict=False):
        x, y = points[classes == name].T
        axes.scatter(x, y, s=size, color=colour, alpha=0.6, linewidths=0, label=name or "none")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def draw_mutagenesis(config: MutagenesisPlot, *, progress: bool = True) -> str:
    """Draw what every change of every base of a region does to its likelihood; returns a line on the picture.

    Raises:
        InputError: a checkpoint, genome, region or option that does not fit.
    """
    config.check()
    contig, start, end = config.interval()
    with open_genome(config.genome, progress=progress) as genome:
        model = load_language_model(config.model, config.device, "float64")
        longest, length = model.config.max_seq_len, genome.contig(contig).length
        if end > length:
            raise InputError(f"`region` {config.region}: {contig} ends at {length:,}")
        size = min(1024, longest) if config.window is None else config.window
        if not 2 <= size <= longest:
            raise InputError(f"`window` {size}: must be within 2 and the {longest} tokens that the model is made for")
        if end - start > size:
            raise InputError(
                f"`region` {config.region}: holds {end - start:,} bases, the window that the model reads only {size:,}"
            )
        effects = mutation_map(Likelihood(model, batch_size=config.batch_size), genome, contig, start, end, size)
        letters = ["ACGTN"[i - 7] for i in genome.tokens(contig, start, end).tolist()]
    with partial_table(config.out.with_suffix(".tsv"), ["contig", "position", "base", *BASES]) as write:
        for position, (letter, column) in enumerate(zip(letters, effects.T.tolist(), strict=True), start=start + 1):
            write([contig, position, letter, *column])
    reach = float(np.nanmax(np.abs(effects), initial=1e-9))
    with png_figure(config.out, width=max(6.0, 1.5 + 0.11 * len(letters)), height=2.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(effects, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(BASES)), list(BASES))
        if len(letters) <= 200:
            axes.set_xticks(range(len(letters)), letters, fontsize=6.0)
            axes.tick_params(axis="x", length=0)
        axes.set_xlabel(f"{contig}:{start + 1:,}-{end:,}")
        axes.set_title("change of the log-likelihood when a base is replaced", loc="left", fontsize=10.0)
        figure.colorbar(image, ax=axes, label="nats")
    return f"{3 * len(letters)} changes of {contig}:{start + 1}-{end}; picture in {config.out}, values beside it"
