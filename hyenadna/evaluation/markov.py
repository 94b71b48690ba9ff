"""Markov baselines of DNA, of order 0 to 12.

An order-k model predicts the next nucleotide from the k before it. Fitting means counting, so a genome takes seconds. A
neural model that does not beat the best of them has learnt nothing that needs context.

Every position is counted once, under its longest context. Summing out the oldest bases then gives the counts of all
orders and of the other strand, and the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.score import Score
from hyenadna.common.vocab import NUCLEOTIDE_IDS

_FIRST_ID = NUCLEOTIDE_IDS["A"]
BREAK = 4
"""Stands in `blocks` for an id that is no nucleotide, and between segments."""
_BLOCK = 1 << 20
MAX_ORDER = 12
"""Longest context of a table of all contexts, in bases."""


@dataclass(frozen=True)
class MarkovModels:
    """Counts of the models of order 0 to ``max_order``, and their smoothing.

    Attributes:
        counts: for each order k int64 ``(4**k, 4)``, how often each nucleotide (A, C, G, T) follows each context. The
            row of a context is its bases as digits in base 4, the oldest first.
        prior_strength: weight, in observations, of the next shorter context.
    """

    counts: tuple[np.ndarray, ...]
    prior_strength: float

    @property
    def max_order(self) -> int:
        """Length of the longest context, in bases."""
        return len(self.counts) - 1

    def probabilities(self) -> list[np.ndarray]:
        """float64 ``(4**k, 4)`` for each order k. Rows sum to 1.

        Interpolated back-off: ``p_k = (counts + s * p_{k-1}) / (sum(counts) + s)`` with s = ``prior_strength`` and a
        uniform ``p_{-1}``. So an unseen context has the probabilities of the next shorter one.
        """
        tables: list[np.ndarray] = []
        shorter = np.full((1, 4), 0.25)
        for counts in self.counts:
            prior = np.tile(shorter, (len(counts) // len(shorter), 1))
            shorter = (counts + self.prior_strength * prior) / (counts.sum(axis=1, keepdims=True) + self.prior_strength)
            tables.append(shorter)
        return tables


def fit(
    segments: Iterable[np.ndarray], max_order: int = 8, reverse_complement: bool = True, *, prior_strength: float = 1.0
) -> MarkovModels:
    """Count every window of ``k + 1`` bases within the segments, for each order k from 0 to ``max_order``.

    Args:
        segments: token ids, integer ``(length,)`` each: contigs or parts of them. A window spans neither other ids
            than A, C, G and T nor the border of two segments.
        max_order: 0 to 12. Memory grows as ``4**(max_order + 1)``.
        reverse_complement: also count the other strand.
        prior_strength: weight, in observations, of the next shorter context (see ``MarkovModels.probabilities``).

    Raises:
        InputError: the order is out of range, the strength is not positive, a segment is not a 1-d integer array, or
            there is no nucleotide at all.
    """
    if not 0 <= max_order <= MAX_ORDER:
        raise InputError(f"markov: max_order must lie between 0 and {MAX_ORDER}, got {max_order}")
    if not prior_strength > 0:
        raise InputError(f"markov: prior_strength must be positive, got {prior_strength}")
    counts = _windows(_tally(segments, max_order, first_target=0))
    if reverse_complement:
        counts = [forward + _other_strand(forward) for forward in counts]
    if not counts[0].any():
        raise InputError("markov: no A, C, G or T in the training segments: give contigs that hold sequence")
    return MarkovModels(tuple(table.reshape(-1, 4) for table in counts), prior_strength)


def evaluate(models: MarkovModels, segments: Iterable[np.ndarray], first_target: int = 1) -> dict[int, Score]:
    """Score each order on the same held-out positions, in float64.

    Every order scores each A, C, G and T at index ``first_target`` or later of its segment exactly once. If fewer than
    k bases come before it (near the start of a segment, or after an N), the order-k model uses the longest order that
    fits. For windows and ``first_target=1`` these are the positions that a next-token model scores.

    Raises:
        InputError: ``first_target`` is negative, a segment is not a 1-d integer array, or there is nothing to score.
    """
    if first_target < 0:
        raise InputError(f"markov: first_target must not be negative, got {first_target}")
    tallies = _tally(segments, models.max_order, first_target)
    count = int(sum(tally.sum() for tally in tallies))
    if count == 0:
        raise nothing_to_score()
    scores = {}
    short_nats, short_hits = 0.0, 0
    for order, (table, tally, windows) in enumerate(
        zip(models.probabilities(), tallies, _windows(tallies), strict=True)
    ):
        nats = -np.log(table).ravel()
        choices = np.arange(len(table)) * 4 + table.argmax(axis=1)
        scores[order] = Score(
            perplexity=float(np.exp((short_nats + windows @ nats) / count)),
            accuracy=float((short_hits + windows[choices].sum()) / count),
            count=count,
        )
        short_nats += float(tally @ nats)
        short_hits += int(tally[choices].sum())
    return scores


def nothing_to_score() -> InputError:
    """The error of held-out segments without A, C, G and T."""
    return InputError("markov: no A, C, G or T to score in the held-out segments: give contigs that hold sequence")


def blocks(
    segments: Iterable[np.ndarray], max_order: int, first_target: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Concatenate the segments, with a break after each, and yield blocks of about ``_BLOCK`` bases.

    Yields:
        int32 ``(n,)``, 0 to 3 or ``BREAK``; and bool ``(n,)``, whether the position is counted in this block. The
        context that is repeated from the block before is not counted again.
    """
    bases: list[np.ndarray] = []
    wanted: list[np.ndarray] = []
    size = 0
    for segment in segments:
        ids = np.asarray(segment)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"markov: a segment must be a 1-d array of token ids, got {ids.dtype} {ids.shape}")
        for start in range(0, len(ids), _BLOCK):
            context_start = max(0, start - max_order)
            piece = ids[context_start : start + _BLOCK].astype(np.int32) - _FIRST_ID
            piece[(piece < 0) | (piece > 3)] = BREAK
            bases += [piece, np.array([BREAK], dtype=np.int32)]
            wanted += [
                np.arange(context_start, context_start + len(piece)) >= max(start, first_target),
                np.array([False]),
            ]
            size += len(piece)
            if size >= _BLOCK:
                yield np.concatenate(bases), np.concatenate(wanted)
                bases, wanted, size = [], [], 0
    if size:
        yield np.concatenate(bases), np.concatenate(wanted)


