from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID
from hyenadna.data.genome import TOKENS_FILE, Contig, Genome
from hyenadna.data.n_counts import BLOCK, NCounts


def make(folder: Path, ids: np.ndarray, n_count: int) -> Genome:
    ids.tofile(folder / TOKENS_FILE)
    # The contig in front makes blocks of the file and of the contig differ.
    return Genome(folder, [Contig("front", 77, 0, 0, 0), Contig("a", len(ids) - 77, 77, n_count, 0)], "", "made")


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_every_count_is_exact(tmp_path: Path, length: int) -> None:
    rng = np.random.default_rng(length)
    ids = np.where(rng.random(77 + length) < 0.3, N_ID, 7).astype(np.uint8)
    is_n = ids[77:] == N_ID
    counts = NCounts(make(tmp_path, ids, int(is_n.sum())), ["a", "front", "a"])
    near_borders = [border + shift for border in range(0, length + BLOCK, BLOCK // 2) for shift in (-1, 0, 1)]
    places = sorted(
        {0, length, *(p for p in near_borders if 0 <= p <= length), *rng.integers(0, length + 1, 5).tolist()}
    )
    for start in places:
        for end in (p for p in places if p >= start):
            assert counts.count("a", start, end) == is_n[start:end].sum()
    assert counts.count("front", 0, 77) == 0


def test_a_genome_whose_index_is_wrong_is_refused(tmp_path: Path) -> None:
    genome = make(tmp_path, np.full(200, N_ID, np.uint8), 122)
    with pytest.raises(InputError, match="contig 'a' holds 123 N where the index says 122; prepare the genome again"):
        NCounts(genome, ["a"])
