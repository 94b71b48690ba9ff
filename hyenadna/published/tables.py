"""The published figures of the downstream tasks, table by table as they are printed.

Two tables print figures for the same datasets and do not agree: GPT on GenomicBenchmarks is one thing in Table 4.1 and
another in Table A.4. So every figure carries its table, and figures of two tables are never compared with each other.

Every figure is of one run and comes without an interval. Where the benchmark has no validation split, as
GenomicBenchmarks and the Nucleotide Transformer's, the test examples also chose the epoch, so the figure is optimistic.
"""

from __future__ import annotations

from hyenadna.published import enbed
from hyenadna.published.figure import Figure, parse

PAPER = "HyenaDNA (arXiv 2306.15794)"
"""Nguyen et al., "HyenaDNA: Long-Range Genomic Sequence Modeling at Single Nucleotide Resolution", 2023."""
THESIS = "Foundation models for cancer genomics with HyenaDNA (thesis)"

COMPARISON_TABLE = f"{PAPER}, Table 4.1"
"""GenomicBenchmarks beside other models. Its GPT differs from that of ``ABLATION_TABLE``."""
ABLATION_TABLE = f"{PAPER}, Table A.4"
"""GenomicBenchmarks with and without pretraining, k-mers and both directions."""


ROWS = {
    "pretrained": "HyenaDNA, pretrained on the human genome",
    "scratch": "HyenaDNA from random weights",
    "gpt": "GPT from random weights",
    "gpt-pretrained": "GPT, pretrained on the human genome",
    "kmer": "HyenaDNA with 6-mers, from random weights",
    "bidirectional": "HyenaDNA in both directions, from random weights",
    "cnn": "CNN of GenomicBenchmarks, from random weights",
    "frozen": "HyenaDNA, pretrained and not trained further: only the head learns",
    "transformer": "Transformer with FlashAttention",
    "dnabert": "DNABERT, 110 M parameters",
    "nt-500m": "Nucleotide Transformer, 500 M parameters, one genome",
    "nt-2.5b-3202": "Nucleotide Transformer, 2.5 B parameters, 3,202 human genomes",
    "nt-2.5b-850": "Nucleotide Transformer, 2.5 B parameters, genomes of 850 species",
    "deepsea": "DeepSEA, a CNN of 40 M parameters",
    "bigbird": "BigBird, 110 M parameters",
    **enbed.ROWS,
}
"""What the models of the rows are."""

# In the form of `parse`. For values that a table does not have, MISSING says why.

_ABLATIONS = """
dataset                gpt gpt-pretrained scratch pretrained kmer bidirectional dnabert
mouse-enhancers        79.3 79.3 84.7 85.1 81.8 80.6 66.9
coding-vs-intergenomic 89.3 91.2 90.9 91.3 86.7 90.3 92.5
human-vs-worm          94.8 96.6 96.4 96.6 92.9 95.9 96.5
enhancers-cohn         67.7 72.9 72.9 74.2 69.8 72.1 74.0
enhancers-ensembl      79.0 88.3 85.7 89.2 88.0 85.9 85.7
regulatory             90.2 91.8 90.4 93.8 90.2 89.1 88.1
nontata-promoters      85.2 90.1 93.3 96.6 83.5 88.5 85.6
ocr                    68.3 79.9 78.8 80.9 70.2 75.3 75.1
"""

_COMPARISON = """
dataset                cnn  dnabert gpt-pretrained pretrained
mouse-enhancers        69.0 66.9 80.1 85.1
coding-vs-intergenomic 87.6 92.5 88.8 91.3
human-vs-worm          93.0 96.5 95.6 96.6
enhancers-cohn         69.5 74.0 70.5 74.2
enhancers-ensembl      68.9 85.7 83.5 89.2
regulatory             93.3 88.1 91.5 93.8
nontata-promoters      84.6 85.6 87.7 96.6
ocr                    68.0 75.1 73.0 80.9
"""

_NUCLEOTIDE_TRANSFORMER = """
dataset           metric   nt-500m nt-2.5b-3202 nt-2.5b-850 pretrained
enhancer          mcc      53.5 59.3 58.0 62.6
enhancer-types    mcc      48.5 50.0 47.4 55.7
H3                mcc      73.7 77.6 81.4 81.7
H3K4me1           mcc      35.8 44.5 55.9 57.1
H3K4me2           mcc      28.1 30.0 32.6 53.9
H3K4me3           mcc      26.3 28.1 42.1 61.2
H3K9ac            mcc      46.2 50.8 57.5 65.1
H3K14ac           mcc      37.7 47.1 55.0 66.3
H3K36me3          mcc      46.7 53.3 63.2 65.3
H3K79me3          mcc      57.7 59.2 64.2 71.6
H4                mcc      76.2 78.9 82.2 79.6
H4ac              mcc      34.4 42.3 50.1 63.7
promoter-all      f1_macro 95.4 96.6 97.4 96.5
promoter-non-tata f1_macro 95.6 96.9 97.7 96.6
promoter-tata     f1_macro 94.8 95.8 96.4 96.7
splice-acceptor   f1_macro 96.5 98.5 99.0 96.6
splice-donor      f1_macro 97.2 98.2 98.4 97.3
splice-all        f1_macro 97.2 97.8 98.3 97.9
"""

