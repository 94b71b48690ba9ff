from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM, InputError
from hyenadna.common.vocab import BYTE_TO_ID, COMPLEMENT, NUCLEOTIDE_IDS, PAD_ID, SEP_ID, UNK_ID

VOCABULARY = ["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N"]


def test_ids_are_the_published_ones() -> None:
    tokenizer = DNATokenizer()
    assert tokenizer.convert_ids_to_tokens(range(12)) == VOCABULARY
    assert tokenizer.convert_tokens_to_ids(VOCABULARY) == list(range(12))
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(VOCABULARY)}
    assert (tokenizer.vocab_size, len(tokenizer)) == (12, 12)
    names = ("cls", "sep", "bos", "mask", "pad", "unk", "eos")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 1, 2, 3, 4, 6, 1]
    assert NUCLEOTIDE_IDS == {"A": 7, "C": 8, "G": 9, "T": 10, "N": 11}
    assert (SEP_ID, PAD_ID, UNK_ID) == (1, 4, 6)


def test_byte_table_reads_every_byte() -> None:
    expected = dict(zip(b"ACGTN", range(7, 12), strict=True)) | {ord("U"): 10} | dict.fromkeys(b"RYSWKMBDHV", 11)
    expected |= {byte + 32: token_id for byte, token_id in expected.items()}
    assert BYTE_TO_ID.dtype == np.uint8
    assert BYTE_TO_ID.tolist() == [expected.get(byte, 6) for byte in range(256)]


def test_complement_table() -> None:
    assert COMPLEMENT.dtype == np.uint8
    assert COMPLEMENT.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15]


def test_wrapping() -> None:
    tokenizer = DNATokenizer()
    assert tokenizer("ACGTN").input_ids == [7, 8, 9, 10, 11, 1]
    assert tokenizer("ACGTN", add_special_tokens=False).input_ids == [7, 8, 9, 10, 11]
    assert tokenizer("").input_ids == [1]
    assert DNATokenizer(add_cls_token=True)("AC").input_ids == [0, 7, 8, 1]
    assert tokenizer("AC", return_special_tokens_mask=True).special_tokens_mask == [0, 0, 1]
    assert set(tokenizer("A").keys()) == {"input_ids", "attention_mask"}


def test_bare_bases() -> None:
    tokenizer = DNATokenizer(add_sep_token=False)
    assert tokenizer("ACGTN").input_ids == [7, 8, 9, 10, 11]
    assert tokenizer("AC", "GT").input_ids == [7, 8, 9, 10]
    assert tokenizer("AC", return_special_tokens_mask=True).special_tokens_mask == [0, 0]
    assert tokenizer(["ACG", "A"], padding=True).input_ids == [[7, 8, 9], [7, 4, 4]]
    assert tokenizer("ACGT", truncation=True, max_length=3).input_ids == [7, 8, 9]


@pytest.mark.parametrize("wrong", [{"add_sep_token": "no"}, {"case_sensitive": 1}, {"add_cls_token": None}])
def test_switches_are_true_or_false(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"tokenizer: {next(iter(wrong))} must be true or false"):
        DNATokenizer(**wrong)
    with pytest.raises(InputError, match="needs add_sep_token"):
        DNATokenizer(add_cls_token=True, add_sep_token=False)


def test_letters() -> None:
    plain = {"add_special_tokens": False}
    assert DNATokenizer()("acgtnUuRy", **plain).input_ids == [7, 8, 9, 10, 11, 10, 10, 11, 11]
    assert DNATokenizer()("AX -é*", **plain).input_ids == [7, 6, 6, 6, 6, 6]
    assert DNATokenizer(case_sensitive=True)("ACgtURu", **plain).input_ids == [7, 8, 6, 6, 10, 11, 6]
    assert DNATokenizer()("A[MASK]c[SEP]", **plain).input_ids == [7, 3, 8, 1]
    assert DNATokenizer().convert_tokens_to_ids(["a", "é", "AC", "[PAD]"]) == [7, 6, 6, 4]


