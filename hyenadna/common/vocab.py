"""The vocabulary as lookup tables. It needs only numpy, so that reading a genome does not import torch.

Ids of the published HyenaDNA checkpoints: ``[CLS] 0, [SEP] 1, [BOS] 2, [MASK] 3, [PAD] 4, [RESERVED] 5,
[UNK] 6, A 7, C 8, G 9, T 10, N 11``.
"""

from __future__ import annotations

import numpy as np

SPECIAL_IDS = {"[CLS]": 0, "[SEP]": 1, "[BOS]": 2, "[MASK]": 3, "[PAD]": 4, "[RESERVED]": 5, "[UNK]": 6}
NUCLEOTIDE_IDS = {"A": 7, "C": 8, "G": 9, "T": 10, "N": 11}
VOCAB = {**SPECIAL_IDS, **NUCLEOTIDE_IDS}

CLS_ID = SPECIAL_IDS["[CLS]"]
SEP_ID = SPECIAL_IDS["[SEP]"]
BOS_ID = SPECIAL_IDS["[BOS]"]
MASK_ID = SPECIAL_IDS["[MASK]"]
PAD_ID = SPECIAL_IDS["[PAD]"]
RESERVED_ID = SPECIAL_IDS["[RESERVED]"]
UNK_ID = SPECIAL_IDS["[UNK]"]
N_ID = NUCLEOTIDE_IDS["N"]

BASES = "ACGT"
LETTERS = {id_: letter for letter, id_ in NUCLEOTIDE_IDS.items()}
"""Letter of each nucleotide id."""

MOST_BASES = 8
"""Most bases of a word that is one token: 4^8 rows of an embedding of width 128 are 8.4 M parameters."""

IUPAC_AMBIGUITY = "RYSWKMBDHV"


def letter_ids(case_sensitive: bool = False) -> dict[str, int]:
    """The id of every letter that is read as a nucleotide: ``U`` is T, and IUPAC ambiguity codes are N."""
    letters = {**NUCLEOTIDE_IDS, "U": NUCLEOTIDE_IDS["T"], **dict.fromkeys(IUPAC_AMBIGUITY, N_ID)}
    return letters if case_sensitive else letters | {letter.lower(): id_ for letter, id_ in letters.items()}


def kmer_vocab_size(k: int) -> int:
    """Tokens of a model of words of ``k`` bases: the special tokens and 4^k words."""
    return len(SPECIAL_IDS) + len(BASES) ** k


def _byte_table(case_sensitive: bool) -> np.ndarray:
    table = np.full(256, UNK_ID, dtype=np.uint8)
    for letter, token_id in letter_ids(case_sensitive).items():
        table[ord(letter)] = token_id
    table.setflags(write=False)
    return table


def _complement_table() -> np.ndarray:
    table = np.arange(16, dtype=np.uint8)
    for base, partner in ("AT", "TA", "CG", "GC"):
        table[NUCLEOTIDE_IDS[base]] = NUCLEOTIDE_IDS[partner]
    table.setflags(write=False)
    return table


BYTE_TO_ID = _byte_table(case_sensitive=False)
"""uint8 (256,): ASCII byte to token id. Lower case (soft masking) reads as upper case; other bytes are ``[UNK]``."""

CASE_SENSITIVE_BYTE_TO_ID = _byte_table(case_sensitive=True)
"""uint8 (256,): as ``BYTE_TO_ID``, but lower case is ``[UNK]``, as in the original code."""

COMPLEMENT = _complement_table()
"""uint8 (16,): token id to the id of its complementary base; every other id maps to itself."""


_ID_TO_LETTER = bytes(ord(LETTERS.get(token, "N")) for token in range(256))


def letters_of(ids: np.ndarray) -> str:
    """The letters of token ids below 256, of any integer dtype, ``(L,)``. What is no nucleotide reads as N."""
    return ids.astype(np.uint8, copy=False).tobytes().translate(_ID_TO_LETTER).decode("ascii")


def reverse_complement(ids: np.ndarray) -> np.ndarray:
    """Reverse complement along the last axis: uint8 ids ``(..., L)`` to a new array of the same shape.

    A and T change places, and so do C and G. N and the special tokens stay what they are.
    """
    return np.take(COMPLEMENT, ids[..., ::-1])
