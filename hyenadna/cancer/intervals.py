"""Metrics of classes with intervals from a bootstrap over lines, per sequence and per line.

Every metric is a function of sums over lines. So all resamples are a few matrix products with the number of times that
each line was drawn, and no prediction is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyenadna.common.extras import require

LEVEL = 0.95
"""Share of the resamples that lie within an interval."""

METRICS = ("accuracy", "mcc", "auroc")
"""Metrics with an interval."""

WHY_LINES = (
    "The intervals draw whole lines anew, those of each class among themselves. Sequences of one line share its "
    "mutations, its origin and its processing, so they are no independent samples: an interval that draws sequences "
    "would be far too narrow."
)
"""The reason of the bootstrap over lines, for a report."""


@dataclass(frozen=True)
class Estimate:
    """A metric: its value, and the ends of its interval. All are None where it has no value."""

    value: float | None
    low: float | None
    high: float | None

    def as_list(self) -> list[float | None]:
        """Value, lower end and upper end, for JSON."""
        return [self.value, self.low, self.high]


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of n items, which are sequences or lines.

    Attributes:
        scores: float64 ``(n, classes)``. A larger one means the class more. AUROC ranks by them.
        guessed: int64 ``(n,)``, the class that is chosen.
        labels: int64 ``(n,)``, the true class.
        lines: int64 ``(n,)``, the number of the line, from 0. All items of a line have one label.
    """

    scores: np.ndarray
    guessed: np.ndarray
    labels: np.ndarray
    lines: np.ndarray


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits, float64 ``(n, classes)``."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def log_odds(logs: np.ndarray) -> np.ndarray:
    """Log-odds of each class against all others, float64 ``(n, classes)``, from log-probabilities."""
    odds = np.empty_like(logs)
    for column in range(logs.shape[1]):
        others = np.delete(logs, column, axis=1)
        most = others.max(axis=1)
        odds[:, column] = logs[:, column] - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
    return odds


def per_sequence(logs: np.ndarray, labels: np.ndarray, lines: np.ndarray) -> Predictions:
    """The predictions of each sequence.

    Args:
        logs: float64 ``(n, classes)``, log-probabilities.
        labels: int64 ``(n,)``.
        lines: int64 ``(n,)``, the number of each sequence's line.
    """
    return Predictions(log_odds(logs), logs.argmax(axis=1), labels, lines)


def per_line(logs: np.ndarray, labels: np.ndarray, lines: np.ndarray) -> tuple[Predictions, Predictions]:
    """The predictions of each line: by the mean log-odds of its sequences, and by their majority vote.

    The vote of a line is a tie now and then. The mean log-odds decide it.

    Args:
        logs: float64 ``(n, classes)``, log-probabilities.
        labels: int64 ``(n,)``.
        lines: int64 ``(n,)``, numbers from 0 to the number of lines less one.
    """
    counts = np.bincount(lines)
    classes = logs.shape[1]
    line_labels = np.empty(len(counts), dtype=np.int64)
    line_labels[lines] = labels
    mean = _sums(log_odds(logs), lines) / counts[:, None]
    votes = _sums(np.eye(classes)[logs.argmax(axis=1)], lines) / counts[:, None]
    numbers = np.arange(len(counts))
    most = votes == votes.max(axis=1, keepdims=True)
    voted = np.where(most, mean, -np.inf).argmax(axis=1)
    return (
        Predictions(mean, mean.argmax(axis=1), line_labels, numbers),
        Predictions(votes, voted, line_labels, numbers),
    )


def _sums(values: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Sums over the rows of each line, ``(lines, columns)``."""
    return np.stack([np.bincount(lines, weights=column) for column in values.T], axis=1)


def draw_lines(line_labels: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each resample holds each line, float64 ``(1 + resamples, lines)``. The first row is the data.

    Lines are drawn with replacement within their class, because the split fixes the number of lines of each class.

    Args:
        line_labels: int64 ``(lines,)``.
        resamples: number of resamples.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, len(line_labels)))
    for label in np.unique(line_labels):
        rows = np.flatnonzero(line_labels == label)
        weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
    return weights


def resample(found: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric in every resample, float64 ``(1 + resamples,)``; NaN where it has no value.

    Accuracy is the share of right items. MCC is that of several classes (Gorodkin 2004), and 0 where all items have one
    label or one guess, as in scikit-learn. AUROC is the mean of each class against all others; of two classes both are
    the same.

    Args:
        found: the predictions.
        weights: see :func:`draw_lines`.
    """
    lines, classes = weights.shape[1], found.scores.shape[1]
    cells = np.zeros((lines, classes, classes))
    np.add.at(cells, (found.lines, found.labels, found.guessed), 1.0)
    tables = (weights @ cells.reshape(lines, -1)).reshape(-1, classes, classes)
    total = tables.sum(axis=(1, 2))
    right = np.trace(tables, axis1=1, axis2=2)
    true, guessed = tables.sum(axis=2), tables.sum(axis=1)
    spread = (total**2 - (true**2).sum(axis=1)) * (total**2 - (guessed**2).sum(axis=1))
    above = right * total - (true * guessed).sum(axis=1)
    mcc = np.divide(above, np.sqrt(spread), out=np.zeros_like(above), where=spread > 0)
    areas = [_areas(found, weights, label) for label in range(classes if classes > 2 else 1)]
    return {"accuracy": right / total, "mcc": mcc, "auroc": np.mean(areas, axis=0)}


def _areas(found: Predictions, weights: np.ndarray, label: int) -> np.ndarray:
    """The area under the curve of one class against the others, in each resample.

    ``wins[p, q]`` counts the pairs of an item of line p and one of line q in which the first has the larger score, and
    half of the ties. It does not depend on the resample.
    """
    is_own = found.labels == label
    scores = found.scores[:, label]
    own_lines, own_scores = found.lines[is_own], scores[is_own]
    lines = weights.shape[1]
    others = np.unique(found.lines[~is_own])
    wins = np.zeros((lines, lines))
    for line in others:
        ranked = np.sort(scores[(found.lines == line) & ~is_own])
        below = np.searchsorted(ranked, own_scores, side="left") + np.searchsorted(ranked, own_scores, side="right")
        wins[:, line] = np.bincount(own_lines, weights=below / 2, minlength=lines)
    own_counts = np.bincount(own_lines, minlength=lines).astype(np.float64)
    other_counts = np.bincount(found.lines[~is_own], minlength=lines).astype(np.float64)
    pairs = (weights @ own_counts) * (weights @ other_counts)
    won = ((weights @ wins) * weights).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def estimate(values: np.ndarray) -> Estimate:
    """The value of the data, which comes first, and the interval of the resamples behind it."""
    if not np.isfinite(values).all():
        return Estimate(None, None, None)
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) > 1 else (values[0],) * 2
    return Estimate(float(values[0]), float(low), float(high))


def estimates(values: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Value, lower end and upper end of each metric, for JSON."""
    return {name: estimate(found).as_list() for name, found in values.items()}


def exact_interval(right: int, count: int) -> list[float]:
    """The exact binomial interval (Clopper and Pearson 1934) of a share of lines.

    A bootstrap has no width where all lines are right, or none is. This one has.
    """
    found: Any = require("scipy.stats").binomtest(right, count).proportion_ci(LEVEL, "exact")
    return [float(found.low), float(found.high)]
