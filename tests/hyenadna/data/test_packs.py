"""Rows of packed sequences: all sequences once, as few rows as the rule says, and the row itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from hyenadna.data.packs import first_fit, in_order, pack
from hyenadna.data.sequences import batches, per_position


def test_first_fit_takes_the_longest_first_and_the_first_row_with_room() -> None:
    assert first_fit([3, 9, 4, 4, 2, 6], 10) == [[1], [5, 2], [3, 0, 4]]
    # Longer than a row: alone. Of equal ones the first comes first.
    assert first_fit([2, 25, 2, 8], 10) == [[1], [3, 0], [2]]
    assert first_fit([], 10) == []


@pytest.mark.parametrize("tokens", [1, 50, 1000])
def test_every_sequence_is_in_one_row_and_rows_are_full(tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 40).tolist()
    for rows in (first_fit(lengths, tokens), [[*range(40)[part]] for part in in_order(lengths, tokens)]):
        assert sorted(place for row in rows for place in row) == [*range(40)]
        totals = [sum(lengths[place] for place in row) for row in rows]
        assert all(total <= tokens or len(row) == 1 for total, row in zip(totals, rows, strict=True))
    greedy = [*in_order(lengths, tokens)]
    for row, following in pairwise(greedy):
        assert row.stop == following.start
        assert sum(lengths[row]) + lengths[following.start] > tokens


def test_a_row_holds_the_sequences_and_their_borders() -> None:
    rows = [np.array([7, 11, 8], dtype=np.uint8), np.array([9], dtype=np.uint8), np.array([10, 10], dtype=np.uint8)]
    ids, plan = pack(rows, torch.device("cpu"))
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[7, 4, 8, 9, 10, 10]]
    assert plan.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert pack(rows, torch.device("cpu"), n_to_pad=False)[0].tolist() == [[7, 11, 8, 9, 10, 10]]


def test_windows_are_packed_by_tokens_and_come_back_in_order() -> None:
    rng = np.random.default_rng(0)
    sequences = [(str(i), rng.integers(7, 11, n).astype(np.uint8)) for i, n in enumerate(rng.integers(1, 90, 50))]
    totals: list[int] = []

    def compute(rows: list[np.ndarray]) -> list[np.ndarray]:
        totals.append(sum(map(len, rows)))
        return rows

    found = per_position(sequences, compute, batch_size=1, pack_tokens=70, max_length=64, window=64, stride=40)
    for values, (_, ids) in zip(found, sequences, strict=True):
        assert np.array_equal(values, ids)
    assert max(totals) <= 70
    # Batches of one would be as many as windows.
    assert len(totals) < 50
    assert [*batches([5, 4, 3], 2, 0)] == [slice(0, 2), slice(2, 4)]
