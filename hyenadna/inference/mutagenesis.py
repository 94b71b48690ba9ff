"""In-silico mutagenesis: what every change of every base of a region does to its likelihood."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, NUCLEOTIDE_IDS
from hyenadna.data.genome import Genome
from hyenadna.inference.likelihood import LogLikelihoodScorer

BASES = "ACGT"


def saturation_mutagenesis(
    likelihood: LogLikelihoodScorer, genome: Genome, contig: str, start: int, end: int, size: int
) -> np.ndarray:
    """Log-likelihood of a window with one base changed minus that of the window as it is, in nats.

    All windows are the same ``size`` bases around the region, so that every change has what the contig holds left of it
    as context and what is right of it to be felt in.

    Args:
        likelihood: of a language model.
        genome: the genome.
        contig: of the region.
        start: first position of the region, 0-based.
        end: one past its last.
        size: bases in the window, at least those of the region.

    Returns:
        float64 ``(4, end - start)``, rows A, C, G, T; 0 where the row is the genome's own base, NaN where that is N.

    Raises:
        InputError: the region is empty, not within its contig, or longer than the window.
    """
    if not 0 < end - start <= size:
        raise InputError(f"region {contig}:{start}-{end}: must hold 1 to {size} bases, the window that a model reads")
    region = genome.tokens(contig, start, end)
    first = max(0, start - (size - (end - start)) // 2)
    last = min(genome.contig(contig).length, first + size)
    window = np.array(genome.tokens(contig, first, last))
    name = f"{contig}:{start}-{end}"
    changes = [
        (row, column)
        for column, base in enumerate(region.tolist())
        for row, letter in enumerate(BASES)
        if base not in (N_ID, NUCLEOTIDE_IDS[letter])
    ]

    def windows() -> Iterator[tuple[str, np.ndarray]]:
        yield name, window
        for row, column in changes:
            changed = window.copy()
            changed[start - first + column] = NUCLEOTIDE_IDS[BASES[row]]
            yield name, changed

    nats = likelihood(windows())
    reference = float(np.nansum(next(nats)))
    effects = np.zeros((len(BASES), end - start))
    effects[:, region == N_ID] = np.nan
    for (row, column), values in zip(changes, nats, strict=True):
        effects[row, column] = float(np.nansum(values)) - reference
    return effects
