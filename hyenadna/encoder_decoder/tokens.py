"""Bytes as tokens: the ids of ByT5, and the way from ids of bases to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.models.byt5 import ByT5Tokenizer

from hyenadna.common.vocab import VOCAB

PAD = 0
EOS = 1
_FIRST_BYTE = 3
"""Ids of pad, eos and unk come before the bytes."""
SENTINELS = 125
"""``<extra_id_0>`` to ``<extra_id_124>``. The original ByT5 counted downwards from the last byte instead."""
FIRST_SENTINEL = _FIRST_BYTE + 256
VOCAB_SIZE = FIRST_SENTINEL + SENTINELS

_OF_TOKENS = np.zeros(256, dtype=np.int64)
"""The byte's id of each id of ``DNATokenizer``. What is no letter there is a pad."""
for _token, _id in VOCAB.items():
    if len(_token) == 1:
        _OF_TOKENS[_id] = ord(_token) + _FIRST_BYTE


def tokenizer() -> Any:
    """The tokenizer: byte b has the id b + 3. Letters have to be upper case, as in training."""
    return ByT5Tokenizer()


def text_ids(text: str, *, eos: bool = True) -> np.ndarray:
    """Ids of a text, int64 ``(L,)``, as :func:`tokenizer` gives them."""
    ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + _FIRST_BYTE
    return np.append(ids, EOS) if eos else ids


def as_text(ids: Sequence[int] | np.ndarray) -> str:
    """The text of ids up to eos. Ids that are no bytes are left out, and bytes that are no UTF-8 are replaced."""
    values = np.asarray(ids, dtype=np.int64)
    ends = np.flatnonzero(values == EOS)
    values = values[: ends[0]] if ends.size else values
    values = values[(values >= _FIRST_BYTE) & (values < FIRST_SENTINEL)]
    return bytes((values - _FIRST_BYTE).astype(np.uint8)).decode(errors="replace")


def base_ids(bases: np.ndarray) -> np.ndarray:
    """Ids of the letters of a sequence, int64 ``(L,)``, from ids of bases as ``DNATokenizer`` gives them."""
    return _OF_TOKENS[bases]


class Bytes:
    """Bytes in place of bases, for what reads sequences as ids of bases: one token a base."""

    pad_id = PAD

    def ids(self, bases: np.ndarray) -> np.ndarray:
        """As :func:`base_ids`."""
        return base_ids(bases)

    def count(self, length: int) -> int:
        """Tokens of so many bases."""
        return length

    def most_bases(self, tokens: int) -> int:
        """The length of the longest sequence with so many tokens."""
        return tokens


BYTES = Bytes()
