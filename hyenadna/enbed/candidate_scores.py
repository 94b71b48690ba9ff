"""How well candidates hit the true children: exact matches of the first and of the first five, and distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hyenadna.common.extras import require

LEVEL = 0.95
"""Level of the intervals."""

METRICS = ("top1", "top5", "mean_distance", "median_distance")


class Hits(NamedTuple):
    """What is found for each pair.

    Attributes:
        top1: whether the first candidate is the child, bool ``(N,)``.
        top5: whether one of the first five is.
        distance: Levenshtein distance of the first candidate to the child, int64 ``(N,)``.
    """

    top1: np.ndarray
    top5: np.ndarray
    distance: np.ndarray

    def of(self, chosen: np.ndarray) -> Hits:
        """Those of some pairs, by a mask or by indices."""
        return Hits(*(values[chosen] for values in self))

    def metrics(self) -> dict[str, float]:
        """The values of ``METRICS``."""
        values = (self.top1.mean(), self.top5.mean(), self.distance.mean(), np.median(self.distance))
        return dict(zip(METRICS, map(float, values), strict=True))


def hits(candidates: Sequence[Sequence[str]], children: Sequence[str]) -> Hits:
    """Compare candidates, the best first, with the true children. A pair without a candidate has the text ""."""
    distance = require("rapidfuzz.distance.Levenshtein").distance
    unique = [list(dict.fromkeys(texts)) or [""] for texts in candidates]
    pairs = list(zip(unique, children, strict=True))
    return Hits(
        np.array([texts[0] == child for texts, child in pairs], dtype=bool),
        np.array([child in texts[:5] for texts, child in pairs], dtype=bool),
        np.array([distance(texts[0], child) for texts, child in pairs], dtype=np.int64),
    )


def resample(found: Hits, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Every metric in every resample of the pairs, float64 ``(resamples,)``. Equal sizes and seeds draw equal pairs."""
    rng, size = np.random.default_rng(seed), len(found.distance)
    drawn = [list(found.of(rng.integers(size, size=size)).metrics().values()) for _ in range(resamples)]
    return dict(zip(METRICS, np.array(drawn).T, strict=True))


def interval(values: np.ndarray) -> list[float]:
    """The interval that holds the middle ``LEVEL`` of resampled values."""
    edge = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(values, [edge, 1 - edge])]


def estimates(found: Hits, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    """Every metric as ``[value, lower end, upper end]``."""
    return {name: [value, *interval(drawn[name])] for name, value in found.metrics().items()}
