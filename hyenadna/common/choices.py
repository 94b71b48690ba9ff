"""Closed sets of values that options offer. A file of its own so that ``--help`` imports nothing else."""

from __future__ import annotations

SPLITS = ("train", "valid", "test")
"""Splits of a data set."""

FORMATS = ("auto", "table", "genomic-benchmarks", "fna", "deepsea", "species")
"""Layouts of labelled data that ``hyenadna finetune`` reads."""

TASKS = ("classification", "multilabel", "regression", "token")
"""Tasks of ``hyenadna finetune``."""

DEFAULT_METRIC = {
    "classification": "accuracy",
    "multilabel": "auroc",
    "regression": "pearson",
    "token": "accuracy",
}
"""Metric that decides on the best epoch, by task."""

METRICS = {
    "classification": ("accuracy", "mcc", "f1_macro", "f1_binary", "auroc", "auprc"),
    "multilabel": ("auroc", "auprc", "accuracy", "f1_macro", "auroc_tf", "auroc_dhs", "auroc_hm"),
    "regression": ("pearson", "spearman", "mse"),
    "token": ("accuracy", "mcc", "f1_macro"),
}
"""Metrics by task."""

MAX_MARKOV_ORDER = 12
"""Longest context of a Markov baseline, in bases."""

SCORES = {
    "likelihood": ("ref_log_likelihood", "alt_log_likelihood", "score"),
    "site": ("score",),
    "embedding": ("distance", "cosine_distance"),
}
"""Columns that ``hyenadna score`` writes for a variant, by mode."""

POOLINGS = ("mean", "last", "token")
"""Poolings of ``hyenadna embed``."""
