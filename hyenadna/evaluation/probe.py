"""How well simple classifiers tell labels apart by embeddings: the number below a map of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require


@dataclass(frozen=True)
class ProbeResult:
    """Cross-validated accuracies of nearest neighbours and of logistic regression.

    ``majority`` is the accuracy of a classifier that always chooses the most frequent class.
    """

    majority: float
    neighbours: float
    logistic: float
    samples: int
    classes: int
    folds: int

    def describe(self) -> str:
        """The result in one line."""
        return (
            f"{self.samples:,} sequences of {self.classes} classes, {self.folds} folds: nearest neighbours "
            f"{self.neighbours:.4f}, logistic regression {self.logistic:.4f}, majority {self.majority:.4f}"
        )


def probe(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    folds: int = 5,
    neighbours: int = 15,
    seed: int = 0,
) -> ProbeResult:
    """Cross-validate k nearest neighbours and logistic regression on standardised vectors.

    Args:
        vectors: float ``(n, D)``.
        labels: ``(n,)``, values of any kind.
        groups: ``(n,)``. A group, such as a contig, is never in training and test at once. By default folds are random
            and have the same fraction of each class.
        folds: number of folds. There are fewer if a class has fewer samples or there are fewer groups.
        neighbours: k.
        seed: seed of the folds.

    Raises:
        InputError: there are fewer than two classes, a class has one sample, or there is a single group.
        ImportError: scikit-learn is absent; the message names the extra.
    """
    selection = require("sklearn.model_selection")
    pipeline = require("sklearn.pipeline")
    scaler = require("sklearn.preprocessing").StandardScaler
    knn = require("sklearn.neighbors").KNeighborsClassifier
    logistic = require("sklearn.linear_model").LogisticRegression
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"a probe needs at least two classes; every label is {str(classes[0])!r}")
    folds = min(folds, int(counts.min()))
    if groups is not None:
        folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        rare = classes[counts.argmin()]
        raise InputError(
            f"a probe needs at least two folds: the class {str(rare)!r} has too few sequences, or groups are too few"
        )
    if groups is None:
        split = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    else:
        split = selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    guessed: list[np.ndarray] = [labels.copy(), labels.copy()]
    for train, test in split.split(vectors, labels, groups):
        models: list[Any] = [
            pipeline.make_pipeline(scaler(), knn(min(neighbours, len(train)))),
            pipeline.make_pipeline(scaler(), logistic(max_iter=1000)),
        ]
        if len(np.unique(labels[train])) < 2:
            raise InputError("a probe needs two classes in every fold: the groups hold one class each")
        for model, out in zip(models, guessed, strict=True):
            out[test] = model.fit(vectors[train], labels[train]).predict(vectors[test])
    near, linear = (float((out == labels).mean()) for out in guessed)
    return ProbeResult(float(counts.max() / len(labels)), near, linear, len(labels), len(classes), folds)
