"""Words of k bases as tokens: the k-mer row of HyenaDNA's ablations, as in DNABERT.

The paper says 6-mers and no more. Here they overlap with a stride of 1, unless another is asked for. The ids are made
from ids of bases, after cropping and after the reverse complement.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BASES, MOST_BASES, NUCLEOTIDE_IDS, PAD_ID, SPECIAL_IDS, UNK_ID, kmer_vocab_size
from hyenadna.model.tokenizer import DNATokenizer

_FIRST = len(SPECIAL_IDS)
_A, _T = NUCLEOTIDE_IDS["A"], NUCLEOTIDE_IDS["T"]


class Kmers(NamedTuple):
    """Words of ``k`` bases, each ``stride`` bases after the one before."""

    k: int
    stride: int = 1

    @property
    def pad_id(self) -> int:
        """The token behind the end of a sequence."""
        return PAD_ID

    @classmethod
    def of(cls, config: Any) -> Kmers | None:
        """The words that a model of this configuration reads; None if it reads bases."""
        k = getattr(config, "kmer", None)
        return None if k is None else cls(k, config.kmer_stride)

    def count(self, length: int) -> int:
        """Tokens of so many bases. Bases behind the last whole word are one more token."""
        whole = (length - self.k) // self.stride + 1
        return whole + ((whole - 1) * self.stride + self.k < length) if length >= self.k else 0

    def most_bases(self, tokens: int) -> int:
        """The length of the longest sequence with so many tokens."""
        return (tokens - 1) * self.stride + self.k

    def ids(self, bases: np.ndarray) -> np.ndarray:
        """The tokens of a sequence.

        Args:
            bases: ids of bases ``(L,)``, as :class:`DNATokenizer` gives them.

        Returns:
            int64 ``(count(L),)``: 7 + the word read as a number to the base of 4, with A 0, C 1, G 2, T 3 and the first
            base counting most. A word with anything else in it is ``[UNK]``, and so is a last one that is too short.

        Raises:
            InputError: the sequence is shorter than a word.
        """
        if len(bases) < self.k:
            raise InputError(f"a sequence of {len(bases)} bases has no word of {self.k}: leave it out")
        digits = bases.astype(np.int64) - _A
        known = (bases >= _A) & (bases <= _T)
        starts = len(bases) - self.k + 1
        values = np.zeros(starts, dtype=np.int64)
        whole = np.ones(starts, dtype=bool)
        for place in range(self.k):
            values = values * len(BASES) + digits[place : place + starts]
            whole &= known[place : place + starts]
        found = np.where(whole, values + _FIRST, UNK_ID)[:: self.stride]
        return np.append(found, UNK_ID) if self.count(len(bases)) > len(found) else found


class KmerTokenizer(DNATokenizer):
    """One token for each word of k bases. Letters are read as by :class:`DNATokenizer`.

    By default no token is added, as in training. ``[UNK]`` stands for a word with N in it.

    Args:
        k: bases of a word, 1 to 8.
        stride: bases from the start of a word to that of the next, 1 to k. With k, words do not overlap.
        add_sep_token: end a sequence with ``[SEP]``.
        kwargs: further arguments of :class:`DNATokenizer`.

    Raises:
        InputError: an argument has the wrong type or value. When called: a sequence is shorter than a word.

    Example:
        >>> from hyenadna.model.kmers import KmerTokenizer
        >>> print(*KmerTokenizer(k=3)("ACGTN")["input_ids"])
        13 34 6
    """

    def __init__(self, k: int = 6, stride: int = 1, add_sep_token: bool = False, **kwargs: Any) -> None:
        check_kmers(k, stride, "tokenizer")
        self.k, self.stride = k, stride
        self._kmers = Kmers(k, stride)
        super().__init__(add_sep_token=add_sep_token, k=k, stride=stride, **kwargs)
        self._vocab = _vocabulary(k)
        self._id_to_token = {token_id: token for token, token_id in self._vocab.items()}

    @property
    def vocab_size(self) -> int:
        """Seven special tokens and 4^k words: 4,103 for k of 6. A model pads its rows to 4,104."""
        return kmer_vocab_size(self.k)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        # transformers asks before the words are there, while it adds the special tokens.
        return getattr(self, "_vocab", SPECIAL_IDS) | self._added_tokens_encoder

    def encode_array(self, sequence: str | bytes) -> np.ndarray:
        """Ids of a bare sequence, int64, without special tokens."""
        return self._kmers.ids(super().encode_array(sequence))

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self._convert_id_to_token(int(token)) for token in self.encode_array(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocab.get(token, UNK_ID)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join the tokens with spaces: words that overlap are no sequence of bases."""
        return " ".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write ``vocab.json``. There is no ``tokenizer.json``, which cannot describe words that overlap."""
        path = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + "vocab.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._vocab, file)
            file.write("\n")
        return (path,)


def check_kmers(k: Any, stride: Any, where: str) -> None:
    """Raise InputError unless there are words of ``k`` bases and such a stride. ``where`` begins the message."""
    for name, value, most in (("k", k, MOST_BASES), ("stride", stride, k)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InputError(f"{where}: {name} of the k-mers must be an integer from 1 to {most}, got {value!r}")


def _vocabulary(k: int) -> dict[str, int]:
    words = [""]
    for _ in range(k):
        words = [word + base for word in words for base in BASES]
    return SPECIAL_IDS | {word: _FIRST + number for number, word in enumerate(words)}
