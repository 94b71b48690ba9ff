from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.enbed.corruptor import NoiseRates, corrupt, diverge
from hyenadna.enbed.telomeres import YEAST, telomere, telomeres


def letters(ids: np.ndarray) -> str:
    return "".join("???????ACGTN"[i] for i in ids.tolist())


def bases(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(7, 11, count, dtype=np.uint8)


def within(count: int, rate: float, total: int) -> bool:
    """Within four standard errors of a binomial."""
    return abs(count - rate * total) <= 4 * np.sqrt(total * rate * (1 - rate))


def test_rates_are_those_asked_for() -> None:
    total = 1_000_000
    found = corrupt(bases(total), NoiseRates(0.02, 0.03, 0.01), np.random.default_rng(1))
    for count, rate in ((found.insertions, 0.02), (found.deletions, 0.03), (found.mismatches, 0.01)):
        assert within(count, rate, total)
    assert len(found.bases) == total + found.insertions - found.deletions
    assert set(np.unique(found.bases)) == {7, 8, 9, 10}
    # What is drawn is what is done: without the other two, places stay where they are.
    before = bases(total)
    only = corrupt(before, NoiseRates(0.0, 0.0, 0.05), np.random.default_rng(2))
    assert only.mismatches == int((only.bases != before).sum())
    # Each of the three other bases is as likely, and so is each of the four inserted ones.
    steps = (only.bases.astype(int) - before)[only.bases != before] % 4
    assert all(within(int((steps == step).sum()), 1 / 3, only.mismatches) for step in (1, 2, 3))
    inserted = corrupt(np.full(total, 7, dtype=np.uint8), NoiseRates(0.05, 0.0, 0.0), np.random.default_rng(3))
    others = [int((inserted.bases == base).sum()) for base in (8, 9, 10)]
    assert all(within(count, 1 / 4, inserted.insertions) for count in others)


def test_an_insertion_stands_before_its_base() -> None:
    rng = np.random.default_rng(0)
    before = bases(50)
    found = corrupt(before, NoiseRates(1.0, 0.0, 0.0), rng).bases
    assert np.array_equal(found[1::2], before)
    assert corrupt(before, NoiseRates(0.0, 1.0, 0.0), rng).bases.size == 0
    assert (corrupt(before, NoiseRates(0.0, 0.0, 1.0), rng).bases != before).all()


def test_other_letters_are_never_replaced() -> None:
    before = np.array([N_ID, PAD_ID] * 500, dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(corrupt(before, NoiseRates(0.0, 0.0, 1.0), rng).bases, before)
    assert np.array_equal(diverge(before, 1.0, rng), before)


def test_equal_seeds_give_equal_noise() -> None:
    rates = NoiseRates(0.1, 0.1, 0.1)
    one, two, other = (corrupt(bases(500), rates, np.random.default_rng(seed)).bases for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "rates", [NoiseRates(-0.1, 0.0, 0.0), NoiseRates(0.5, 0.4, 0.2), NoiseRates(float("nan"), 0, 0)]
)
def test_impossible_rates_are_refused(rates: NoiseRates) -> None:
    with pytest.raises(InputError, match="add up to at most 1"):
        corrupt(bases(5), rates, np.random.default_rng(0))


def test_telomeres_repeat_their_motif() -> None:
    rng = np.random.default_rng(0)
    both = {letters(telomere("TTAGGG", 12, rng)) for _ in range(200)}
    repeats = "TTAGGG" * 3
    turned = "CCCTAA" * 3
    assert both == {text[first : first + 12] for text in (repeats, turned) for first in range(6)}
    for _ in range(50):
        text = letters(telomere(YEAST, 30, rng))
        text = text if "G" in text else text[::-1].translate(str.maketrans("AC", "TG"))
        assert len(text) == 30
        assert all(1 <= len(part) <= 3 for part in text.split("T")[1:-1])
    assert [len(ids) for ids in telomeres(["TTAGGG", YEAST], 5, 40, rng)] == [40] * 5
