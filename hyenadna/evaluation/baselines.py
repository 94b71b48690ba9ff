"""Baselines on labelled sequences: the commonest class, and logistic regression on 5-mer counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyenadna.common.extras import require
from hyenadna.common.vocab import NUCLEOTIDE_IDS
from hyenadna.data.dataset import LabelledDataset

K = 5
STRENGTHS = (1.0, 0.1, 0.01, 0.001)
"""Inverse strengths of regularisation (C of scikit-learn), of which validation chooses one."""


def kmer_counts(sequences: list[np.ndarray], k: int = K) -> np.ndarray:
    """Counts of each word of ``k`` bases, float32 ``(n, 4**k)``. Words with an N are not counted."""
    counts = np.zeros((len(sequences), 4**k), dtype=np.float32)
    for row, ids in zip(counts, sequences, strict=True):
        if len(ids) < k:
            continue
        bases = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64) - NUCLEOTIDE_IDS["A"], k)
        words = bases[(bases < 4).all(axis=1)] @ 4 ** np.arange(k - 1, -1, -1)
        row += np.bincount(words, minlength=4**k)
    return counts


def fit_logistic(
    train: np.ndarray, labels: np.ndarray, valid: np.ndarray, valid_labels: np.ndarray
) -> tuple[dict[float, Any], float]:
    """Logistic regressions on standardised features, one for each of STRENGTHS.

    Args:
        train: features of the training examples, ``(n, features)``.
        labels: their classes, int64 ``(n,)``.
        valid: features of the validation examples.
        valid_labels: their classes.

    Returns:
        The fitted pipelines by strength, and the strength with the best accuracy on validation, the first of equal
        ones.
    """
    make_pipeline = require("sklearn.pipeline").make_pipeline
    scaler = require("sklearn.preprocessing").StandardScaler
    logistic = require("sklearn.linear_model").LogisticRegression
    fitted = {
        strength: make_pipeline(scaler(), logistic(C=strength, max_iter=2000)).fit(train, labels)
        for strength in STRENGTHS
    }
    return fitted, max(fitted, key=lambda strength: float(fitted[strength].score(valid, valid_labels)))


def baseline_accuracies(train: LabelledDataset, valid: LabelledDataset, test: LabelledDataset) -> dict[str, float]:
    """Test accuracy of the commonest class of training, and of logistic regression on standardised 5-mer counts.

    The regression is fitted with scikit-learn's default strength of regularisation, and with the strength that is best
    on the validation split.

    Args:
        train: training split, with classes as labels.
        valid: validation split.
        test: test split.

    Returns:
        Accuracy from 0 to 1 by the name of the baseline.
    """
    train_labels, valid_labels, test_labels = (np.asarray(split.labels) for split in (train, valid, test))
    train_counts, valid_counts, test_counts = (kmer_counts(split.sequences) for split in (train, valid, test))
    fitted, best = fit_logistic(train_counts, train_labels, valid_counts, valid_labels)
    default, chosen = (float(fitted[strength].score(test_counts, test_labels)) for strength in (1.0, best))
    return {
        "majority class": float((test_labels == np.bincount(train_labels).argmax()).mean()),
        f"logistic regression on {K}-mers": default,
        f"logistic regression on {K}-mers, C = {best:g} by validation": chosen,
    }
