"""What simple models reach on labelled sequences: the commonest class, and logistic regression on 5-mer counts."""

from __future__ import annotations

import numpy as np

from hyenadna.common.extras import require
from hyenadna.common.vocab import NUCLEOTIDE_IDS
from hyenadna.data.dataset import LabelledDataset

K = 5


def kmer_counts(sequences: list[np.ndarray], k: int = K) -> np.ndarray:
    """How often each word of ``k`` bases occurs, float32 ``(n, 4**k)``; words with an N are left out."""
    counts = np.zeros((len(sequences), 4**k), dtype=np.float32)
    for row, ids in zip(counts, sequences, strict=True):
        if len(ids) < k:
            continue
        bases = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64) - NUCLEOTIDE_IDS["A"], k)
        words = bases[(bases < 4).all(axis=1)] @ 4 ** np.arange(k - 1, -1, -1)
        row += np.bincount(words, minlength=4**k)
    return counts


def yardsticks(train: LabelledDataset, valid: LabelledDataset, test: LabelledDataset) -> dict[str, float]:
    """Test accuracy of always guessing training's commonest class, and of logistic regression on standardised counts.

    The regression is there twice: with scikit-learn's own strength of regularisation, and with that which is best on
    the validation split.

    Args:
        train: examples of classes.
        valid: the same.
        test: the same.
    """
    make_pipeline = require("sklearn.pipeline").make_pipeline
    scaler = require("sklearn.preprocessing").StandardScaler
    logistic = require("sklearn.linear_model").LogisticRegression
    expected, found = np.asarray(test.labels), np.asarray(train.labels)
    counts, held_out, asked = (kmer_counts(split.sequences) for split in (train, valid, test))
    fitted = {
        strength: make_pipeline(scaler(), logistic(C=strength, max_iter=2000)).fit(counts, found)
        for strength in (1.0, 0.1, 0.01, 0.001)
    }
    best = max(fitted, key=lambda strength: fitted[strength].score(held_out, np.asarray(valid.labels)))
    return {
        "majority class": float((expected == np.bincount(found).argmax()).mean()),
        f"logistic regression on {K}-mers": float(fitted[1.0].score(asked, expected)),
        f"logistic regression on {K}-mers, C = {best:g} by validation": float(fitted[best].score(asked, expected)),
    }
