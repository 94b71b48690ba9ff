from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, COMPLEMENT
from hyenadna.evaluation import backoff, markov


def ids(text: str) -> np.ndarray:
    return BYTE_TO_ID[np.frombuffer(text.encode(), dtype=np.uint8)]


def reverse_complement(segment: np.ndarray) -> np.ndarray:
    return COMPLEMENT[segment[::-1]]


def random_segments(seed: int, lengths: tuple[int, ...], n_share: float = 0.05) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = [(1 - n_share) * share for share in (0.4, 0.1, 0.2, 0.3)] + [n_share]
    return [rng.choice(np.arange(7, 12, dtype=np.uint8), size=length, p=weights) for length in lengths]


def again(segments: list[np.ndarray]) -> backoff.Segments:
    return lambda: iter(segments)


def repeats(seed: int) -> list[np.ndarray]:
    """Segments with N and with words of up to 80 bases that occur on both strands, so that long contexts recur."""
    rng = np.random.default_rng(seed)
    word = random_segments(0, (80,), n_share=0.02)[0]
    parts: list[np.ndarray] = []
    for piece in random_segments(seed, (40, 3, 90, 25, 60, 31)):
        start = int(rng.integers(0, 30))
        copy = word[start : start + int(rng.integers(20, 50))]
        parts += [piece, reverse_complement(copy) if rng.random() < 0.5 else copy]
    return [np.concatenate(parts[:6]), np.concatenate(parts[6:]), parts[0][:1], parts[0][:0]]


def slow_counts(segments: Iterable[np.ndarray], order: int) -> Counter[str]:
    """How often each word of ``order + 1`` bases occurs on both strands."""
    words: Counter[str] = Counter()
    for segment in segments:
        for strand in (segment, reverse_complement(segment)):
            text = "".join("ACGT"[i - 7] if 7 <= i <= 10 else "-" for i in strand.tolist())
            words.update(text[start : start + order + 1] for start in range(len(text) - order))
    return Counter({word: count for word, count in words.items() if "-" not in word})


def slow_score(
    counts: dict[int, Counter[str]], strengths: dict[int, float], segments: Iterable[np.ndarray], first_target: int
) -> tuple[float, float, int]:
    """Perplexity, accuracy and positions of the chain over the orders of ``strengths``."""
    nats, hits, positions = 0.0, 0, 0
    for segment in segments:
        text = "".join("ACGT"[i - 7] if 7 <= i <= 10 else "-" for i in segment.tolist())
        for target in range(first_target, len(text)):
            if text[target] == "-":
                continue
            mixed = [0.25] * 4
            for order, strength in strengths.items():
                context = text[max(target - order, 0) : target]
                if len(context) < order or "-" in context:
                    break
                found = [counts[order][context + base] for base in "ACGT"]
                mixed = [(n + strength * p) / (sum(found) + strength) for n, p in zip(found, mixed, strict=True)]
            assert sum(mixed) == pytest.approx(1)
            nats -= math.log(mixed["ACGT".index(text[target])])
            hits += "ACGT"[int(np.argmax(mixed))] == text[target]
            positions += 1
    return math.exp(nats / positions), hits / positions, positions


@cache
def plainly() -> tuple[list[np.ndarray], list[tuple[float, float, int]]]:
    """Strengths of a chain to each order, and the scores of repeats(3) after counting repeats(1) and repeats(2)."""
    orders = backoff.orders_up_to(18)
    slow = {order: slow_counts(repeats(1) + repeats(2), order) for order in orders}
    rng = np.random.default_rng(4)
    strengths = [rng.uniform(0.1, 30, place + 1) for place in range(len(orders))]
    chains = [dict(zip(orders, of_chain.tolist(), strict=False)) for of_chain in strengths]
    return strengths, [slow_score(slow, of_chain, repeats(3), 3) for of_chain in chains]


