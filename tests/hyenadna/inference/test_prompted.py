from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import NUCLEOTIDE_IDS, reverse_complement
from hyenadna.data.sequences import encode, to_tensor
from hyenadna.finetuning.data import read_data
from hyenadna.finetuning.train import FinetuneConfig, finetune
from hyenadna.inference.predict import PredictConfig, predict
from hyenadna.inference.prompted import FewShot, SoftPrompt

SEQUENCES = ["ACGTACGTA", "GATTACA", "GG", "TTNTTTTTTTTTTTTTT"]


@pytest.fixture
def lm(tiny_model: Callable[..., HyenaDNAForCausalLM]) -> HyenaDNAForCausalLM:
    return tiny_model(noise=0.1, d_model=16, max_seq_len=128).double()


def ids(*texts: str) -> torch.Tensor:
    return to_tensor([encode(text, "") for text in texts], torch.device("cpu"))


def test_the_answer_is_the_letter_after_the_sequence_whatever_the_batch(lm: HyenaDNAForCausalLM) -> None:
    model = SoftPrompt(lm, 3, 4).eval()
    with torch.no_grad():
        batch = model(ids(*SEQUENCES)).logits
        assert batch.shape == (4, 3)
        for row, text in zip(batch, SEQUENCES, strict=True):
            tokens = torch.cat([ids(text), torch.tensor([[1]])], dim=1)
            embedded = lm.get_input_embeddings()(tokens)
            whole = torch.cat([model.prompt[None].double(), embedded], dim=1)
            expected = lm(inputs_embeds=whole).logits[0, -1, 7:10]
            assert (row - expected).abs().max() < 1e-12


def test_the_prompt_alone_is_trained(lm: HyenaDNAForCausalLM) -> None:
    model = SoftPrompt(lm, 2, 5).train()
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["prompt"]
    assert not model.lm.training
    model(ids(*SEQUENCES)).logits.sum().backward()
    assert model.prompt.grad is not None
    assert model.prompt.grad.abs().sum(dim=1).min() > 0
    assert model.prompt.shape == (5, 16)


def test_classes_answer_with_their_letters(lm: HyenaDNAForCausalLM) -> None:
    model = SoftPrompt(lm, 2, 4, letters="NTG").eval()
    with torch.no_grad():
        found = model(ids("GATTACA")).logits[0]
        embedded = lm.get_input_embeddings()(torch.cat([ids("GATTACA"), torch.tensor([[1]])], dim=1))
        logits = lm(inputs_embeds=torch.cat([model.prompt[None].double(), embedded], dim=1)).logits[0, -1]
    assert (found - logits[[11, 10]]).abs().max() < 1e-12
    shown = FewShot(lm, 2, [encode("AAA", ""), encode("CCC", "")], np.array([0, 1]), 1, 0, letters="GA").eval()
    with torch.no_grad():
        expected = [lm.embeddings(torch.tensor(tokens)) for tokens in (
            [7, 7, 7, 1, 9, 1, 8, 8, 8, 1, 7, 1], [8, 8, 8, 1, 7, 1, 7, 7, 7, 1, 9, 1]
        )]  # fmt: skip
        assert any(torch.equal(shown.prefix(), each) for each in expected)


def test_dropout_of_the_prompt_is_for_training(lm: HyenaDNAForCausalLM) -> None:
    model = SoftPrompt(lm, 2, 500, dropout=0.25).train()
    dropped = model.prefix()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], model.prompt[kept] / 0.75, rtol=1e-6, atol=0)
    assert 0.2 < 1 - kept.double().mean() < 0.3
    assert torch.equal(model.eval().prefix(), model.prompt)


def test_the_sequence_is_turned_and_the_prompt_is_not(
    make: Callable[..., FinetuneConfig], lm: HyenaDNAForCausalLM
) -> None:
    config = make(method="soft-prompt", prompt_tokens=4, reverse_complement=True, letters="AN", epochs=1)
    summary = finetune(config, progress=False)
    model, data = SoftPrompt.load(config.out / "model"), read_data(config)[0].test
    assert model.letters == [7, 11]
    with torch.no_grad():
        sides = [model(to_tensor(rows, torch.device("cpu"))).logits for rows in (
            data.sequences, [reverse_complement(row) for row in data.sequences]
        )]  # fmt: skip
    right = (sum(sides).argmax(dim=1).numpy() == data.labels).mean()  # type: ignore[attr-defined]
    assert summary["test"]["accuracy"]["mean"] == pytest.approx(right)
    # A prompt of before letters could be chosen.
    save_file({"prompt": model.prompt.detach()}, config.out / "model" / "prompt.safetensors")
    assert SoftPrompt.load(config.out / "model").letters == [7, 8]


