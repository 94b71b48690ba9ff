"""``hyenadna plot``: maps of embeddings, training curves, comparisons of fine-tunings, maps of a mutagenesis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyenadna.cli.plot_config import EmbeddingsPlot, MutagenesisPlot, ResultsPlot, TrainingPlot
from hyenadna.cli.probe import FOLDS, make_folds, overlap_lines, read_embeddings, read_twin
from hyenadna.common.errors import InputError
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import read_metrics
from hyenadna.common.vocab import BASES, LETTERS
from hyenadna.data.genome import open_genome
from hyenadna.data.sequences import window_around
from hyenadna.data.tables import partial_table
from hyenadna.drawing.embeddings import colour_classes, embedding_maps, pca_panel, tsne_panel, umap_panels
from hyenadna.drawing.figures import training_curves
from hyenadna.drawing.mutagenesis import mutagenesis_map
from hyenadna.evaluation.probe import classify, summarise
from hyenadna.finetuning.results import compare
from hyenadna.inference.embeddings import Embeddings
from hyenadna.inference.likelihood import LogLikelihoodScorer, load_language_model
from hyenadna.inference.mutagenesis import saturation_mutagenesis

# Bins of the probe have as many windows as there are folds.
_FEWEST_IN_BIN = 5


def draw_training(config: TrainingPlot) -> str:
    """Draw the curves of a pretraining run; returns a line on the figure.

    Raises:
        InputError: a file or option that does not fit.
    """
    config.check()
    training_curves(read_metrics(config.metrics), config.out)
    return f"training curves in {config.out}"


def draw_results(config: ResultsPlot) -> str:
    """Draw the test results of several fine-tunings; returns their table.

    Raises:
        InputError: a folder or option that does not fit.
    """
    config.check()
    return f"{compare(config.results, config.out)}\nfigure in {config.out}"


def draw_embeddings(config: EmbeddingsPlot, *, progress: bool = True) -> str:
    """Draw a map of embeddings; returns the accuracy of the probe, or why there is none, and what overlaps.

    Raises:
        InputError: a file or option that does not fit.
        ImportError: a package is absent; the message names the extra.
    """
    config.check()
    found = read_embeddings(config.embeddings, 3, "a map")
    twin = None if config.random is None else read_twin(config.random, found, config.embeddings)
    classes = colour_classes(
        config.colour,
        label=found.label,
        contig=found.contig,
        start=found.start,
        end=found.end,
        bins=config.position_bins,
        width=config.bin_width,
    )
    by = (["contig"] if config.probe_by_contig else list(config.probe_by)) if config.probe else []
    lines = _probe_lines(config, found, twin, classes, by) if by else []
    lines += overlap_lines(found, np.ones(len(found), dtype=bool), seed=config.seed, by=by)
    note = "\n".join(lines)
    grid, title = None, ""
    if config.method == "umap":
        rows = len(config.neighbors)
        total = rows * len(config.min_dist)
        with bar("umap", total, "panel", progress=progress and total > 1) as shown:
            panels = umap_panels(
                found.vectors, config.neighbors, config.min_dist, seed=config.seed, done=lambda: shown.update()
            )
        if total > 1:
            grid = [f"{k} neighbours" for k in config.neighbors], [f"distance {d:g}" for d in config.min_dist]
            title = f"UMAP of {len(found):,} sequences, by the number of neighbours and the least distance of points"
    else:
        panels, rows = [(pca_panel if config.method == "pca" else tsne_panel)(found.vectors, seed=config.seed)], 1
    legend = config.colour if config.bin_width is None else f"bin of {config.bin_width:,} bases"
    embedding_maps(
        panels,
        classes,
        config.out,
        rows=rows,
        legend=legend,
        ordered=config.colour == "position",
        top=5 if config.top is None and config.colour == "bin" else config.top,
        note=note,
        grid=grid,
        title=title,
    )
    return f"{note or f'{len(found):,} sequences'}{chr(10) if len(lines) > 1 else '; '}figure in {config.out}"


def _probe_lines(
    config: EmbeddingsPlot, found: Embeddings, twin: Embeddings | None, classes: np.ndarray, by: Sequence[str]
) -> list[str]:
    """How well the classes are told apart, by each kind of folds, and what has no part in it."""
    # What has no label is no class.
    rows = classes != ""
    left_out = [f"{int((~rows).sum()):,} without a {config.colour} left out"] if not rows.all() else []
    if config.colour == "bin":
        names, counts = np.unique(classes, return_counts=True)
        if (rare := rows & np.isin(classes, names[counts < _FEWEST_IN_BIN])).any() and not rare.all():
            rows &= ~rare
            left_out.append(f"{int(rare.sum()):,} in bins with fewer than {_FEWEST_IN_BIN} left out")
    lines = []
    for kind in by:
        name = "" if len(by) == 1 and kind != "block" and twin is None else f"{FOLDS[kind]}: "
        try:
            folds = make_folds(kind, classes[rows], found, rows, block=config.probe_block, seed=config.seed)
            text = summarise(classify(found.vectors[rows], classes[rows], folds)).describe()
        except InputError as error:
            lines.append(f"{name}{error}")
            continue
        name = name and f"{folds.name}: "
        if twin is not None:
            other = summarise(classify(twin.vectors[rows], classes[rows], folds))
            text += (
                f"; with random weights: nearest neighbours {other.neighbours:.4f}, logistic regression "
                f"{other.logistic:.4f}"
            )
        if folds.dropped:
            text += f"; {folds.dropped:.1%} left out of a fold, because they lie near its test"
        if unseen := folds.unseen(classes[rows]):
            text += f"; {unseen:.1%} of the tests have a class that the training lacks"
        lines.append(f"{name}{text}")
    if len(lines) == 1:
        return ["; ".join([*lines, *left_out])]
    return lines + left_out


def draw_mutagenesis(config: MutagenesisPlot, *, progress: bool = True) -> str:
    """Draw how every substitution in a region changes its likelihood; returns a line on the figure.

    Raises:
        InputError: a checkpoint, genome, region or option that does not fit.
    """
    config.check()
    contig, start, end = config.interval()
    with open_genome(config.genome, config.aliases, progress=progress) as genome:
        contig = genome.contig(contig).name
        if end > genome.contig(contig).length:
            raise InputError(f"`region` {config.region}: {contig} ends at {genome.contig(contig).length:,}")
        model = load_language_model(config.model, config.device, "float64")
        size = window_around(config.window, model.config.max_seq_len)
        if end - start > size:
            raise InputError(
                f"`region` {config.region}: holds {end - start:,} bases, more than the {size:,} of the window"
            )
        scorer = LogLikelihoodScorer(model, batch_size=config.batch_size)
        effects = saturation_mutagenesis(scorer, genome, contig, start, end, size)
        reference = "".join(LETTERS[i] for i in genome.tokens(contig, start, end).tolist())
    with partial_table(config.out.with_suffix(".tsv"), ["contig", "position", "base", *BASES]) as write:
        for position, (letter, column) in enumerate(zip(reference, effects.T.tolist(), strict=True), start=start + 1):
            write([contig, position, letter, *column])
    mutagenesis_map(effects, reference, f"{contig}:{start + 1:,}-{end:,}", config.out, rows=BASES)
    return f"{3 * len(reference)} changes of {contig}:{start + 1}-{end}; figure in {config.out}, values beside it"
