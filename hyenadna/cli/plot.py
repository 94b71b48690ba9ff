"""``hyenadna plot``: maps of embeddings, training curves, comparisons of fine-tunings, maps of a mutagenesis."""

from __future__ import annotations

import numpy as np

from hyenadna.cli.plot_config import EmbeddingsPlot, MutagenesisPlot, ResultsPlot, TrainingPlot
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.common.vocab import BASES, LETTERS
from hyenadna.data.genome import open_genome
from hyenadna.data.sequences import window_around
from hyenadna.data.tables import partial_table
from hyenadna.drawing.embeddings import colour_classes, embedding_maps, pca_panel, umap_panels
from hyenadna.drawing.figures import training_curves
from hyenadna.drawing.mutagenesis import mutagenesis_map
from hyenadna.evaluation.probe import probe
from hyenadna.finetuning.results import compare
from hyenadna.inference.embeddings import Embeddings
from hyenadna.inference.likelihood import LogLikelihoodScorer, load_language_model
from hyenadna.inference.mutagenesis import saturation_mutagenesis


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


def draw_embeddings(config: EmbeddingsPlot) -> str:
    """Draw a map of embeddings; returns a line with the accuracy of the probe, or why there is none.

    Raises:
        InputError: a file or option that does not fit.
        ImportError: a package is absent; the message names the extra.
    """
    config.check()
    found = Embeddings.read(config.embeddings)
    if len(found) < 3:
        raise InputError(f"{config.embeddings}: holds {len(found)} vectors; a map needs at least 3")
    if damaged := int((~np.isfinite(found.vectors).all(axis=1)).sum()):
        raise InputError(
            f"{config.embeddings}: {damaged:,} of {len(found):,} vectors hold NaN or infinity; embed with another "
            "checkpoint"
        )
    classes = colour_classes(
        config.colour,
        label=found.label,
        contig=found.contig,
        start=found.start,
        end=found.end,
        bins=config.position_bins,
    )
    line = ""
    if config.probe:
        # What has no label is no class.
        known = classes != ""
        try:
            groups = found.contig[known] if config.probe_by_contig else None
            line = probe(found.vectors[known], classes[known], groups, seed=config.seed).describe()
        except InputError as error:
            line = str(error)
        if not known.all():
            line = f"{line}; {int((~known).sum()):,} without a {config.colour} left out"
    if config.method == "umap":
        panels = umap_panels(found.vectors, config.neighbors, config.min_dist, seed=config.seed)
        rows = len(config.neighbors)
    else:
        panels, rows = [pca_panel(found.vectors, seed=config.seed)], 1
    is_ordered = config.colour == "position"
    embedding_maps(panels, classes, config.out, rows=rows, legend=config.colour, ordered=is_ordered, note=line)
    return f"{line or f'{len(found):,} sequences'}; figure in {config.out}"


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