@pytest.mark.parametrize(("dense", "block"), [(0, 1 << 20), (2, 37), (5, 1 << 20), (5, 37)])
def test_counts_and_scores_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch, dense: int, block: int) -> None:
    monkeypatch.setattr(markov, "_BLOCK", block)
    monkeypatch.setattr(backoff, "_PIECE", 50)
    orders = backoff.orders_up_to(18)
    counts = backoff.Counts(backoff.Plan(orders, dense, (), 0, 0), [again(repeats(3))], 3)
    for segments in (repeats(1), repeats(2)):
        counts.add(again(segments))
    strengths, expected = plainly()
    scores = backoff.score(counts, strengths, again(repeats(3)), 3)
    assert list(scores) == [*range(13), 16, 18]
    for (order, score), of_chain, (perplexity, accuracy, count) in zip(
        scores.items(), strengths, expected, strict=True
    ):
        assert score.prior_strengths == dict(zip(orders, of_chain.tolist(), strict=False))
        assert score.prior_strength == of_chain[-1] == score.prior_strengths[order]
        assert score.perplexity == pytest.approx(perplexity, rel=1e-12)
        assert score.accuracy == pytest.approx(accuracy, rel=1e-12)
        assert score.count == count
    # The long words do recur: else the sparse orders would not have been tested.
    assert scores[18].perplexity != scores[16].perplexity != scores[12].perplexity


def test_positions_before_the_first_target_are_context_alone() -> None:
    train, held_out = repeats(1), [ids("ACGTACGTTGCANACG")]
    counts = backoff.Counts(backoff.plan(16, 16), [again(held_out)], 10)
    counts.add(again(train))
    [(found, targets)] = counts.read(again(held_out), 10)
    assert targets.tolist() == [1, 0, 0, 1, 2]
    hits, totals = counts.read_all(again(held_out), 10)
    assert hits.tolist() == [[row[t] for row, t in zip(of_order, targets, strict=True)] for of_order in found.tolist()]
    np.testing.assert_array_equal(totals, found.sum(axis=2))
    # After the N, and nowhere before it, contexts begin anew.
    assert [(found[order].sum(axis=1) > 0).tolist() for order in (0, 1)] == [
        [True] * 5,
        [True, True, False, True, True],
    ]


def test_long_contexts_have_few_rows() -> None:
    """Only contexts that are looked up are counted, each once."""
    word = ids("ACGTTGCATTGACCATGACCAGTAC")
    counts = backoff.Counts(backoff.plan(24, 25), [again([word, word])], 24)
    counts.add(again([np.tile(word, 40)]))
    assert {order: len(rows) for order, rows in counts._contexts.items()} == {
        order: 1 for order in backoff.orders_up_to(24) if order > 2
    }
    [(found, targets)] = counts.read(again([word]), 24)
    assert targets.tolist() == [1]
    assert found[-1].tolist() == [[0, 40, 0, 0]]


def test_strengths_are_the_best_on_the_positions() -> None:
    """Against a fine grid for one order, and no better in any direction for a chain."""
    train, valid = random_segments(5, (400,)), random_segments(6, (900,))
    counts = backoff.Counts(backoff.plan(3, 900), [again(valid)], 1)
    counts.add(again(train))
    hits, totals = counts.read_all(again(valid), 1)
    strengths = backoff.fit_strengths(hits, totals)
    assert [len(of_chain) for of_chain in strengths] == [1, 2, 3, 4]
    grid = np.geomspace(1e-3, 1e6, 2000)
    losses = [backoff._loss(hits[:1], totals[:1], np.array([strength]))[0] for strength in grid]
    assert backoff._loss(hits[:1], totals[:1], strengths[0])[0] <= min(losses) + 1e-3
    for of_chain in strengths:
        rows = len(of_chain)
        best = backoff._loss(hits[:rows], totals[:rows], of_chain)[0]
        for place in range(rows):
            for factor in (0.8, 1.25):
                other = of_chain.copy()
                other[place] = np.clip(other[place] * factor, 1e-3, 1e6)
                assert backoff._loss(hits[:rows], totals[:rows], other)[0] >= best - 1e-4
    scores = backoff.score(counts, strengths, again(valid), 1)
    ones = backoff.score(counts, [np.ones(len(s)) for s in strengths], again(valid), 1)
    assert all(scores[order].perplexity < ones[order].perplexity for order in (1, 2, 3))