def _tally(segments: Iterable[np.ndarray], max_order: int, first_target: int) -> list[np.ndarray]:
    """For d from 0 to ``max_order``: int64 ``(4**(d + 1),)``, how often each window of d + 1 bases occurs.

    Tally d counts the windows that end at a position whose longest context is d, or at least d for ``max_order``. So
    each position is in exactly one tally.
    """
    tallies = [np.zeros(4 ** (depth + 1), dtype=np.int64) for depth in range(max_order + 1)]
    for bases, wanted in blocks(segments, max_order, first_target):
        index = np.arange(len(bases), dtype=np.int32)
        is_break = bases == BREAK
        depth = np.minimum(index - 1 - np.maximum.accumulate(np.where(is_break, index, -1)), max_order)
        digits = np.where(is_break, 0, bases)
        code = digits.copy()
        for back in range(1, min(max_order, len(bases) - 1) + 1):
            code[back:] |= digits[:-back] << (2 * back)
        wanted = wanted & ~is_break
        deepest = wanted & (depth == max_order)
        tallies[max_order] += np.bincount(code[deepest], minlength=4 ** (max_order + 1))
        shallow = np.flatnonzero(wanted & ~deepest)
        for d in range(max_order):
            chosen = code[shallow[depth[shallow] == d]]
            tallies[d] += np.bincount(chosen & (4 ** (d + 1) - 1), minlength=4 ** (d + 1))
    return tallies


def _windows(tallies: list[np.ndarray]) -> list[np.ndarray]:
    """For each order k: int64 ``(4**(k + 1),)``, the counts of windows of k + 1 bases, with older bases summed out."""
    windows = [tallies[-1]]
    for tally in reversed(tallies[:-1]):
        windows.append(windows[-1].reshape(4, -1).sum(axis=0) + tally)
    return windows[::-1]


def _other_strand(windows: np.ndarray) -> np.ndarray:
    """Counts of the reverse complements: base b becomes 3 - b (flip every axis), in reverse order (transpose)."""
    length = (windows.size.bit_length() - 1) // 2
    return np.flip(windows.reshape((4,) * length)).transpose().ravel()
