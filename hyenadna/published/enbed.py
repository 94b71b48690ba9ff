"""The published figures of ENBED, table by table, with what the paper leaves open or says twice.

Its figures for the tasks of GenomicBenchmarks and of the Nucleotide Transformer are figures like those of
:mod:`hyenadna.published.tables`. They are benchmarks of their own there: the paper gives accuracy where HyenaDNA's
gives Matthews' correlation, so one column never holds both. Its other studies have tables of their own shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyenadna.published.figure import Figure, parse

PAPER = "ENBED (arXiv 2311.02333)"
"""Malusare et al., "Understanding the natural language of DNA using encoder-decoder foundation models with byte-level
precision", 2024."""

ROWS = {
    "enbed": "ENBED from random weights",
    "enbed-pretrained": "ENBED, pretrained on six genomes",
    "hyenadna-by-enbed": "HyenaDNA as the ENBED paper gives it, on another scale than HyenaDNA's own paper",
}
"""What the models of the rows of ``FIGURES`` are."""

BENCHMARKS = {
    "genomic-benchmarks": "enbed-genomic-benchmarks",
    "nucleotide-transformer": "enbed-nucleotide-transformer",
}
"""The benchmarks of ``FIGURES``, by the benchmark of HyenaDNA with the same data."""

_GENOMIC_BENCHMARKS = """
dataset                enbed enbed-pretrained
mouse-enhancers        75.5 90.3
enhancers-cohn         54.3 71.2
enhancers-ensembl      83.3 92.2
coding-vs-intergenomic 84.2 93.0
human-vs-worm          90.8 97.3
regulatory             80.8 90.2
nontata-promoters      83.4 97.2
ocr                    64.3 81.9
"""

_NUCLEOTIDE_TRANSFORMER = """
dataset           enbed-pretrained hyenadna-by-enbed
H3                90.6 88.9
H3K14ac           81.4 80.9
H3K36me3          82.7 80.8
H3K4me1           77.9 75.8
H3K4me2           75.7 73.9
H3K4me3           77.9 77.5
H3K79me3          85.4 83.7
H3K9ac            82.6 79.3
H4                91.8 88.2
H4ac              80.5 78.4
promoter-all      98.0 96.0
promoter-non-tata 98.0 96.0
promoter-tata     96.8 94.1
splice-acceptor   95.8 95.8
splice-donor      95.4 95.8
enhancer          78.3 75.9
enhancer-types    70.0 59.5
"""

FIGURES: tuple[Figure, ...] = (
    *parse(BENCHMARKS["genomic-benchmarks"], f"{PAPER}, fine-tuning", _GENOMIC_BENCHMARKS, "accuracy"),
    *parse(BENCHMARKS["nucleotide-transformer"], f"{PAPER}, fine-tuning", _NUCLEOTIDE_TRANSFORMER, "accuracy"),
)
"""The figures of fine-tuning, which is also what ``hyenadna finetune --architecture enbed`` does."""

_BEST_OF = (
    "The abstract counts ENBED as the best on 22 of 25 tasks. The text says 15 of 17 here and 6 of 8 on "
    "GenomicBenchmarks, which is 21."
)
FINE_TUNING_NOTES = {
    BENCHMARKS["genomic-benchmarks"]: (
        "Accuracy of one run. How one vector is made of the encoder's output is not stated, nor the schedule of the "
        "unfreezing, nor what chose the epoch. " + _BEST_OF.replace("here and", "on the other tasks and")
    ),
    BENCHMARKS["nucleotide-transformer"]: (
        "The paper calls all of them accuracy. Its HyenaDNA is on another scale than HyenaDNA's own paper: H3 is 88.9 "
        "here, and 81.7 as Matthews' correlation there. So the two papers never share a column. " + _BEST_OF
    ),
}
"""What a reader must know of the figures of fine-tuning, by benchmark."""


@dataclass(frozen=True)
class Study:
    """A table of the paper that is no fine-tuning.

    Attributes:
        name: what ``results.json`` of the same study here has as ``study``.
        title: of its table.
        command: what measures it here.
        published_as: the metric of the published values, where the paper does not say which one it is. Empty where the
            columns are those of ``metrics``.
        metrics: metrics of the results here. Shares are from 0 to 1, distances in bases.
        rows: the published values in percent or bases, by method and metric. The metric is empty where it is that of
            ``published_as``.
        notes: inconsistencies of the paper and what it leaves open, a sentence or two each.
        counted: what can be counted without a model, on data of the origin that the paper names.
    """

    name: str
    title: str
    command: str
    published_as: str
    metrics: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]
    counted: Mapping[str, Mapping[str, float]]


DISTANCES = ("mean_distance", "median_distance")
"""Metrics that are no shares."""

_MUTATIONS = ("top1", "top5", *DISTANCES)

