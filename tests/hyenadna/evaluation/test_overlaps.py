from __future__ import annotations

import numpy as np
import pytest

from hyenadna.evaluation.overlaps import overlapping_pairs, overlaps


def test_pairs_are_those_that_share_a_base() -> None:
    rng = np.random.default_rng(0)
    contig = rng.choice(["c1", "c2"], 200)
    start = rng.integers(0, 900, 200)
    end = start + rng.integers(1, 60, 200)
    # Neighbours that touch share nothing.
    contig[:2], start[:2], end[:2] = "c3", (5, 10), (10, 15)
    share = (contig[:, None] == contig) & (start[:, None] < end) & (start < end[:, None])
    assert overlapping_pairs(contig, start, end) == np.triu(share, 1).sum()

    vectors = rng.normal(size=(200, 3)) * [1, 10, 100]
    found = overlaps(vectors, contig, start, end, k=4)
    scaled = vectors / vectors.std(0)
    far = ((scaled[:, None] - scaled) ** 2).sum(-1)
    np.fill_diagonal(far, np.inf)
    hits = np.take_along_axis(share, np.argsort(far, axis=1)[:, :4], axis=1)
    assert (found.nearest, found.neighbours) == pytest.approx((hits[:, 0].mean(), hits.mean()))
    assert (found.pairs, found.of_pairs, found.k, found.sampled) == (np.triu(share, 1).sum(), 19_900, 4, 200)
    assert found.describe().startswith(f"windows overlap: {found.pairs:,} of 19,900 pairs (")


def test_neighbours_that_are_the_same_bases_are_found() -> None:
    rng = np.random.default_rng(1)
    start = np.repeat(np.arange(50) * 100, 2) + np.tile([0, 30], 50)
    # Equal vectors, so that a window is not always the first of its own neighbours.
    vectors = np.repeat(rng.normal(size=(50, 4)), 2, axis=0)
    found = overlaps(vectors, np.full(100, "c"), start, start + 60, k=3)
    assert (found.pairs, found.nearest, found.neighbours) == (50, 1.0, pytest.approx(1 / 3))
    assert "100.0% of nearest neighbours in the embeddings (33.3% of the nearest 3)" in found.describe()
    assert "are inflated" in found.warning()
