from __future__ import annotations

import gzip
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, COMPLEMENT, PAD_ID
from hyenadna.evaluation import markov


def ids(text: str) -> np.ndarray:
    return BYTE_TO_ID[np.frombuffer(text.encode(), dtype=np.uint8)]


def random_segments(seed: int, lengths: tuple[int, ...], n_share: float = 0.05) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = [(1 - n_share) * share for share in (0.4, 0.1, 0.2, 0.3)] + [n_share]
    return [rng.choice(np.arange(7, 12, dtype=np.uint8), size=length, p=weights) for length in lengths]


def reverse_complement(segment: np.ndarray) -> np.ndarray:
    return COMPLEMENT[segment[::-1]]


def slow_counts(segments: list[np.ndarray], order: int) -> Counter[tuple[int, ...]]:
    windows: Counter[tuple[int, ...]] = Counter()
    for segment in segments:
        for end in range(order + 1, len(segment) + 1):
            window = tuple(int(base) - 7 for base in segment[end - order - 1 : end])
            if max(window) < 4:
                windows[window] += 1
    return windows


def slow_score(models: markov.MarkovModels, segments: list[np.ndarray], order: int, first_target: int) -> markov.Score:
    tables = models.probabilities()
    nats, hits, count = 0.0, 0, 0
    for segment in segments:
        for target in range(first_target, len(segment)):
            base = int(segment[target]) - 7
            if base > 3:
                continue
            context: list[int] = []
            for back in range(target - 1, max(target - order, 0) - 1, -1):
                if segment[back] > 10:
                    break
                context.insert(0, int(segment[back]) - 7)
            row = tables[len(context)][sum(digit * 4**place for place, digit in enumerate(reversed(context)))]
            nats -= math.log(row[base])
            hits += int(row.argmax() == base)
            count += 1
    return markov.Score(math.exp(nats / count), hits / count, count)


@pytest.mark.parametrize("block", [1 << 20, 7, 1], ids=["one block", "blocks of 7", "blocks of 1"])
@pytest.mark.parametrize("both_strands", [False, True])
def test_counts_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch, block: int, both_strands: bool) -> None:
    monkeypatch.setattr(markov, "_BLOCK", block)
    segments = random_segments(0, (100, 3, 0, 1, 57))
    models = markov.fit(segments, max_order=4, reverse_complement=both_strands)
    strands = segments + [reverse_complement(segment) for segment in segments] if both_strands else segments
    assert models.max_order == 4
    for order, table in enumerate(models.counts):
        expected = slow_counts(strands, order)
        assert table.shape == (4**order, 4)
        for window in np.ndindex((4,) * (order + 1)):
            assert table.reshape((4,) * (order + 1))[window] == expected[window], window


def test_other_ids_break_the_context_as_n_does() -> None:
    with_n = markov.fit([ids("ACGNTTGACA")], max_order=3, reverse_complement=False)
    padded = ids("ACGNTTGACA").astype(np.int64)
    padded[3] = PAD_ID
    with_pad = markov.fit([padded], max_order=3, reverse_complement=False)
    apart = markov.fit([ids("ACG"), ids("TTGACA")], max_order=3, reverse_complement=False)
    for a, b, c in zip(with_n.counts, with_pad.counts, apart.counts, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)


def test_probabilities_by_hand() -> None:
    models = markov.fit([ids("AAC")], max_order=1, reverse_complement=False, prior_strength=2.0)
    order0, order1 = models.probabilities()
    np.testing.assert_allclose(order0, [[2.5 / 5, 1.5 / 5, 0.5 / 5, 0.5 / 5]], rtol=1e-15)
    np.testing.assert_allclose(order1[0], [2.0 / 4, 1.6 / 4, 0.2 / 4, 0.2 / 4], rtol=1e-15)
    np.testing.assert_allclose(order1[1:], np.repeat(order0, 3, axis=0), rtol=1e-15)


def test_probabilities_sum_to_one() -> None:
    for table in markov.fit(random_segments(1, (500,)), max_order=6).probabilities():
        np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-14)
        assert table.min() > 0


