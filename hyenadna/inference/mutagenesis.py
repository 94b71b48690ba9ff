"""Saturation mutagenesis: the effect of every substitution in a region on its likelihood."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BASES, N_ID, NUCLEOTIDE_IDS
from hyenadna.data.genome import Genome
from hyenadna.inference.likelihood import LogLikelihoodScorer


def saturation_mutagenesis(
    scorer: LogLikelihoodScorer, genome: Genome, contig: str, start: int, end: int, size: int
) -> np.ndarray:
    """Change of a window's log-likelihood, in nats, when one base is replaced.

    One window of ``size`` bases around the region serves all substitutions. So each of them has the bases to its left
    as context, and changes the likelihood of the bases to its right.

    Args:
        scorer: scorer of a language model.
        genome: the genome.
        contig: contig of the region.
        start: first position of the region, 0-based.
        end: one past the last position.
        size: bases in the window, at least as many as in the region.

    Returns:
        float64 ``(4, end - start)``, rows A, C, G and T. It is 0 for the genome's own base. It is NaN where that is N,
        and for the first base of the window, whose own likelihood is not scored: at the start of the contig, or if the
        region fills the window.

    Raises:
        InputError: the region is empty, not within its contig, or longer than the window.
    """
    if not 0 < end - start <= size:
        raise InputError(f"region {contig}:{start}-{end}: must hold 1 to {size} bases, the window that the model reads")
    region = genome.tokens(contig, start, end)
    first = max(0, start - (size - (end - start)) // 2)
    last = min(genome.contig(contig).length, first + size)
    window = np.array(genome.tokens(contig, first, last))
    name = f"{contig}:{start}-{end}"
    changes = [
        (row, column)
        for column, base in enumerate(region.tolist())
        if first < start + column
        for row, letter in enumerate(BASES)
        if base not in (N_ID, NUCLEOTIDE_IDS[letter])
    ]

    def windows() -> Iterator[tuple[str, np.ndarray]]:
        yield name, window
        for row, column in changes:
            changed = window.copy()
            changed[start - first + column] = NUCLEOTIDE_IDS[BASES[row]]
            yield name, changed

    nats = scorer(windows())
    reference = float(np.nansum(next(nats)))
    effects = np.zeros((len(BASES), end - start))
    effects[:, region == N_ID] = np.nan
    if first == start:
        effects[:, 0] = np.nan
    for (row, column), values in zip(changes, nats, strict=True):
        effects[row, column] = float(np.nansum(values)) - reference
    return effects
