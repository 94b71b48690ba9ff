"""Made telomeres: repeats of a short motif, on a random strand and from a random place of the repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyenadna.common.vocab import BYTE_TO_ID, reverse_complement

YEAST = "TG"
"""Stands for the repeats of baker's yeast: T and one to three G, each number being equally likely."""


def telomere(motif: str, length: int, rng: np.random.Generator) -> np.ndarray:
    """Ids of the bases of a made telomere, uint8 ``(length,)``.

    Args:
        motif: bases that repeat, such as TTAGGG of vertebrates, TTTAGGG of plants and TTAGG of insects; or ``YEAST``.
        length: number of bases.
        rng: draws the strand, the phase and the yeast's numbers of G.
    """
    if motif == YEAST:
        units = ["T" + "G" * int(count) for count in rng.integers(1, 4, size=length // 2 + 3)]
        text = "".join(units)
        first = int(rng.integers(3))
    else:
        text = motif * (length // len(motif) + 2)
        first = int(rng.integers(len(motif)))
    ids = BYTE_TO_ID[np.frombuffer(text.encode(), dtype=np.uint8)][first : first + length]
    return reverse_complement(ids) if rng.random() < 0.5 else ids


def telomeres(motifs: Sequence[str], count: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """So many made telomeres. The motifs take turns."""
    return [telomere(motifs[number % len(motifs)], length, rng) for number in range(count)]
