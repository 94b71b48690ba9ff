from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.evaluation.folds import block_folds


@pytest.mark.parametrize("seed", range(4))
def test_no_window_of_the_training_is_near_one_of_the_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    contig = rng.choice(["c1", "c2", "c3"], n)
    start = rng.integers(0, 20_000, n)
    # One window reaches over many others.
    end = start + rng.choice([40, 60, 4000], n, p=[0.5, 0.49, 0.01])
    gap = int(np.median(end - start))
    labels = rng.choice(["x", "y"], n)
    folds = block_folds(labels, contig, start, end, width=1500, seed=seed)
    assert folds.name == "folds by blocks of 1,500 bases"
    assert sorted(np.concatenate([test for _, test in folds.pairs])) == list(range(n))
    left_out = []
    for train, test in folds.pairs:
        near = (
            (contig[:, None] == contig[test]) & (start[:, None] < end[test] + gap) & (end[:, None] + gap > start[test])
        )
        others = np.setdiff1d(np.arange(n), test)
        assert train.tolist() == others[~near[others].any(axis=1)].tolist()
        left_out.append(len(others) - len(train))
        # A block is never divided.
        blocks = [f"{c}:{m}" for c, m in zip(contig, (start + end) // 2 // 1500, strict=True)]
        assert not {blocks[row] for row in train} & {blocks[row] for row in test}
    assert folds.dropped == pytest.approx(np.mean(left_out) / n)
    assert folds.dropped > 0


def test_a_block_is_ten_windows_by_default() -> None:
    start = np.arange(0, 20_000, 50)
    labels = np.where(np.arange(400) % 2, "x", "y")
    folds = block_folds(labels, np.full(400, "c"), start, start + 100)
    assert folds.name == "folds by blocks of 1,000 bases"


def test_blocks_need_positions() -> None:
    places = np.arange(4)
    with pytest.raises(InputError, match="folds by blocks need positions: embed a BED, or a table with"):
        block_folds(np.array(["x", "y"] * 2), np.array(["c", "c", "", "c"]), places, places + 1)
