"""How many windows of a genome overlap, and how many neighbours in a space of embeddings are merely the same bases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyenadna.common.extras import require

# Below this share of nearest neighbours that overlap, random folds are not called inflated.
_FEW = 0.05
# Windows whose neighbours are looked for. The error of a share is then below 0.01.
_SAMPLE = 5000


@dataclass(frozen=True)
class Overlaps:
    """Overlaps among windows.

    Attributes:
        pairs: number of pairs of windows that share a base.
        of_pairs: number of all pairs.
        nearest: fraction of windows that overlap the nearest one in the space of embeddings.
        neighbours: fraction of the ``k`` nearest that overlap, as the mean over windows.
        k: number of neighbours.
        sampled: number of windows whose neighbours were looked for.
        windows: number of windows.
    """

    pairs: int
    of_pairs: int
    nearest: float
    neighbours: float
    k: int
    sampled: int
    windows: int

    def warning(self) -> str:
        """What the overlaps do to figures of random folds."""
        if self.nearest < _FEW:
            return "figures with random folds may gain a little by windows that share bases with the training"
        return (
            "figures with random folds are inflated: windows of the test share bases with the training; with folds by "
            "blocks none does"
        )

    def describe(self) -> str:
        """The overlaps in one line."""
        share = f"{self.pairs / self.of_pairs:.2%}" if self.pairs / self.of_pairs >= 1e-4 else "below 0.01%"
        among = f", by {self.sampled:,} windows drawn" if self.sampled < self.windows else ""
        return (
            f"windows overlap: {self.pairs:,} of {self.of_pairs:,} pairs ({share}), and {self.nearest:.1%} of nearest "
            f"neighbours in the embeddings ({self.neighbours:.1%} of the nearest {self.k}{among})"
        )


def overlapping_pairs(contig: np.ndarray, start: np.ndarray, end: np.ndarray) -> int:
    """The number of pairs of intervals that share a base, in n log n steps.

    Args:
        contig: str ``(n,)``.
        start: int ``(n,)``, 0-based.
        end: int ``(n,)``, exclusive and above ``start``.
    """
    low, high = _on_one_line(contig, start, end)
    low, high = low[order := np.argsort(low, kind="stable")], high[order]
    # An interval overlaps those after it that begin before it ends.
    return int((np.searchsorted(low, high) - np.arange(1, len(low) + 1)).sum())


def overlaps(
    vectors: np.ndarray, contig: np.ndarray, start: np.ndarray, end: np.ndarray, *, k: int = 15, seed: int = 0
) -> Overlaps:
    """Overlaps in the genome of all pairs of windows, and of neighbours in the space of embeddings.

    Neighbours are those of the probe: nearest by standardised columns. They are looked for from 5,000 windows at most.

    Args:
        vectors: float ``(n, D)``, n at least 2.
        contig: str ``(n,)``.
        start: int ``(n,)``, 0-based.
        end: int ``(n,)``, exclusive and above ``start``.
        k: number of neighbours. There are fewer if n is not above it.
        seed: seed of the draw.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
    """
    n = len(vectors)
    k = min(k, n - 1)
    rows = np.arange(n) if n <= _SAMPLE else np.random.default_rng(seed).choice(n, _SAMPLE, replace=False)
    scaled = require("sklearn.preprocessing").StandardScaler().fit_transform(vectors)
    found = require("sklearn.neighbors").NearestNeighbors(n_neighbors=k + 1).fit(scaled)
    near = found.kneighbors(scaled[rows], return_distance=False)
    # A window is its own neighbour, and not always the first where vectors are equal.
    own = near == rows[:, None]
    own[~own.any(axis=1), -1] = True
    near = near[~own].reshape(len(rows), k)
    low, high = _on_one_line(contig, start, end)
    touch = (low[near] < high[rows, None]) & (high[near] > low[rows, None])
    pairs = overlapping_pairs(contig, start, end)
    return Overlaps(
        pairs, n * (n - 1) // 2, float(touch[:, 0].mean()), float(touch.mean()), k, sampled=len(rows), windows=n
    )


def _on_one_line(contig: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends on a line that holds the contigs one after another."""
    codes = np.unique(contig, return_inverse=True)[1]
    shift = codes * int(end.max())
    return start.astype(np.int64) + shift, end.astype(np.int64) + shift
