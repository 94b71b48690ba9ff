"""Closed sets of values that options offer. A file of its own so that ``--help`` imports nothing else."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""Splits of a data set."""

Format = Literal["auto", "table", "tables", "genomic-benchmarks", "fna", "deepsea", "species"]
"""Layouts of labelled data that ``hyenadna finetune`` reads."""

Task = Literal["classification", "multilabel", "regression", "token"]
"""Tasks of ``hyenadna finetune``."""

Keep = Literal["start", "middle", "end"]
"""What is kept of a sequence that is cut to a length."""

Autocast = Literal["auto", "off", "bfloat16", "float16"]
"""Precision of the matrix products; ``auto`` is bfloat16 on a GPU and off on a CPU."""

Precision = Literal["float32", "float64"]
"""Precision of a model's weights and activations."""

METRICS = {
    "classification": ("accuracy", "mcc", "f1_macro", "f1_binary", "auroc", "auprc"),
    "multilabel": ("auroc", "auprc", "accuracy", "f1_macro", "auroc_tf", "auroc_dhs", "auroc_hm"),
    "regression": ("pearson", "spearman", "mse"),
    "token": ("accuracy", "mcc", "f1_macro"),
}
"""Metrics by task. By default the first one decides on the best epoch."""

MAX_MARKOV_ORDER = 24
"""Longest context of a Markov baseline, in bases."""

ScoreMode = Literal["likelihood", "site", "embedding"]
SCORES: dict[ScoreMode, tuple[str, ...]] = {
    "likelihood": ("ref_log_likelihood", "alt_log_likelihood", "score"),
    "site": ("score",),
    "embedding": ("distance", "cosine_distance"),
}
"""Columns that ``hyenadna score`` writes for a variant, by mode."""

Pooling = Literal["mean", "last", "token"]
"""Poolings of ``hyenadna embed``: one vector a sequence, or ``token`` for one a base."""
