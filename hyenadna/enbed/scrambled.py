"""Training pairs of which some have other bases, the same in parent and child."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from hyenadna.common.vocab import BASES
from hyenadna.enbed.seq2seq import Pair

_LETTERS = np.array([*BASES])


class ScrambledPairs(Sequence[Pair]):
    """Pairs, over and over, with new bases in some of them at each turn.

    Sequences of one phylogeny are so much alike that a model learns them by heart, and not to copy its input. In a
    scrambled pair each place where both have the same base gets a random one, in both, with a probability that is
    drawn uniformly for each pair. The places that mutate stay. Pairs whose texts have different lengths stay whole.

    Args:
        pairs: the pairs.
        share: the probability that a pair is scrambled.
        count: number of items.
        seed: seed of the new bases.
    """

    def __init__(self, pairs: Sequence[Pair], share: float, count: int, seed: int) -> None:
        self._pairs, self._share, self._count, self._seed = pairs, share, count, seed

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> list[Pair]: ...
    def __getitem__(self, place: int | slice) -> Pair | list[Pair]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(self._count))]
        if not 0 <= place < self._count:
            raise IndexError(place)
        pair = self._pairs[place % len(self._pairs)]
        rng = np.random.default_rng((self._seed, place))
        if rng.random() >= self._share or len(pair.source) != len(pair.target):
            return pair
        source, target = np.array([*pair.source]), np.array([*pair.target])
        changed = (source == target) & (rng.random(len(source)) < rng.random())
        source[changed] = target[changed] = rng.choice(_LETTERS, size=int(changed.sum()))
        return Pair("".join(source), "".join(target))
