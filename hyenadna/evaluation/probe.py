"""How well simple classifiers tell labels apart by embeddings: the number below a map of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hyenadna.common.extras import require
from hyenadna.evaluation.folds import Folds, stratified_folds

Classifier = Literal["neighbours", "logistic", "trees"]
CLASSIFIERS: dict[str, str] = {
    "neighbours": "nearest neighbours",
    "logistic": "logistic regression",
    "trees": "gradient-boosted trees",
}
"""The classifiers of :func:`classify`, and their names in words."""

assert tuple(CLASSIFIERS) == get_args(Classifier)

PROBE_METRICS = ("f1_weighted", "f1_macro", "accuracy")
"""What :meth:`Probed.scores` measures."""

TREES_DIFFER = (
    "the trees are scikit-learn's HistGradientBoostingClassifier, which is not XGBoost: it bins columns into at most "
    "255 values, wants 20 rows in every leaf, and has no penalty on leaves"
)
"""How the trees differ from those of published probes, for outputs."""

TREE_DEPTH, TREE_RATE = 3, 0.1
"""Depth and learning rate of the trees."""


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


@dataclass(frozen=True)
class Probed:
    """Predictions of held-out rows.

    Attributes:
        labels: ``(n,)``, what is true.
        folds: the folds.
        guessed: predictions ``(n,)`` by the name of the classifier. Each row was predicted by the fold whose test
            holds it.
    """

    labels: np.ndarray
    folds: Folds
    guessed: dict[str, np.ndarray]

    def scores(self, classifier: str) -> list[dict[str, float]]:
        """Weighted F1, macro F1 and accuracy in each fold, by ``PROBE_METRICS``.

        The weighted F1 is the mean of the classes' F1 by their number of rows in the test. The macro F1 is their plain
        mean. A class without a row in the test of a fold is not among them.
        """
        f1 = require("sklearn.metrics").f1_score
        found = []
        for _, test in self.folds.pairs:
            true, guessed = self.labels[test], self.guessed[classifier][test]
            classes = np.unique(true)
            weighted, macro = (
                float(f1(true, guessed, labels=classes, average=kind, zero_division=0))
                for kind in ("weighted", "macro")
            )
            values = (weighted, macro, float((true == guessed).mean()))
            found.append(dict(zip(PROBE_METRICS, values, strict=True)))
        return found

    def accuracy(self, classifier: str) -> float:
        """Fraction of all rows whose prediction is right."""
        return float((self.guessed[classifier] == self.labels).mean())

    def confusion(self, classifier: str, classes: Sequence[Any]) -> np.ndarray:
        """How many rows of each class (first axis) were taken for each class, int64 ``(classes, classes)``."""
        found: np.ndarray = require("sklearn.metrics").confusion_matrix(
            self.labels, self.guessed[classifier], labels=list(classes)
        )
        return found


def classify(
    vectors: np.ndarray,
    labels: np.ndarray,
    folds: Folds,
    classifiers: Sequence[str] = ("neighbours", "logistic"),
    *,
    neighbours: int = 15,
    trees: int = 1000,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> Probed:
    """Predict the label of every row by classifiers that have not seen it.

    Neighbours and the regression see columns that are standardised by the training rows. The trees are scikit-learn's
    ``HistGradientBoostingClassifier`` with depth 3 and a learning rate of 0.1, without early stopping. Published probes
    use XGBoost, which differs: it has an L2 penalty of 1 on leaves, and allows leaves of a few rows, where this one
    wants 20.

    Args:
        vectors: float ``(n, D)``.
        labels: ``(n,)``, values of any kind.
        folds: the folds.
        classifiers: names of ``CLASSIFIERS``.
        neighbours: k of the nearest neighbours.
        trees: boosting rounds. Each has a tree for every class, or one tree for two classes.
        seed: seed of the trees.
        done: called after each classifier of each fold.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
    """
    make_pipeline = require("sklearn.pipeline").make_pipeline
    scaler = require("sklearn.preprocessing").StandardScaler
    knn = require("sklearn.neighbors").KNeighborsClassifier
    logistic = require("sklearn.linear_model").LogisticRegression
    boosting = require("sklearn.ensemble").HistGradientBoostingClassifier
    makers: dict[str, Callable[[int], Any]] = {
        "neighbours": lambda rows: make_pipeline(scaler(), knn(min(neighbours, rows))),
        "logistic": lambda rows: make_pipeline(scaler(), logistic(max_iter=1000)),
        "trees": lambda rows: boosting(
            max_iter=trees, max_depth=TREE_DEPTH, learning_rate=TREE_RATE, early_stopping=False, random_state=seed
        ),
    }
    guessed = {name: labels.copy() for name in classifiers}
    for train, test in folds.pairs:
        for name, out in guessed.items():
            out[test] = makers[name](len(train)).fit(vectors[train], labels[train]).predict(vectors[test])
            done()
    return Probed(labels, folds, guessed)


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
    return summarise(
        classify(vectors, labels, stratified_folds(labels, groups, folds=folds, seed=seed), neighbours=neighbours)
    )


def summarise(probed: Probed) -> ProbeResult:
    """The accuracies of nearest neighbours and of logistic regression over all folds."""
    counts = np.unique(probed.labels, return_counts=True)[1]
    near, linear = (probed.accuracy(name) for name in ("neighbours", "logistic"))
    samples = len(probed.labels)
    return ProbeResult(float(counts.max() / samples), near, linear, samples, len(counts), len(probed.folds))