def test_n_is_a_pad_in_demonstrations_and_behind_them(lm: HyenaDNAForCausalLM) -> None:
    """As in pretraining."""
    model = FewShot(lm, 2, [encode("ANA", ""), encode("NCC", "")], np.array([0, 1]), shots=1, seed=0).eval()
    one, two = [7, 4, 7, 1, 7, 1], [4, 8, 8, 1, 8, 1]
    with torch.no_grad():
        prefix = model.prefix()
        expected = [lm.embeddings(torch.tensor(tokens)) for tokens in (one + two, two + one)]
        assert any(torch.equal(prefix, each) for each in expected)
        found = model(ids("GNT")).logits[0]
        answers = [lm(torch.tensor([[*tokens, 9, 4, 10, 1]])).logits[0, -1, 7:9] for tokens in (one + two, two + one)]
    assert min((answer - found).abs().max() for answer in answers) < 1e-12


def test_demonstrations_stand_before_the_sequence(lm: HyenaDNAForCausalLM) -> None:
    sequences = [encode(text, "") for text in ("AAA", "CCC", "CCCC")]
    model = FewShot(lm, 2, sequences, np.array([0, 1, 1]), shots=1, seed=3).eval()
    with torch.no_grad():
        found = model(ids("GATTACA")).logits[0]
        assert torch.equal(model(ids("GATTACA")).logits[0], found)
        possible = [
            ids("AAA").tolist()[0] + [1, 7, 1] + ids(other).tolist()[0] + [1, 8, 1] for other in ("CCC", "CCCC")
        ] + [ids(other).tolist()[0] + [1, 8, 1] + ids("AAA").tolist()[0] + [1, 7, 1] for other in ("CCC", "CCCC")]
        answers = [
            lm(torch.tensor([tokens + ids("GATTACA").tolist()[0] + [1]])).logits[0, -1, 7:9] for tokens in possible
        ]
    assert min((answer - found).abs().max() for answer in answers) < 1e-12
    model.shots = 0
    with torch.no_grad():
        alone = lm(torch.cat([ids("GATTACA"), torch.tensor([[1]])], dim=1)).logits[0, -1, 7:9]
        assert (model(ids("GATTACA")).logits[0] - alone).abs().max() < 1e-12
    model.shots = 1
    model.train()
    assert len({len(model.prefix()) for _ in range(20)}) == 2


def test_training_shows_no_answer_to_what_it_asks(lm: HyenaDNAForCausalLM) -> None:
    sequences = [encode(text, "") for text in ("AAA", "CCTG", "GGGGG")]
    model = FewShot(lm, 2, sequences, np.array([0, 1, 1]), shots=1, seed=3).train()
    asked = torch.tensor([[8, 10, 4], [8, 8, 4]])  # CT, cut from CCTG, and CC
    assert {len(model.prefix_for(asked)) for _ in range(10)} == {3 + 5 + 2 * 3}
    # Without another one of its class, there are fewer.
    assert {len(model.prefix_for(ids("AA"))) for _ in range(10)} == {4 + 3, 5 + 3}
    assert len(model.eval().prefix_for(ids("AAA"))) == len(model.prefix())


def test_more_classes_than_letters_are_refused(lm: HyenaDNAForCausalLM) -> None:
    with pytest.raises(InputError, match="6 classes are too many: a prompt has a letter for 5, ACGTN"):
        SoftPrompt(lm, 6, 2)


@pytest.fixture
def make(tmp_path: Path, lm: HyenaDNAForCausalLM) -> Callable[..., FinetuneConfig]:
    lm.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    lines = ["seq\tlabel"]
    for i in range(80):
        letters = rng.choice(list("ACGT"), 16, p=[0.05, 0.45, 0.45, 0.05] if i % 2 else [0.45, 0.05, 0.05, 0.45])
        lines.append(f"{''.join(letters)}\t{i % 2}")
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")

    def config(**changes: object) -> FinetuneConfig:
        fields: dict[str, object] = {
            "data": tmp_path / "t.tsv", "out": tmp_path / "out", "model": tmp_path / "model",
            "sequence_column": "seq", "epochs": 6, "batch_size": 8, "device": "cpu",
        }  # fmt: skip
        return FinetuneConfig(**fields | changes)  # type: ignore[arg-type]

    return config


