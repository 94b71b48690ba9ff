"""Noise as of a sequencer: insertions, deletions and mismatches, with sequences that stay as long as they were.

Source: Malusare et al. 2024 (arXiv 2311.02333), the task of noise identification: "2 % of each at random".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import NUCLEOTIDE_IDS

_FIRST = NUCLEOTIDE_IDS["A"]
_DEVIATIONS = 8
"""Standard deviations of the bases that are lost, which a source has to spare."""


class NoiseRates(NamedTuple):
    """Probabilities for each base: another one before it, its loss, and its replacement."""

    insertion: float
    deletion: float
    mismatch: float

    def scaled(self, factor: float) -> NoiseRates:
        """All three times a factor."""
        return NoiseRates(*(rate * factor for rate in self))


class Corrupted(NamedTuple):
    """A noisy sequence, and how often each kind of noise was drawn for it."""

    bases: np.ndarray
    insertions: int
    deletions: int
    mismatches: int


def corrupt(bases: np.ndarray, rates: NoiseRates, rng: np.random.Generator) -> Corrupted:
    """Put noise into a sequence. For each base there is one draw, so at most one of the three happens to it.

    Args:
        bases: ids of bases, uint8 ``(L,)``. N and other ids may be lost or have a base before them, and are never
            replaced.
        rates: probabilities of the three.
        rng: draws the noise.

    Raises:
        InputError: a rate is negative, or they add up to more than 1.
    """
    if min(rates) < 0 or not sum(rates) <= 1:
        raise InputError(f"noise: rates must be 0 or more and add up to at most 1, got {tuple(rates)}")
    draw = rng.random(len(bases))
    inserts = draw < rates.insertion
    lost = ~inserts & (draw < rates.insertion + rates.deletion)
    replaced = ~inserts & ~lost & (draw < sum(rates)) & is_base(bases)
    changed = np.where(replaced, other_base(bases, rng), bases)
    copies = np.where(inserts, 2, np.where(lost, 0, 1))
    found = np.repeat(changed, copies)
    places = (np.cumsum(copies) - copies)[inserts]
    found[places] = rng.integers(4, size=len(places)) + _FIRST
    return Corrupted(found, int(inserts.sum()), int(lost.sum()), int(replaced.sum()))


def source_length(length: int, deletion: float) -> int:
    """Bases of a source from which ``length`` are left after deletions, in all but one case of 10^12 or so.

    Of ``n`` bases ``n (1 - deletion)`` stay, with a variance of ``n deletion (1 - deletion)``. The result is the least
    ``n`` for which eight standard deviations fewer are enough.

    Args:
        length: bases that must be left.
        deletion: probability of the loss of a base, below 1.
    """
    if deletion == 0:
        return length
    kept = 1 - deletion
    spread = _DEVIATIONS * math.sqrt(deletion * kept)
    root = (spread + math.sqrt(spread**2 + 4 * kept * length)) / (2 * kept)
    return math.ceil(root**2)


def corrupt_to(bases: np.ndarray, length: int, rates: NoiseRates, rng: np.random.Generator) -> np.ndarray:
    """Put noise into a source, and cut what is left to a length. It is that length at any rates.

    Args:
        bases: ids of bases, uint8 ``(L,)`` with ``L`` of at least ``source_length(length, rates.deletion)``.
        length: bases to return. Insertions push bases out at the end, and deletions let others of the source in.
        rates: see :func:`corrupt`. With three zeros the source is only cut.
        rng: draws the noise.

    Raises:
        InputError: the source is too short, or the rates are impossible.
    """
    if len(bases) < (least := source_length(length, rates.deletion)):
        raise InputError(f"noise: a source of {length:,} bases needs {least:,}, and this one has {len(bases):,}")
    # A draw that loses too much is drawn again. This is so rare that the rates do not notice.
    while len(found := corrupt(bases, rates, rng).bases) < length:
        pass
    return found[:length]


def diverge(bases: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Replace each base by another one with probability ``rate``."""
    replaced = (rng.random(len(bases)) < rate) & is_base(bases)
    return np.where(replaced, other_base(bases, rng), bases)


def is_base(bases: np.ndarray) -> np.ndarray:
    """Where the ids are A, C, G or T."""
    return (bases >= _FIRST) & (bases < _FIRST + 4)


def other_base(bases: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the three other bases for each, all being equally likely."""
    steps = rng.integers(1, 4, size=len(bases))
    return ((bases.astype(np.int64) - _FIRST + steps) % 4 + _FIRST).astype(bases.dtype)
