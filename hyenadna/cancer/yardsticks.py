"""Yardsticks: what simple classifiers reach from the number of mutations, the position, or short words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyenadna.cancer.intervals import log_probabilities
from hyenadna.cancer.study_data import StudyData, Windows
from hyenadna.evaluation.baselines import STRENGTHS, K, fit_logistic, kmer_counts


class Yardstick(NamedTuple):
    """A yardstick's predictions of the test windows.

    Attributes:
        name: its row.
        inputs: the windows that it looks at: "mutated", "unmutated" or "none".
        logs: float64 ``(n, classes)``, log-probabilities; None if the tables lack what it needs.
        note: how it was fitted, or what is missing.
    """

    name: str
    inputs: str
    logs: np.ndarray | None
    note: str


def yardsticks(data: StudyData) -> Iterator[Yardstick]:
    """Fit every yardstick on the training windows, choose its strength on validation, and predict the test windows.

    Args:
        data: the tables.

    Yields:
        The yardsticks one after another, because each takes a while on large tables.
    """
    yield majority(data)
    yield mutation_count(data)
    yield position(data)
    for inputs in ("mutated", "unmutated"):
        yield kmers(data, inputs)


def majority(data: StudyData) -> Yardstick:
    """The commonest class of the training windows, the first of equal ones."""
    shares = _shares(data)
    # Equal classes would leave the choice to rounding.
    shares[shares.argmax()] += 1e-9
    rows = len(data.splits["test"].labels)
    note = f"always {data.classes[int(shares.argmax())]}"
    return Yardstick("majority", "none", np.log(np.tile(shares, (rows, 1))), note)


def _shares(data: StudyData) -> np.ndarray:
    """The share of each class in the training windows."""
    labels = data.splits["train"].labels
    return np.bincount(labels, minlength=len(data.classes)) / len(labels)


def mutation_count(data: StudyData) -> Yardstick:
    """Logistic regression on the number of mutations in a window, and its logarithm."""
    name = "number of mutations"
    parts = [data.splits[split] for split in ("train", "valid", "test")]
    if any(part.mutations is None for part in parts):
        return Yardstick(name, "none", None, "the tables have no column n_mutations")

    def features(windows: Windows) -> np.ndarray:
        numbers = np.asarray(windows.mutations, dtype=np.float64)
        return np.stack([numbers, np.log1p(numbers)], axis=1)

    return _logistic(name, "none", [features(part) for part in parts], parts)


def kmers(data: StudyData, inputs: str) -> Yardstick:
    """Logistic regression on 5-mer counts of the mutated windows, or of the same windows without mutations."""
    name = f"{K}-mers"
    parts = [data.splits[split] for split in ("train", "valid", "test")]
    sequences = [part.sequences if inputs == "mutated" else part.references for part in parts]
    if any(found is None for found in sequences):
        return Yardstick(name, inputs, None, "the tables have no column reference; hyenadna mutate writes it")
    return _logistic(name, inputs, [kmer_counts(found or []) for found in sequences], parts)


def _logistic(name: str, inputs: str, features: Sequence[np.ndarray], parts: Sequence[Windows]) -> Yardstick:
    """A yardstick by logistic regression on features of training, validation and test."""
    train, valid, test = features
    fitted, best = fit_logistic(train, parts[0].labels, valid, parts[1].labels)
    found = np.asarray(fitted[best].decision_function(test), dtype=np.float64)
    # Of two classes there is one column, the log-odds. Probabilities would round to 0, and their logarithms to -inf.
    logits = np.stack([np.zeros_like(found), found], axis=1) if found.ndim == 1 else found
    note = f"logistic regression, C = {best:g} of {', '.join(f'{c:g}' for c in STRENGTHS)} by validation"
    return Yardstick(name, inputs, log_probabilities(logits), note)


WIDTHS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
"""Widths of the bins in bases, of which validation chooses one, or the whole contig."""

PRIORS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Strengths of the smoothing, of which validation chooses one."""


def position(data: StudyData) -> Yardstick:
    """How often each class occurs in a bin of the genome, smoothed towards its contig, and that towards all windows.

    With a prior of strength a, the share of a class in a bin is (count + a * share in the contig) / (bin's count + a).
    The width of the bins and the strength are those with the least log loss on validation.
    """
    name = "position"
    train, valid, test = (data.splits[split] for split in ("train", "valid", "test"))
    if any(part.contigs is None or part.starts is None or part.ends is None for part in (train, valid, test)):
        return Yardstick(name, "none", None, "the tables lack the columns contig, start and end")
    best: tuple[float, int | None, float] | None = None
    for width in (None, *WIDTHS):
        bins = None if width is None else (_bins(train, width), _bins(valid, width))
        for strength in PRIORS:
            logs = _frequencies(data, train, valid, bins, strength)
            loss = -float(logs[np.arange(len(logs)), valid.labels].mean())
            if best is None or loss < best[0]:
                best = loss, width, strength
    assert best is not None
    _, width, strength = best
    place = "whole contigs" if width is None else f"bins of {width:,} bases"
    note = f"class frequencies in {place} with a prior of strength {strength:g}, both by validation"
    bins = None if width is None else (_bins(train, width), _bins(test, width))
    return Yardstick(name, "none", _frequencies(data, train, test, bins, strength), note)


def _frequencies(
    data: StudyData,
    train: Windows,
    windows: Windows,
    bins: tuple[np.ndarray, np.ndarray] | None,
    strength: float,
) -> np.ndarray:
    """Log-probabilities of the classes at the places of ``windows``, float64 ``(n, classes)``.

    Args:
        data: the tables.
        train: windows whose labels are counted.
        windows: windows to predict.
        bins: the bins of both, or None for whole contigs.
        strength: strength of the prior.
    """
    prior = np.tile(_shares(data), (len(windows.labels), 1))
    found = _smoothed(train.contigs, train.labels, windows.contigs, prior, strength)
    if bins is not None:
        found = _smoothed(bins[0], train.labels, bins[1], found, strength)
    return np.log(found)


def _bins(windows: Windows, width: int) -> np.ndarray:
    """The bin of each window's middle, as text."""
    middles = (np.asarray(windows.starts) + np.asarray(windows.ends)) // 2
    return np.char.add(np.char.add(np.asarray(windows.contigs), "\t"), (middles // width).astype(str))


def _smoothed(known: Any, labels: np.ndarray, places: Any, prior: np.ndarray, strength: float) -> np.ndarray:
    """Shares of the classes at ``places``, ``(n, classes)``, from the labels at ``known`` places and a prior."""
    names, own = np.unique(known, return_inverse=True)
    table = np.zeros((len(names) + 1, prior.shape[1]))
    np.add.at(table, (own, labels), 1.0)
    rows = np.searchsorted(names, places)
    # The last row is that of places without training windows.
    rows = np.where(names[np.minimum(rows, len(names) - 1)] == places, rows, len(names))
    found = table[rows]
    return np.asarray((found + strength * prior) / (found.sum(axis=1, keepdims=True) + strength))
