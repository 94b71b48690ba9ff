"""What a model reads in place of ids of bases, if it reads something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hyenadna.model.kmers import Kmers


class Words(Protocol):
    """Tokens that are made from ids of bases: words of k bases, or the bytes of letters."""

    @property
    def pad_id(self) -> int:
        """The token behind the end of a sequence."""

    def count(self, length: int) -> int:
        """Tokens of so many bases."""

    def most_bases(self, tokens: int) -> int:
        """The length of the longest sequence with so many tokens."""

    def ids(self, bases: np.ndarray) -> np.ndarray:
        """The tokens of a sequence, int64 ``(count(L),)``, from ids of bases ``(L,)``.

        Raises:
            InputError: the sequence is shorter than a word.
        """


def words_of(config: Any) -> Words | None:
    """What a model of this configuration reads: its ``words``, words of k bases, or None for ids of bases."""
    own: Words | None = getattr(config, "words", None)
    return Kmers.of(config) if own is None else own


def as_tokens(rows: Sequence[np.ndarray], words: Words | None) -> Sequence[np.ndarray]:
    """Sequences of bases as the tokens that a model reads: its words, or the same bases where ``words`` is None.

    Raises:
        InputError: a sequence is shorter than a word.
    """
    return rows if words is None else [words.ids(row) for row in rows]