_NUCLEOTIDE_TRANSFORMER_ABLATIONS = """
dataset           metric   nt-2.5b-850 gpt-pretrained pretrained scratch
enhancer          mcc      58.0 59.3 62.6 58.6
enhancer-types    mcc      47.4 51.9 55.7 48.4
H3                mcc      81.4 75.8 81.7 79.9
H3K4me1           mcc      55.9 38.7 57.1 43.4
H3K4me2           mcc      32.6 28.8 53.9 34.5
H3K4me3           mcc      42.1 28.3 61.2 40.2
H3K9ac            mcc      57.5 49.2 65.1 52.6
H3K14ac           mcc      55.0 41.6 66.3 48.0
H3K36me3          mcc      63.2 47.8 65.3 53.4
H3K79me3          mcc      64.2 58.9 71.6 59.7
H4                mcc      82.2 77.7 79.6 79.1
H4ac              mcc      50.1 36.4 63.7 43.5
promoter-all      f1_macro 97.4 96.3 96.5 96.1
promoter-non-tata f1_macro 97.7 96.6 96.6 96.5
promoter-tata     f1_macro 96.4 96.6 96.7 96.1
splice-acceptor   f1_macro 99.0 97.6 96.6 96.6
splice-donor      f1_macro 98.4 98.1 97.3 96.5
splice-all        f1_macro 98.3 98.0 97.9 97.3
"""

_CHROMATIN = """
dataset row        auroc_tf auroc_dhs auroc_hm
1k      deepsea    95.8 92.3 85.6
1k      pretrained 96.4 93.0 86.3
8k      bigbird    96.1 92.1 88.7
8k      pretrained 95.5 91.7 89.3
"""

_SPECIES = """
dataset transformer pretrained
1k      55.4 61.1
32k     88.9 93.4
250k    -    97.9
450k    -    99.4
1m      -    99.5
"""

_SPECIES_ABLATIONS = """
dataset scratch pretrained
1k      53.9 61.1
32k     70.7 93.4
250k    65.7 97.9
450k    71.4 99.4
"""

_BIOTYPES = """
dataset  dnabert nt-500m pretrained
biotypes 64.6 66.5 72.0
"""

_CANCER = """
dataset     pretrained scratch frozen
1k          52.68 - -
32k         54.62 - -
32k-scratch -     50 -
32k-frozen  -     -  -
"""

MISSING = {
    ("species", "250k", "transformer"): "training took too long",
    ("species", "450k", "transformer"): "training took too long",
    ("species", "1m", "transformer"): "training took too long",
    ("cancer", "32k-frozen", "frozen"): "the loss exploded",
}
"""Runs that a source names without a value, by benchmark, dataset and row, with its reason."""

TEST_SIZES = {
    ("genomic-benchmarks", "mouse-enhancers"): 242,
    ("genomic-benchmarks", "coding-vs-intergenomic"): 25_000,
    ("genomic-benchmarks", "human-vs-worm"): 25_000,
    ("genomic-benchmarks", "enhancers-cohn"): 6_948,
    ("genomic-benchmarks", "enhancers-ensembl"): 30_970,
    ("genomic-benchmarks", "regulatory"): 57_713,
    ("genomic-benchmarks", "nontata-promoters"): 9_034,
    ("genomic-benchmarks", "ocr"): 34_952,
}
"""Sequences of the published test splits: the rows of the benchmark's own tables (Gresova et al. 2023), counted in its
repository ML-Bioinfo-CEITEC/genomic_benchmarks. Other benchmarks have no split that all share."""


FIGURES: tuple[Figure, ...] = (
    *parse("genomic-benchmarks", ABLATION_TABLE, _ABLATIONS, "accuracy"),
    *parse("genomic-benchmarks", COMPARISON_TABLE, _COMPARISON, "accuracy"),
    *parse("nucleotide-transformer", f"{PAPER}, Table A.6", _NUCLEOTIDE_TRANSFORMER_ABLATIONS),
    *parse("nucleotide-transformer", f"{PAPER}, Table 4.2", _NUCLEOTIDE_TRANSFORMER),
    *parse("chromatin", f"{PAPER}, Table 4.3", _CHROMATIN),
    *parse("species", f"{PAPER}, Table A.11", _SPECIES_ABLATIONS, "accuracy"),
    *parse("species", f"{PAPER}, Table 4.5", _SPECIES, "accuracy"),
    *parse("biotypes", f"{PAPER}, Table 4.4", _BIOTYPES, "f1_weighted"),
    *parse("cancer", f"{THESIS}, Tables 3.4 and 3.5 and their text", _CANCER, "accuracy"),
    *enbed.FIGURES,
)
"""Every figure. A number that two tables print is there twice, once for each table."""


def figures(benchmark: str, dataset: str | None = None, row: str | None = None) -> list[Figure]:
    """The figures of a benchmark, and of one dataset or row of it, in the order of ``FIGURES``.

    Figures of several tables may fit. ``Figure.source`` tells them apart.
    """
    return [
        figure
        for figure in FIGURES
        if figure.benchmark == benchmark and dataset in (None, figure.dataset) and row in (None, figure.row)
    ]