def test_the_gradient_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    totals = rng.integers(0, 50, (4, 30)).astype(float)
    hits = np.floor(totals * rng.random((4, 30)))
    logs = rng.normal(size=4)
    _, gradient = backoff._loss(hits, totals, np.exp(logs))
    for place in range(4):
        step = np.zeros(4)
        step[place] = 1e-6
        above, below = (backoff._loss(hits, totals, np.exp(logs + sign * step))[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((above - below) / 2e-6, rel=1e-6, abs=1e-6)


def test_without_a_position_all_strengths_are_one() -> None:
    assert [s.tolist() for s in backoff.fit_strengths(np.zeros((3, 0)), np.zeros((3, 0)))] == [[1], [1, 1], [1, 1, 1]]


def test_probabilities_sum_to_one() -> None:
    held_out = repeats(3)
    plan = backoff.plan(20, 500)
    counts = backoff.Counts(plan, [again(held_out)], 0)
    counts.add(again(repeats(1)))
    for found, _ in counts.read(again(held_out), 0):
        mixed = backoff.probabilities(found, np.geomspace(0.01, 100, len(plan.orders)))
        np.testing.assert_allclose(mixed.sum(axis=1), 1.0, rtol=1e-14)
        assert mixed.min() > 0


def test_the_highest_orders_are_left_out_first() -> None:
    everything = backoff.plan(24, 10**6)
    assert everything.orders == (*range(13), 16, 20, 24)
    assert (everything.left_out, everything.describe()) == ((), "")
    less = backoff.plan(24, 10**6, everything.needed - 1)
    assert (less.orders, less.left_out) == ((*range(13), 16, 20), (24,))
    none = backoff.plan(24, 10**6, 0)
    assert none.orders == tuple(range(none.dense + 1))
    assert none.describe() == (
        f"Markov models of order 10, 11, 12, 16, 20, 24 are left out: they would need {none.needed / 2**30:.1f} GiB "
        "with the others, and 0.0 GiB are allowed; score fewer windows (`max_windows`)"
    )
    # A whole human chromosome: tables of all contexts, and nothing beyond them.
    assert backoff.plan(24, 240_000_000).orders == tuple(range(12))
    assert [backoff.orders_up_to(order) for order in (0, 14, 16)] == [(0,), (*range(13), 14), (*range(13), 16)]


@pytest.mark.parametrize("bound", ["all", "less"])
def test_memory_stays_below_the_bound(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """The genome is twenty times as long as what it is looked up for, and all its contexts would not fit."""
    monkeypatch.setattr(markov, "_BLOCK", 1 << 14)
    monkeypatch.setattr(backoff, "_PIECE", 1 << 10)
    monkeypatch.setattr(backoff, "_BLOCK_BYTES", 3 << 20)
    genome, held_out = random_segments(7, (200_000, 10_000))
    plan = backoff.plan(24, 10_000)
    if bound == "less":
        plan = backoff.plan(24, 10_000, plan.needed - (1 << 19))
        assert plan.left_out == (20, 24)
    most = plan.most_bytes if bound == "less" else plan.needed
    tracemalloc.start()
    try:
        counts = backoff.Counts(plan, [again([held_out])], 1)
        counts.add(again([genome]))
        counts.add(again([genome]))
        backoff.score(counts, [np.ones(n + 1) for n in range(len(plan.orders))], again([held_out]), 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.4 * most < peak <= most


def test_refuses_segments_without_a_nucleotide() -> None:
    only_n = again([ids("NNNN")])
    counts = backoff.Counts(backoff.plan(4, 4), [only_n], 0)
    with pytest.raises(InputError, match="no A, C, G or T in the training segments"):
        counts.add(only_n)
    counts.add(again([ids("ACGT")]))
    with pytest.raises(InputError, match="no A, C, G or T to score"):
        backoff.score(counts, backoff.fit_strengths(*counts.read_all(only_n, 0)), only_n, 0)


def test_a_segment_may_be_shorter_than_every_long_context() -> None:
    held_out = again([ids("ACGA")])
    counts = backoff.Counts(backoff.plan(24, 4), [held_out], 0)
    counts.add(again([ids("ACGTACGA")]))
    counts.add(again([ids("A")]))
    scores = backoff.score(counts, [np.ones(place + 1) for place in range(len(counts.orders))], held_out, 0)
    # No position has four bases before it.
    assert scores[24].perplexity == scores[3].perplexity < scores[0].perplexity
