"""Folds of a cross-validation: random, by groups such as contigs, or by blocks of the genome with a gap between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require


@dataclass(frozen=True)
class Folds:
    """The folds of a cross-validation. Every row is in the test of one of them.

    Attributes:
        pairs: rows of training and rows of the test, int64, of each fold.
        name: how they were made, such as "random folds".
        dropped: fraction of the rows that are in neither part, as the mean over the folds.
    """

    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    name: str
    dropped: float = 0.0

    def __len__(self) -> int:
        return len(self.pairs)

    def unseen(self, labels: np.ndarray) -> float:
        """Fraction of the rows whose label the training of their fold lacks, so that nothing can predict it."""
        missing = sum(int((~np.isin(labels[test], labels[train])).sum()) for train, test in self.pairs)
        return missing / len(labels)


def stratified_folds(
    labels: np.ndarray, groups: np.ndarray | None = None, *, folds: int = 5, seed: int = 0, name: str = "random folds"
) -> Folds:
    """Folds that hold about the same fraction of each class.

    Args:
        labels: ``(n,)``, values of any kind.
        groups: ``(n,)``. A group, such as a contig, is never in training and test at once. By default each row is its
            own.
        folds: number of folds. There are fewer if a class has fewer rows or there are fewer groups.
        seed: seed of the folds.
        name: the name of the folds.

    Raises:
        InputError: there are fewer than two classes, a class has one row, there is a single group, or the training of
            a fold has one class.
        ImportError: scikit-learn is absent; the message names the extra.
    """
    selection = require("sklearn.model_selection")
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
    split: Any
    if groups is None:
        split = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    else:
        split = selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return _checked(Folds(tuple(split.split(np.zeros(len(labels)), labels, groups)), name), labels)


def block_folds(
    labels: np.ndarray,
    contig: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    *,
    width: int | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Folds:
    """Folds of whole blocks of the genome, so that no window of the training overlaps one of the test.

    A block holds the windows whose middle lies in it. Windows that overlap a window of the test, or lie nearer to one
    than the median length of a window, are left out of the training.

    Args:
        labels: ``(n,)``, values of any kind.
        contig: str ``(n,)``.
        start: int ``(n,)``, 0-based.
        end: int ``(n,)``, exclusive.
        width: bases of a block. The default is ten times the median length of a window.
        folds: see :func:`stratified_folds`.
        seed: seed of the folds.

    Raises:
        InputError: as :func:`stratified_folds`, or a window has no position.
        ImportError: scikit-learn is absent; the message names the extra.
    """
    if (contig == "").any():
        raise InputError("folds by blocks need positions: embed a BED, or a table with `position_columns`")
    start, end = start.astype(np.int64), end.astype(np.int64)
    gap = int(np.median(end - start))
    width = 10 * max(1, gap) if width is None else width
    codes = np.unique(contig, return_inverse=True)[1]
    places = (start + end) // 2 // width
    blocks = np.unique(codes * (places.max() + 1) + places, return_inverse=True)[1]
    whole = stratified_folds(labels, blocks, folds=folds, seed=seed)
    # All contigs on one line, so far apart that the gap does not reach from one to the next.
    shift = codes * (int(end.max()) + 2 * gap + 1)
    low, high = start + shift, end + shift
    pairs = tuple((train[~_near(low, high, train, test, gap)], test) for train, test in whole.pairs)
    dropped = float(np.mean([1 - (len(train) + len(test)) / len(labels) for train, test in pairs]))
    return _checked(Folds(pairs, f"folds by blocks of {width:,} bases", dropped), labels)


def _near(low: np.ndarray, high: np.ndarray, rows: np.ndarray, others: np.ndarray, gap: int) -> np.ndarray:
    """Which intervals of ``rows`` overlap one of ``others``, or have fewer than ``gap`` bases between them."""
    order = others[np.argsort(low[others], kind="stable")]
    # Among the others that begin before the end of an interval, the one that reaches farthest decides.
    before = np.searchsorted(low[order], high[rows] + gap)
    farthest = np.maximum.accumulate(high[order])
    near: np.ndarray = (before > 0) & (farthest[before - 1] > low[rows] - gap)
    return near


def _checked(folds: Folds, labels: np.ndarray) -> Folds:
    if any(len(np.unique(labels[train])) < 2 for train, _ in folds.pairs):
        raise InputError("a probe needs two classes in every fold: the groups hold one class each")
    return folds
