from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID, SEP_ID
from hyenadna.inference.generate import GenerateConfig, generate


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that likes N and [SEP] best, and rows that are no tokens even more."""
    model = tiny_model(noise=0.2)
    last = model.hyena.backbone.ln_f
    last.bias.data[0] = 3.0
    model.lm_head.weight.data[:, 0] = 0.0
    for token, logit in ((SEP_ID, 0.5), (N_ID, 1.0), (13, 3.0)):
        model.lm_head.weight.data[token, 0] = logit
    path = tmp_path_factory.mktemp("generate") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> GenerateConfig:
    return GenerateConfig(model=folder, out=tmp_path / "out.fa", prompt="ACGTT", length=30, count=5, batch_size=2)


def sequences(path: Path) -> dict[str, str]:
    records = path.read_text().split(">")[1:]
    return {record.split("\n")[0]: "".join(record.split("\n")[1:]) for record in records}


def test_sequences_of_nucleotides_after_the_prompt(config: GenerateConfig) -> None:
    assert generate(config, progress=False) == 5
    found = sequences(config.out)
    assert list(found) == [f"prompt_{i}" for i in range(1, 6)]
    assert all(bases.startswith("ACGTT") and len(bases) == 35 and set(bases) <= set("ACGT") for bases in found.values())
    assert len(set(found.values())) == 5
    first = config.out.read_text()
    generate(config, progress=False)
    assert config.out.read_text() == first
    generate(replace(config, seed=1), progress=False)
    assert config.out.read_text() != first
    generate(replace(config, new_only=True), progress=False)
    assert {name: bases[5:] for name, bases in found.items()} == sequences(config.out)


def test_other_tokens_come_only_if_asked_for(config: GenerateConfig) -> None:
    generate(replace(config, nucleotides_only=False, count=20), progress=False)
    found = sequences(config.out).values()
    assert set("".join(found)) == set("ACGTN")
    assert min(map(len, found)) < 35


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}])
def test_every_way_of_sharpening_ends_at_the_likeliest_bases(config: GenerateConfig, change: dict[str, Any]) -> None:
    model = HyenaDNAForCausalLM.from_pretrained(config.model)
    ids = [7, 8, 9, 10, 10]
    with torch.no_grad():
        for _ in range(30):
            ids.append(7 + int(model(torch.tensor([ids])).logits[0, -1, 7:11].argmax()))
    count = 1 if change in ({"temperature": 0.0}, {"top_k": 1}) else 5
    generate(replace(config, count=count, **change), progress=False)
    assert list(sequences(config.out).values()) == count * ["".join("ACGT"[i - 7] for i in ids)]


def test_n_in_a_prompt_is_shown_as_in_pretraining(config: GenerateConfig) -> None:
    model = HyenaDNAForCausalLM.from_pretrained(config.model)
    ids = [PAD_ID, 7, PAD_ID, 9, PAD_ID]
    with torch.no_grad():
        for _ in range(5):
            ids.append(7 + int(model(torch.tensor([ids])).logits[0, -1, 7:11].argmax()))
    generate(replace(config, prompt="NANGR", temperature=0.0, length=5, count=1), progress=False)
    assert sequences(config.out) == {"prompt_1": "NANGN" + "".join("ACGT"[i - 7] for i in ids[5:])}


def test_no_token_is_drawn_that_the_file_would_drop(
    config: GenerateConfig, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """[PAD], [UNK] and other special tokens have no letter."""
    model = tiny_model()
    model.lm_head.weight.data.zero_()
    model.save_pretrained(tmp_path / "flat")
    config = replace(config, model=tmp_path / "flat", nucleotides_only=False, length=1, count=600, batch_size=600)
    generate(config, progress=False)
    letters = [bases[5:] for bases in sequences(config.out).values()]
    assert set(letters) == {*"ACGTN", ""}
    # [SEP] alone ends a sequence: a sixth of the draws, within 6 standard errors.
    assert letters.count("") == pytest.approx(100, abs=55)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_damaged_model_is_refused(
    config: GenerateConfig, tiny_model: Callable[..., Any], tmp_path: Path, temperature: float
) -> None:
    model = tiny_model()
    model.hyena.backbone.ln_f.bias.data.fill_(10.0)
    model.lm_head.weight.data[9] = 3e38
    model.save_pretrained(tmp_path / "damaged")
    with pytest.raises(InputError, match="logits are not finite: its weights are damaged"):
        generate(replace(config, model=tmp_path / "damaged", temperature=temperature, count=1), progress=False)
    assert not config.out.exists()


def test_sampling_follows_the_model(config: GenerateConfig) -> None:
    model = HyenaDNAForCausalLM.from_pretrained(config.model)
    with torch.no_grad():
        expected = model(torch.tensor([[7, 8, 9, 10, 10]])).logits[0, -1, 7:11].softmax(0).numpy()
    generate(replace(config, length=1, count=4000, batch_size=4000, new_only=True), progress=False)
    letters = "".join(sequences(config.out).values())
    counts = np.array([letters.count(base) for base in "ACGT"])
    # Chi-squared with 3 degrees of freedom: above 21.1 once in 10,000.
    assert ((counts - 4000 * expected) ** 2 / (4000 * expected)).sum() < 21.1


def test_a_sequence_may_fill_the_model_exactly(config: GenerateConfig) -> None:
    generate(replace(config, length=59, count=1), progress=False)
    assert [len(bases) for bases in sequences(config.out).values()] == [64]


def test_lines_of_the_fasta_have_80_bases(tiny_checkpoint: Callable[..., Path], config: GenerateConfig) -> None:
    generate(replace(config, model=tiny_checkpoint(max_seq_len=256), length=156, count=1), progress=False)
    assert [len(line) for line in config.out.read_text().splitlines()] == [len(">prompt_1"), 80, 80, 1]


def test_prompts_of_a_fasta(config: GenerateConfig, tmp_path: Path) -> None:
    (tmp_path / "p.fa").write_text(">x words\nACGT\n>y\nGG\n")
    config = replace(config, prompt=None, prompt_fasta=tmp_path / "p.fa", count=1)
    assert generate(config, progress=False) == 2
    found = sequences(config.out)
    assert (found["x_1"][:4], found["y_1"][:2]) == ("ACGT", "GG")
    assert [len(bases) for bases in found.values()] == [34, 32]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "give one of `prompt` and `prompt_fasta`"),
        ({"prompt_fasta": Path("x")}, "give one of `prompt` and `prompt_fasta`"),
        ({"prompt": ""}, "`prompt`: the sequence is empty"),
        ({"prompt": "ACX"}, "`prompt`: 'X' at position 3 is not a nucleotide code"),
        ({"length": 60}, "prompt: 5 bases and `length` 60 are more than the 64 that the model is made for"),
        ({"length": 0}, "`length` 0: must be at least 1"),
        ({"count": 0}, "`count` 0: must be at least 1"),
        ({"temperature": -1.0}, "`temperature` -1.0: must be at least 0"),
        ({"temperature": float("nan")}, "`temperature` nan: must be at least 0"),
        ({"temperature": 1e-40}, "`temperature` 1e-40: must be 0, or from 0.000001 to 1000000"),
        ({"temperature": 1e40}, "`temperature` 1e+40: must be 0, or from 0.000001 to 1000000"),
        ({"temperature": 0.0}, "`count` 5 with `temperature` 0: the likeliest continuation is one sequence"),
        ({"top_k": 1}, "`count` 5 with `top_k` 1: the likeliest continuation is one sequence"),
        ({"length": -5}, "`length` -5: must be at least 1"),
        ({"seed": 1 << 64}, "`seed` 18446744073709551616: must be at least 0 and below 9223372036854775808"),
        ({"top_p": 0.0}, "`top_p` 0.0: must be above 0"),
        ({"top_k": -1}, "`top_k` -1: must be at least 0"),
        ({"model": Path("absent")}, "no checkpoint at absent"),
        ({"prompt": None, "prompt_fasta": Path("absent.fa")}, "absent.fa: no such file"),
    ],
)
def test_bad_input_is_refused(config: GenerateConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        generate(replace(config, **change), progress=False)
    assert str(caught.value).startswith(message)
    assert not config.out.exists()


def test_a_prompt_without_bases_is_refused(config: GenerateConfig, tmp_path: Path) -> None:
    (tmp_path / "p.fa").write_text(">x\nACGT\n>y\n")
    with pytest.raises(InputError, match=r"p\.fa: 'y' has no base to continue; remove it"):
        generate(replace(config, prompt=None, prompt_fasta=tmp_path / "p.fa"), progress=False)
    assert not config.out.exists()


def test_prompts_of_several_lengths_share_batches_and_change_nothing(
    config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    prompts = ["".join("ACGTN"[i] for i in rng.integers(0, 5, length)) for length in (9, 1, 30, 4, 17, 30)]
    (tmp_path / "p.fa").write_text("".join(f">{i}\n{bases}\n" for i, bases in enumerate(prompts)))
    rows = []
    forward = HyenaDNAForCausalLM.forward

    def counted(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        rows.append(tuple(input_ids.shape))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(HyenaDNAForCausalLM, "forward", counted)
    config = replace(config, prompt=None, prompt_fasta=tmp_path / "p.fa", count=2, nucleotides_only=False)
    config = replace(config, precision="float64", length=20)
    generate(replace(config, batch_size=12), progress=False)
    together = config.out.read_text()
    assert rows[0] == (12, 30)
    assert set(rows[1:]) == {(12, 1)}
    found = sequences(config.out)
    assert list(found) == [f"{i}_{copy}" for i in range(6) for copy in (1, 2)]
    assert all(found[f"{i}_1"].startswith(bases) for i, bases in enumerate(prompts))
    assert all(found[f"{i}_1"] != found[f"{i}_2"] for i in range(6))
    for change in ({"batch_size": 1}, {"batch_size": 5, "use_cache": False}):
        generate(replace(config, **change), progress=False)
        assert config.out.read_text() == together


def test_a_large_cache_is_told(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generate(config, progress=False)
    monkeypatch.setattr("hyenadna.inference.generate._TOLD_BYTES", 1 << 10)
    generate(replace(config, use_cache=False), progress=False)
    assert caplog.messages == []
    generate(config, progress=False)
    assert [message.split(" GB ")[1] for message in caplog.messages] == [
        "for 2 sequences of 30 new bases; a lower `batch_size` takes less"
    ]
