"""Words of bases as tokens: their ids and numbers, both strands, the tokenizer's files, and the model of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNAModel
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, UNK_ID, reverse_complement
from hyenadna.data.packs import pack
from hyenadna.data.sequences import to_tensor
from hyenadna.inference.hidden import mean_states
from hyenadna.model.kmers import Kmers, KmerTokenizer
from hyenadna.model.tokenizer import DNATokenizer


def bases(text: str) -> np.ndarray:
    return DNATokenizer().encode_array(text)


def by_hand(text: str, k: int, stride: int) -> list[int]:
    """Words one by one, as the docstring says."""
    found = []
    for start in range(0, len(text) - k + 1, stride):
        word = text[start : start + k]
        known = set(word) <= set("ACGT")
        found.append(7 + sum("ACGT".index(b) * 4 ** (k - 1 - i) for i, b in enumerate(word)) if known else UNK_ID)
    last = (len(text) - k) // stride * stride + k
    return found + [UNK_ID] * (last < len(text))


def test_the_worked_example() -> None:
    assert Kmers(3).ids(bases("ACGTN")).tolist() == [7 + 6, 7 + 27, UNK_ID]


@pytest.mark.parametrize(("k", "stride"), [(6, 1), (6, 6), (3, 2), (1, 1), (8, 5), (2, 2)])
def test_ids_are_those_of_words_read_one_by_one(k: int, stride: int) -> None:
    rng = np.random.default_rng(k)
    for length in (k, k + 1, 2 * k, 2 * k + 1, 50, 61):
        text = "".join(rng.choice(list("ACGTN"), length, p=[0.24, 0.24, 0.24, 0.24, 0.04]))
        ids = Kmers(k, stride).ids(bases(text))
        assert ids.tolist() == by_hand(text, k, stride)
        assert len(ids) == Kmers(k, stride).count(length)
        assert KmerTokenizer(k, stride)(text)["input_ids"] == ids.tolist()


def test_a_sequence_has_l_minus_5_words_of_6() -> None:
    assert [Kmers(6).count(length) for length in (5, 6, 7, 251)] == [0, 1, 2, 246]
    assert [Kmers(6, 6).count(length) for length in (6, 11, 12, 13)] == [1, 2, 2, 3]
    for kmers in (Kmers(6), Kmers(6, 6), Kmers(5, 2)):
        assert [kmers.count(kmers.most_bases(9) + more) for more in (0, 1)] == [9, 10]
    with pytest.raises(InputError, match="5 bases has no word of 6"):
        Kmers(6).ids(bases("ACGTA"))


def test_words_of_the_other_strand_are_the_complemented_words_backwards() -> None:
    ids = bases("ACGGTTANCAGGTC")
    words = [ids[i : i + 4] for i in range(len(ids) - 3)]
    turned = [int(Kmers(4).ids(reverse_complement(word))[0]) for word in reversed(words)]
    assert Kmers(4).ids(reverse_complement(ids)).tolist() == turned


def test_the_tokenizer_has_the_words_in_order_and_comes_back(tmp_path: Path) -> None:
    tokenizer = KmerTokenizer(k=3, stride=3, model_max_length=40)
    assert tokenizer.vocab_size == 7 + 64
    assert KmerTokenizer().vocab_size == 4103
    vocab = tokenizer.get_vocab()
    assert [vocab[word] for word in ("AAA", "AAC", "AAG", "AAT", "ACA", "TTT")] == [7, 8, 9, 10, 11, 70]
    ids = tokenizer(["ACGTTTC", "acgnta"], padding=True)
    assert ids["input_ids"] == [[13, 70, UNK_ID], [13, UNK_ID, 4]]
    assert ids["attention_mask"] == [[1, 1, 1], [1, 1, 0]]
    assert tokenizer.decode([13, 70]) == "ACG TTT"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    HyenaDNAModel(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16, kmer=3, kmer_stride=3)).config.save_pretrained(
        tmp_path / "tokenizer"
    )
    for again in (KmerTokenizer, AutoTokenizer):
        loaded = again.from_pretrained(tmp_path / "tokenizer")
        assert type(loaded) is KmerTokenizer
        assert (loaded.k, loaded.stride, loaded.model_max_length) == (3, 3, 40)
        assert loaded("ACGTTTC")["input_ids"] == [13, 70, UNK_ID]


@pytest.mark.parametrize(("k", "stride"), [(0, 1), (9, 1), (3, 4), (3, 0), ("3", 1), (True, 1)])
def test_impossible_words_are_refused(k: Any, stride: Any) -> None:
    with pytest.raises(InputError, match="tokenizer: "):
        KmerTokenizer(k, stride)
    with pytest.raises(InputError, match="config: kmer"):
        HyenaDNAConfig(kmer=k, kmer_stride=stride)


def test_a_model_of_words_of_6_has_959360_parameters() -> None:
    with torch.device("meta"):
        sizes = [
            sum(parameter.numel() for parameter in HyenaDNAModel(HyenaDNAConfig(kmer=kmer)).parameters())
            for kmer in (None, 6)
        ]
    assert sizes == [436_096, 959_360]
    config = HyenaDNAConfig(kmer=6)
    assert (config.vocab_size, config.padded_vocab_size) == (4103, 4104)
    assert HyenaDNAConfig.from_dict(config.to_dict()).kmer == 6
    with pytest.raises(InputError, match="vocab_size is 13, and words of 3 bases need 71"):
        HyenaDNAConfig(kmer=3, vocab_size=13)
    with pytest.raises(InputError, match="kmer is 6, and a language model here predicts bases"):
        HyenaDNAForCausalLM(config)


def test_inputs_are_words_of_the_strand_that_is_given() -> None:
    rows = [bases("ACGTNAC"), bases("TTGCA")]
    ids = to_tensor(rows, torch.device("cpu"), words=Kmers(2))
    # 11 is the id of N, and that of a word too.
    assert ids.tolist() == [[8, 13, 18, UNK_ID, UNK_ID, 8], [22, 21, 16, 11, 4, 4]]
    row, plan = pack(rows, torch.device("cpu"), words=Kmers(2))
    assert row.tolist() == [[*ids[0].tolist(), *ids[1, :4].tolist()]]
    assert plan.cu_seqlens.tolist() == [0, 6, 10]
    assert N_ID == 11


def test_embeddings_are_means_over_words() -> None:
    torch.manual_seed(0)
    model = HyenaDNAModel(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16, kmer=2)).eval()
    rows = [bases("ACGTNAC"), bases("TTGCA")]
    found = list(mean_states(model, [("a", rows[0]), ("b", rows[1])]))
    with torch.no_grad():
        for row, mean in zip(rows, found, strict=True):
            states = model(torch.from_numpy(Kmers(2).ids(row))[None]).last_hidden_state[0]
            np.testing.assert_allclose(mean, states.double().mean(dim=0).numpy(), atol=1e-6)
    with pytest.raises(InputError, match="c: a sequence of 1 bases has no word of 2"):
        list(mean_states(model, [("c", bases("A"))]))


def test_a_classifier_pools_over_words() -> None:
    model = HyenaDNAForSequenceClassification(
        HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16, kmer=2, num_labels=2)
    ).eval()
    rows = [bases("ACGTGAC"), bases("TTGCA")]
    with torch.no_grad():
        together = model(to_tensor(rows, torch.device("cpu"), words=Kmers(2))).logits
        apart = [model(to_tensor([row], torch.device("cpu"), words=Kmers(2))).logits for row in rows]
    torch.testing.assert_close(together, torch.cat(apart))
