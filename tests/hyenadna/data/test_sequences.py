from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import reverse_complement
from hyenadna.data import sequences
from hyenadna.data.sequences import Last, Mean, Window, check_windows, encode, per_position, sliding_windows


def test_letters_become_ids_and_turn_round() -> None:
    ids = encode("acGTn", "x")
    assert ids.tolist() == [7, 8, 9, 10, 11]
    assert reverse_complement(ids).tolist() == [11, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (None, "row 3: the sequence is empty"),
        ("", "row 3: the sequence is empty"),
        ("ACE", "row 3: 'E' at position 3 is not a nucleotide code"),
        ("A€", "row 3: '€' at position 2 is not a nucleotide code"),
    ],
)
def test_what_is_no_sequence_is_named(sequence: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(sequence, "row 3")


@pytest.mark.parametrize(("window", "stride"), [(10, 4), (10, 9), (7, 1), (64, 32)])
@pytest.mark.parametrize("length", [1, 7, 10, 11, 33, 64, 200])
def test_every_position_counts_once_with_enough_before_it(length: int, window: int, stride: int) -> None:
    pieces = sliding_windows(length, 64, window, stride, "x")
    counted = [position for piece in pieces for position in range(piece.first, piece.end)]
    assert counted == list(range(length))
    for before, piece in pairwise(pieces):
        assert piece.end - piece.start <= window
        assert piece.first - piece.start == window - stride
        assert piece.start == before.start + stride


def test_what_the_model_takes_is_not_cut() -> None:
    assert sliding_windows(64, 64, None, None, "x") == [Window(0, 64, 0)]


def test_longer_ones_are_refused_with_the_two_ways_out() -> None:
    with pytest.raises(
        InputError, match=r"g: 1,065 bases are longer than the 64 .* \(`window` 64, `stride` 32\), or use"
    ):
        sliding_windows(1065, 64, None, None, "g")


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (10, None, "go together"),
        (None, 10, "go together"),
        (65, 10, "`window` 65: must be 2 to 64, the tokens"),
        (10, 10, "`stride` 10: must be at least 1 and below `window`"),
        (10, 0, "`stride` 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(window: int | None, stride: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_windows(window, stride, 64)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_results_come_in_the_order_of_the_sequences(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    sequences = [(str(i), rng.integers(7, 11, n).astype(np.uint8)) for i, n in enumerate(rng.integers(1, 40, 60))]
    seen = []

    def compute(rows: list[np.ndarray]) -> list[np.ndarray]:
        seen.append(len(rows))
        return [np.stack([row, 2 * row], axis=1) for row in rows]

    results = per_position(sequences, compute, batch_size=batch_size, max_length=64, window=8, stride=5)
    for result, (_, ids) in zip(results, sequences, strict=True):
        assert np.array_equal(result, np.stack([ids, 2 * ids], axis=1))
    assert max(seen) == batch_size


def test_means_hold_one_batch_of_windows_at_a_time() -> None:
    length, window, width = 1 << 17, 256, 64
    ids = np.random.default_rng(0).integers(7, 11, length).astype(np.uint8)

    def compute(rows: list[np.ndarray]) -> list[np.ndarray]:
        return [np.repeat(row[:, None].astype(np.float32), width, axis=1) for row in rows]

    tracemalloc.start()
    try:
        (mean,) = per_position(
            [("s", ids)], compute, batch_size=4, max_length=window, window=window, stride=255, collect=Mean
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All vectors are 32 MiB, a batch of them is 0.25 MiB.
    assert peak < 2 << 20
    np.testing.assert_allclose(mean, np.full(width, ids.mean()), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_means_and_last_values_do_not_depend_on_the_batch(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    sequences = [(str(i), rng.integers(7, 11, n).astype(np.uint8)) for i, n in enumerate(rng.integers(1, 400, 60))]
    found = [
        np.stack(
            list(
                per_position(
                    sequences,
                    lambda rows: [np.sin(row[:, None] / 3.0) for row in rows],
                    batch_size=size,
                    max_length=64,
                    window=20,
                    stride=7,
                    collect=collect,
                )
            )
        )
        for size in (batch_size, 8)
        for collect in (Mean, Last)
    ]
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])
    for mean, last, (_, ids) in zip(found[0], found[1], sequences, strict=True):
        np.testing.assert_allclose(mean, np.sin(ids / 3.0).mean(), rtol=1e-12)
        assert last == np.sin(ids[-1] / 3.0)


def test_the_longest_are_read_first_and_windows_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest batch needs most memory. What does not fit is to fail at once."""
    monkeypatch.setattr(sequences, "_CHUNK_POSITIONS", 30)
    drawn: list[int] = []
    batches: list[tuple[list[int], int]] = []

    def rows() -> Iterator[tuple[str, np.ndarray]]:
        for number, length in enumerate((3, 21, 8, 4, 7)):
            drawn.append(length)
            yield f"s{number}", np.arange(length, dtype=np.uint8) + 50 * number

    def compute(parts: list[np.ndarray]) -> list[np.ndarray]:
        batches.append(([int(part[0]) for part in parts], len(drawn)))
        return parts

    found = list(per_position(rows(), compute, batch_size=2, max_length=8, window=8, stride=5))
    assert [len(values) for values in found] == drawn
    # Starts of the windows, and the sequences that were read by then: as many as have 30 positions, and then the rest.
    assert batches == [([50, 55], 3), ([60, 100], 3), ([65, 0], 3), ([200, 150], 5)]