def test_a_soft_prompt_learns_before_a_frozen_model(make: Callable[..., FinetuneConfig]) -> None:
    config = make(method="soft-prompt", prompt_tokens=32, lr=0.3, epochs=4)
    lines = [line.split("\t")[0] for line in config.data.read_text().splitlines()[1:]]
    config.data.write_text("seq\tlabel\n" + "".join(f"{text}\t{int(i % 8 == 0)}\n" for i, text in enumerate(lines)))
    finetune(config, progress=False)
    losses = [json.loads(line)["loss"] for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    # Random weights tell no sequences apart, but a prompt can make them say the commoner class.
    # Guessing costs ln 2, always knowing how rare the other class is 0.38.
    assert losses[-1] < losses[0] < math.log(2)
    assert losses[-1] < 0.5
    before, after = (
        HyenaDNAForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (config.model, config.out / "model")
    )
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert load_file(config.out / "model" / "prompt.safetensors")["prompt"].shape == (32, 16)


def test_few_shot_has_a_result_for_every_number_of_shots(make: Callable[..., FinetuneConfig]) -> None:
    summary = finetune(make(method="few-shot", shots=1, eval_shots=[0, 1, 2], lr=3e-3), progress=False)
    assert summary["test"]["accuracy"]["mean"] > 0.8
    assert summary["test"]["accuracy at 1 shots"]["mean"] == summary["test"]["accuracy"]["mean"]
    assert list(summary["runs"][0]["shots"]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "options", [{"method": "soft-prompt", "prompt_tokens": 8}, {"method": "few-shot", "shots": 2, "eval_shots": [2]}]
)
def test_what_was_trained_predicts(
    make: Callable[..., FinetuneConfig], tmp_path: Path, options: dict[str, Any]
) -> None:
    config = make(lr=3e-3, epochs=2, **options)
    summary = finetune(config, progress=False)
    test = read_data(config)[0].test
    table = tmp_path / "new.tsv"
    letters = {number: letter for letter, number in NUCLEOTIDE_IDS.items()}
    table.write_text("seq\n" + "".join("".join(letters[i] for i in row) + "\n" for row in test.sequences))
    asked = PredictConfig(config.out / "model", tmp_path / "p.tsv", table=table, sequence_column="seq", device="cpu")
    assert predict(asked, progress=False) == len(test)
    with asked.out.open() as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    assert list(found[0]) == ["seq", "class", *summary["classes"]]
    # Its tokenizer gives the classifier what `predict` gave it.
    ids = AutoTokenizer.from_pretrained(config.out / "model")(found[0]["seq"], return_tensors="pt").input_ids
    with torch.no_grad():
        logits = SoftPrompt.load(config.out / "model")(ids).logits[0]
    assert float(found[0][summary["classes"][0]]) == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)
    right = [summary["classes"].index(row["class"]) == label for row, label in zip(found, test.labels, strict=True)]
    assert np.mean(right) == pytest.approx(summary["test"]["accuracy"]["mean"])
    assert all(sum(float(row[name]) for name in summary["classes"]) == pytest.approx(1, abs=1e-5) for row in found)
    table.write_text("seq\n" + "A" * 120 + "\n")
    room = 128 - 1 - (8 if options["method"] == "soft-prompt" else 2 * 2 * 19)
    with pytest.raises(InputError, match=f"row 1: 120 bases are longer than the {room} that"):
        predict(asked, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "soft-prompt", "prompt_tokens": 1}, "`prompt_tokens` 1: must be from 2 to 32768"),
        ({"method": "soft-prompt", "prompt_tokens": 120}, "`prompt_tokens`: the context has 120 tokens, and 16"),
        ({"method": "few-shot", "eval_shots": [4]}, "`shots` and `eval_shots`: the context has 152 tokens, and 16"),
        ({"method": "few-shot", "shots": -1}, "`shots` -1: must be at least 0"),
        ({"method": "few-shot", "task": "regression"}, "`method` few-shot is for `task` classification"),
        ({"method": "soft-prompt", "model": None}, "`method` soft-prompt: needs a `model`"),
    ],
)
def test_bad_input_is_refused(make: Callable[..., FinetuneConfig], changes: dict[str, object], message: str) -> None:
    config = make(**changes)
    with pytest.raises(InputError) as caught:
        finetune(config, progress=False)
    assert message in str(caught.value)
    assert not config.out.exists()
