from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.enbed.corruptor import NoiseRates, corrupt, corrupt_to, diverge, source_length


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


@pytest.mark.parametrize("rates", [NoiseRates(0.0, 0.0, 0.0), NoiseRates(0.02, 0.02, 0.02), NoiseRates(0.0, 0.5, 0.0)])
@pytest.mark.parametrize("length", [1, 8, 512])
def test_the_length_is_kept_at_any_rates(rates: NoiseRates, length: int) -> None:
    least = source_length(length, rates.deletion)
    rng = np.random.default_rng(0)
    for _ in range(50):
        # Nearly always at the first draw: eight standard deviations are to spare.
        assert len(corrupt(bases(least), rates, rng).bases) >= length
        assert len(corrupt_to(bases(least), length, rates, rng)) == length
    if sum(rates) == 0:
        assert least == length
        assert np.array_equal(corrupt_to(bases(least + 5), length, rates, rng), bases(least + 5)[:length])
    with pytest.raises(InputError, match=f"needs {least:,}, and this one has {least - 1:,}"):
        corrupt_to(bases(least - 1), length, rates, rng)


def test_noise_lets_later_bases_in_and_pushes_others_out() -> None:
    rng = np.random.default_rng(0)
    # The source is a count of A, C, G, T in turn, so a base says where it is from.
    source = np.tile(np.arange(7, 11, dtype=np.uint8), 200)
    lost = corrupt_to(source, 300, NoiseRates(0.0, 0.2, 0.0), rng)
    steps = (np.diff(lost.astype(int)) - 1) % 4
    assert steps.sum() > 30
    longer = corrupt_to(source, 300, NoiseRates(1.0, 0.0, 0.0), rng)
    assert np.array_equal(longer[1::2], source[:150])
