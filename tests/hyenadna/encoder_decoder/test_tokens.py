from __future__ import annotations

import numpy as np

from hyenadna.encoder_decoder.tokens import (
    BYTES,
    EOS,
    FIRST_SENTINEL,
    PAD,
    VOCAB_SIZE,
    as_text,
    base_ids,
    text_ids,
    tokenizer,
)
from hyenadna.model.tokenizer import DNATokenizer


def test_ids_are_those_of_byt5() -> None:
    byt5 = tokenizer()
    assert len(byt5) == VOCAB_SIZE == 384
    assert (byt5.pad_token_id, byt5.eos_token_id, byt5.unk_token_id) == (PAD, EOS, 2) == (0, 1, 2)
    assert byt5("ACGTN")["input_ids"] == [68, 70, 74, 87, 81, 1]
    assert byt5.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_124>"]) == [FIRST_SENTINEL, 383] == [259, 383]


def test_text_and_back() -> None:
    for text in ("ACGTN", "lncRNA", "é", ""):
        assert text_ids(text).tolist() == tokenizer()(text)["input_ids"]
        assert as_text(text_ids(text)) == text
    # What comes after eos, and what is no byte, is no text.
    assert as_text([FIRST_SENTINEL, 68, 70, EOS, 74]) == "AC"
    assert text_ids("AC", eos=False).tolist() == [68, 70]


def test_bases_become_their_letters() -> None:
    bases = DNATokenizer().encode_array("ACGTN")
    assert base_ids(bases).tolist() == text_ids("ACGTN", eos=False).tolist()
    assert BYTES.ids(bases).dtype == np.int64
    assert (BYTES.pad_id, BYTES.count(7), BYTES.most_bases(7)) == (PAD, 7, 7)