@pytest.mark.parametrize("first_target", [0, 1, 5])
@pytest.mark.parametrize("block", [1 << 20, 11])
def test_scores_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch, first_target: int, block: int) -> None:
    monkeypatch.setattr(markov, "_BLOCK", block)
    models = markov.fit(random_segments(2, (400,)), max_order=3)
    held_out = random_segments(3, (60, 1, 4, 200, 0))
    scores = markov.evaluate(models, held_out, first_target=first_target)
    assert list(scores) == [0, 1, 2, 3]
    for order, score in scores.items():
        expected = slow_score(models, held_out, order, first_target)
        assert score.count == expected.count
        assert score.accuracy == pytest.approx(expected.accuracy, rel=1e-14)
        assert score.perplexity == pytest.approx(expected.perplexity, rel=1e-12)


def test_windows_that_share_one_base_score_every_position_once() -> None:
    models = markov.fit(random_segments(4, (3000,), n_share=0.0), max_order=2)
    (contig,) = random_segments(5, (1001,), n_share=0.0)
    windows = [contig[start : start + 101] for start in range(0, 1000, 100)]
    whole, tiled = markov.evaluate(models, [contig]), markov.evaluate(models, windows)
    assert whole[2].count == tiled[2].count == 1000
    assert tiled[0].perplexity == pytest.approx(whole[0].perplexity, rel=1e-12)
    assert tiled[1].perplexity == pytest.approx(whole[1].perplexity, rel=1e-12)
    assert tiled[2].perplexity != pytest.approx(whole[2].perplexity, rel=1e-6)


def test_a_cycle_is_learnt_by_the_order_that_sees_enough() -> None:
    scores = markov.evaluate(
        markov.fit([ids("AACC" * 5000)], max_order=3, reverse_complement=False), [ids("AACC" * 100)]
    )
    assert scores[0].perplexity == pytest.approx(2.0, abs=2e-3)
    assert scores[1].perplexity == pytest.approx(2.0, abs=2e-3)
    assert scores[2].perplexity == pytest.approx(1.0, abs=5e-3)
    assert scores[3].accuracy > 0.995


def test_yeast_reference_figures(shared: Path) -> None:
    contigs: dict[str, list[bytes]] = {}
    with gzip.open(shared / "data" / "sacCer3.fa.gz") as lines:
        for line in lines:
            if line.startswith(b">"):
                contigs[line[1:].split()[0].decode()] = []
            else:
                contigs[next(reversed(contigs))].append(line.strip())
    genome = {name: BYTE_TO_ID[np.frombuffer(b"".join(parts), dtype=np.uint8)] for name, parts in contigs.items()}
    models = markov.fit(segment for name, segment in genome.items() if name not in ("chrXVI", "chrM"))
    held_out = genome["chrXVI"]
    windows = [held_out[start : start + 1025] for start in range(0, len(held_out) - 1, 1024)]
    scores = markov.evaluate(models, windows)
    assert {order: round(scores[order].perplexity, 4) for order in (0, 3, 8)} == {0: 3.8866, 3: 3.8387, 8: 3.8164}
    assert min(scores, key=lambda order: scores[order].perplexity) == 8
    assert {score.count for score in scores.values()} == {len(held_out) - 1}


@pytest.mark.parametrize("order", [-1, 13])
def test_refuses_an_order_out_of_range(order: int) -> None:
    with pytest.raises(InputError, match="max_order must lie between 0 and 12"):
        markov.fit([ids("ACGT")], max_order=order)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_refuses_a_strength_that_is_not_positive(strength: float) -> None:
    with pytest.raises(InputError, match="prior_strength must be positive"):
        markov.fit([ids("ACGT")], prior_strength=strength)


@pytest.mark.parametrize("segment", [np.zeros((2, 3), dtype=np.uint8), np.zeros(3, dtype=np.float32)])
def test_refuses_what_is_no_segment(segment: np.ndarray) -> None:
    with pytest.raises(InputError, match="1-d array of token ids"):
        markov.fit([segment])


@pytest.mark.parametrize("segments", [[], [np.zeros(0, dtype=np.uint8)], [np.full(9, 11, dtype=np.uint8)]])
def test_refuses_segments_without_a_nucleotide(segments: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="no A, C, G or T in the training segments"):
        markov.fit(segments)
    with pytest.raises(InputError, match="no A, C, G or T to score"):
        markov.evaluate(markov.fit([ids("ACGT")], max_order=1), segments)


def test_refuses_a_negative_first_target() -> None:
    with pytest.raises(InputError, match="first_target"):
        markov.evaluate(markov.fit([ids("ACGT")], max_order=1), [ids("ACGT")], first_target=-1)