def test_batches_are_padded_on_the_right_unless_asked() -> None:
    batch = ["ACG", "A"]
    right = DNATokenizer()(batch, padding=True, return_tensors="pt")
    assert right.input_ids.tolist() == [[7, 8, 9, 1], [7, 1, 4, 4]]
    assert right.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    left = DNATokenizer(padding_side="left")(batch, padding=True)
    assert left.input_ids == [[7, 8, 9, 1], [4, 4, 7, 1]]
    assert DNATokenizer()("ACGT", truncation=True, max_length=3).input_ids == [7, 8, 1]


def test_decode_gives_the_sequence_back() -> None:
    tokenizer = DNATokenizer()
    ids = tokenizer(["ACGTN", "TT"], padding=True).input_ids
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ["ACGTN", "TT"]
    assert tokenizer.decode(ids[1]) == "TT[SEP][PAD][PAD][PAD]"
    assert tokenizer.decode(tokenizer.encode_array("acgu")) == "ACGT"


def test_encode_array_takes_a_megabase_in_milliseconds() -> None:
    tokenizer = DNATokenizer()
    sequence = np.random.default_rng(0).choice(np.frombuffer(b"ACGTacgtNnRX", np.uint8), 1_000_000).tobytes()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        ids = tokenizer.encode_array(sequence.decode())
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
    assert ids.dtype == np.uint8
    assert ids.shape == (1_000_000,)
    assert np.array_equal(ids, tokenizer.encode_array(sequence))
    assert ids[:1000].tolist() == tokenizer(sequence[:1000].decode(), add_special_tokens=False).input_ids
    assert ids.tolist() == tokenizer(sequence.decode(), add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_sep_token": False},
        {"case_sensitive": True},
        {"add_cls_token": True, "padding_side": "left", "model_max_length": 1026},
    ],
    ids=["default", "bare", "case sensitive", "cls, left"],
)
def test_saved_folder_loads_with_and_without_this_package(tmp_path: Path, options: dict[str, object]) -> None:
    tokenizer = DNATokenizer(**options)
    tokenizer.save_pretrained(tmp_path)
    HyenaDNAConfig().save_pretrained(tmp_path)
    batch = ["ACGTNacgtnUuRryX é-[SEP]A", "AC", ""]
    expected = tokenizer(batch, padding=True)
    for loaded in (DNATokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(loaded) is DNATokenizer
        assert loaded(batch, padding=True) == expected
        assert loaded.model_max_length == tokenizer.model_max_length
    fast = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert fast(batch, padding=True).input_ids == expected.input_ids
    assert fast.decode(expected.input_ids[0], skip_special_tokens=True) == tokenizer.decode(
        expected.input_ids[0], skip_special_tokens=True
    )


def test_auto_tokenizer_knows_the_published_name(tmp_path: Path) -> None:
    HyenaDNAConfig().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "HyenaDNATokenizer", "model_max_length": 1026, "padding_side": "left",'
        ' "auto_map": {"AutoTokenizer": ["tokenization_hyena.HyenaDNATokenizer", null]}}'
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, DNATokenizer)
    assert tokenizer(["AC", "A"], padding=True).input_ids == [[7, 8, 1], [4, 7, 1]]


def test_padded_batch_equals_single_sequences_through_the_model() -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=64)).double().eval()
    sequences = ["ACGTNACGTTGCA" * 3, "ACG", "T", "GATTACA" * 5]

    def worst(tokenizer: DNATokenizer) -> float:
        batch = tokenizer(sequences, padding=True, return_tensors="pt")
        with torch.no_grad():
            padded = model(**batch).logits
            differences = []
            for row, mask, sequence in zip(padded, batch.attention_mask, sequences, strict=True):
                alone = model(**tokenizer(sequence, return_tensors="pt")).logits[0]
                differences.append((row[mask.bool()] - alone).abs().max().item())
        return max(differences)

    assert worst(DNATokenizer()) < 1e-12
    assert worst(DNATokenizer(padding_side="left")) < 1e-12