STUDIES = (
    Study(
        name="enbed-pretrain",
        title="ENBED: masked bytes predicted right",
        command="hyenadna enbed pretrain",
        published_as="",
        metrics=("masked_accuracy",),
        rows={
            "ENBED, 16,384 bytes, windows and global tokens": {"masked_accuracy": 77},
            "full attention, 512 bytes": {"masked_accuracy": 68},
        },
        notes=(
            "The two are of other lengths, so their difference is not that of the attention alone.",
            "No yardstick is published: a Markov model and the commonest base say what such a share is worth.",
            "The paper prints an epsilon of 10^6 for AdamW, which is read as 1e-6.",
        ),
        counted={},
    ),
    Study(
        name="enbed-noise",
        title="ENBED: noise in telomeres",
        command="hyenadna enbed noise",
        published_as="F1 or accuracy",
        metrics=("f1", "accuracy"),
        rows={"DNABERT": {"": 84.6}, "Nucleotide Transformer": {"": 91.2}, "ENBED": {"": 97.1}},
        notes=(
            "The table calls the values F1, the text overall accuracy.",
            "The 94 % of the text is the accuracy of the simulated reads, and no result.",
            "The published sequences are of TeloBase, which cannot be had. Those of the command are synthetic.",
        ),
        counted={},
    ),
    Study(
        name="enbed-annotate",
        title="ENBED: biotypes as text",
        command="hyenadna enbed annotate",
        published_as="F1",
        metrics=("macro_f1", "weighted_f1", "exact_match"),
        rows={
            "DNABERT": {"": 63.2},
            "Nucleotide Transformer": {"": 67.5},
            "HyenaDNA": {"": 72.8},
            "ENBED": {"": 74.1},
        },
        notes=(
            "Whether F1 is the mean over the classes (macro) or over the sequences (weighted) is not stated.",
            "The paper lists nine biotypes, and says ten elsewhere.",
            "How the sequences were split is not stated. The command holds whole chromosomes out.",
        ),
        counted={},
    ),
    Study(
        name="enbed-evolve",
        title="ENBED: mutations of influenza",
        command="hyenadna enbed evolve",
        published_as="",
        metrics=_MUTATIONS,
        rows={
            "Transformer with BPE": dict(zip(_MUTATIONS, (32.0, 56.1, 30.6, 24), strict=True)),
            "decoder only": dict(zip(_MUTATIONS, (53.1, 72.1, 6.1, 4), strict=True)),
            "ENBED": dict(zip(_MUTATIONS, (76.9, 95.4, 2.3, 1), strict=True)),
        },
        notes=(
            "Which pairs the paper tested on is not stated, nor whether equal pairs are among them.",
            "On the pairs of MutaGAN's tree, a mean distance of 2.3 is worse than that of the copied parent, 0.645.",
            "The text says H3N2, and the caption of its tree says H1.",
        ),
        counted={
            "copy of the parent, 3,152 pairs of MutaGAN's tree": {
                "top1": 63.6,
                "mean_distance": 0.645,
                "median_distance": 0,
            },
            "the same, the 1,148 differing pairs alone": {"top1": 0, "mean_distance": 1.77, "median_distance": 1},
        },
    ),
)
"""The other studies of the paper, in its order."""


@dataclass(frozen=True)
class Shape:
    """A model of the paper's table of sizes.

    Attributes:
        name: its row.
        encoder: layers of the encoder. 0 if there is none.
        decoder: layers of the decoder.
        d_model: width.
        d_kv: width of a head.
        heads: number of heads.
        d_ff: width of the feed-forward layers.
        stated: number of weights as the paper states it.
        top1: share of mutations that its first candidate is, in percent.
    """

    name: str
    encoder: int
    decoder: int
    d_model: int
    d_kv: int
    heads: int
    d_ff: int
    stated: str
    top1: float


SHAPES = (
    Shape("ENBED", 24, 12, 1536, 64, 16, 3850, "1.2 billion", 76.9),
    Shape("shallow", 12, 12, 1536, 64, 16, 3584, "800 million", 62.0),
    Shape("decoder only", 0, 24, 1536, 64, 16, 3584, "800 million", 53.1),
)
"""Table 6 of the paper."""

COUNTED = {"ENBED": (728.5, 941.4), "shallow": (491.4, 623.6)}
"""Millions of weights of LongT5 in these shapes, with feed-forward layers of relu and of gated gelu, counted here."""

SHAPE_NOTES = (
    "The stated 1.2 billion weights do not fit 24 layers of the encoder: LongT5 has 1,227.6 million with 36 of them, "
    "gated gelu and a d_ff of 3,840.",
    "A figure of the paper shows 12 heads and the name Base, where the table has 16 heads.",
    "The number of global tokens is not stated.",
)
"""Inconsistencies of the table of sizes."""
