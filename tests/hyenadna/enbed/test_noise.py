from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.enbed.noise import describe, make_sets, study, yardsticks
from hyenadna.enbed.noise_config import NoiseConfig
from hyenadna.enbed.noise_scores import CLEAN, NOISY, noise_probability
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
from hyenadna.finetuning.train import finetune
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.modeling import HyenaDNAForCausalLM

TINY: dict[str, Any] = {
    "num_layers": 1, "num_decoder_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "local_radius": 4,
    "first_local_radius": 4,
}  # fmt: skip
FEW: dict[str, Any] = {
    "length": 40, "train_examples": 16, "valid_examples": 4, "test_examples": 8, "epochs": 1, "seeds": [0, 1],
    "scales": [1.0], "divergence": [0.1], "kmer": 2, "model_fields": TINY, "device": "cpu", "threads": 1,
}  # fmt: skip


def test_length_gives_no_class_away() -> None:
    config = NoiseConfig(Path("out"), length=100, train_examples=200, deletion=0.5, insertion=0.0)
    sets = make_sets(config, 1.0, 0.0)
    for part, size in zip(sets.values(), (200, 100, 400), strict=True):
        assert {len(ids) for ids, _ in part} == {100}
        assert sum(label == NOISY for _, label in part) == size // 2
        # Neither do motifs: the repeats of each class are about a quarter each.
        assert abs(sum(label == NOISY for _, label in part[::4]) / (size / 4) - 0.5) < 0.25
    # Sources are drawn anew for each split, so none is in two.
    texts = [{ids.tobytes() for ids, label in part if label == NOISY} for part in sets.values()]
    assert not texts[0] & texts[2]
    again = make_sets(config, 1.0, 0.0)
    assert all(np.array_equal(one[0], two[0]) for one, two in zip(sets["train"], again["train"], strict=True))


@pytest.mark.slow
def test_words_tell_noise_in_perfect_repeats() -> None:
    config = NoiseConfig(Path("out"), length=400, train_examples=200, valid_examples=60, test_examples=100)
    all_noisy, words = yardsticks(make_sets(config, 1.0, 0.0), 6)
    assert all_noisy["f1"] == pytest.approx(2 / 3)
    assert words["f1"] > 0.95


def test_windows_of_a_fasta(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice([*"ACGT"], 6000))
    (tmp_path / "a.fa").write_text(f">a\n{text[:3000]}\n>b\nNN{text[3000:]}\n")
    config = NoiseConfig(
        tmp_path / "out", fasta=tmp_path / "a.fa", length=40, train_examples=16, valid_examples=4, test_examples=8
    )
    sets = make_sets(config, 1.0, 0.0)
    clean = [ids for ids, label in sets["train"] if label == CLEAN]
    letters = np.array([*"?" * 7, *"ACGTN"])
    assert all("".join(letters[ids]) in text for ids in clean)
    with pytest.raises(InputError, match="windows of 49 bases without N, and 4,028 are asked for"):
        make_sets(NoiseConfig(tmp_path, fasta=tmp_path / "a.fa", length=40, train_examples=4000, valid_examples=20,
                              test_examples=8), 1.0, 0.0)  # fmt: skip


@pytest.mark.slow
def test_a_study_from_one_command(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "noise"
    results = study(NoiseConfig(out, **FEW), progress=False)
    methods = [row["method"] for row in results["table"]]
    assert methods == ["all noisy", "logistic regression on 2-mers", "ENBED, scratch"]
    assert len(results["table"][2]["f1_runs"]) == 2
    assert json.loads((out / "results.json").read_text()) == results
    row = results["table"][2]
    assert row["f1_deviation"] == pytest.approx(np.std(row["f1_runs"], ddof=1))
    assert row["accuracy"] == pytest.approx(np.mean(row["accuracy_runs"]))
    assert {"model", "noise.png", "report.html", "results.json"} <= {path.name for path in out.iterdir()}
    rows = (out / "scale-1-divergence-0.1" / "noise.tsv").read_text().splitlines()
    assert rows[0] == "sequence\tlabel\tsplit"
    assert len(rows) == 1 + 16 + 4 + 8
    assert {len(line.split("\t")[0]) for line in rows[1:]} == {40}
    shown = describe(results)
    assert "ENBED 97.1" in shown
    assert "model/ has the best F1 on validation" in shown
    found = noise_probability(out / "model", ["ACGTACGTAC", "TTAGGGTTAGGG"], torch.device("cpu"))
    one = noise_probability(out / "model", ["TTAGGGTTAGGG"], torch.device("cpu"), batch_size=1)
    assert found.shape == (2,)
    np.testing.assert_allclose(found[1:], one, rtol=1e-5)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.slow
def test_finished_rows_are_kept_and_a_checkpoint_gives_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ENBEDForConditionalGeneration(ENBEDConfig(**TINY, feed_forward_proj="relu")).save_pretrained(tmp_path / "lm")
    few = FEW | {"model": tmp_path / "lm", "model_fields": {}, "seeds": [0]}
    trained: list[str] = []

    def stopping(config: Any, **more: Any) -> Any:
        if config.out.name == "scratch" and not trained.count("stopped"):
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(config.out.name)
        return finetune(config, **more)

    monkeypatch.setattr("hyenadna.enbed.noise.finetune", stopping)
    with pytest.raises(KeyboardInterrupt, match="1 of 2 rows are finished"):
        study(NoiseConfig(tmp_path / "noise", **few), progress=False)
    with pytest.raises(InputError, match="with other options"):
        study(NoiseConfig(tmp_path / "noise", **few | {"seed": 1, "resume": True}), progress=False)
    results = study(NoiseConfig(tmp_path / "noise", **few, resume=True), progress=False)
    assert trained == ["pretrained", "stopped", "scratch"]
    once = study(NoiseConfig(tmp_path / "again", **few), progress=False)
    assert once["table"] == results["table"]
    assert [row["method"] for row in results["table"]][2:] == ["ENBED, pretrained", "ENBED, scratch"]
    for start in ("pretrained", "scratch"):
        saved = tmp_path / "noise" / "scale-1-divergence-0.1" / "rows" / start / "model" / "config.json"
        made = json.loads(saved.read_text())
        assert {name: made[name] for name in TINY} == TINY
        assert made["feed_forward_proj"] == "relu"


BAD = [
    ("--insertion 1.5", "--insertion 1.5: must be from 0 to 1"),
    (
        "--insertion 0.5 --deletion 0.4 --mismatch 0.2",
        "--scales 1: insertion, deletion and mismatch then add up to 1.1",
    ),
    ("--insertion 0 --deletion 0 --mismatch 0", "then add up to 0"),
    ("--divergence [-0.1]", "--divergence -0.1: must be from 0 to 1"),
    ("--model nowhere", "nowhere"),
    ("--out here", "--out here: exists already"),
    ("--motifs [TTAGGN]", "--motifs 'TTAGGN': write a repeat of A, C, G and T"),
    ("--train_examples 5", "--train_examples 5: must be even"),
    ("--seeds [0,0]", "--seeds [0, 0]: one is there twice"),
    ("--size tiny-1k", "--size tiny-1k: no ENBED has this size"),
    ("--fasta gone.fa", "gone.fa: no such file"),
    ("--scales [0.25,0.25000001]", "--scales [0.25, 0.25000001]: one is there twice"),
    ("--deletion 0.6", "--scales 1: more than half of the bases would be deleted"),
    ("--test_examples 2", "--test_examples 2: must be at least 4"),
    ("--kmer 9", "--kmer 9: must be from 1 to 8"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("x")
    out = [] if "--out" in words else ["--out", "new"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["enbed", "noise", *out, *words.split()])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=64)).save_pretrained(
        tmp_path / "lm"
    )
    with pytest.raises(InputError, match="lm") as refused:
        study(NoiseConfig(tmp_path / "new", **FEW | {"model": tmp_path / "lm", "model_fields": {}}), progress=False)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()
    assert not [*tmp_path.glob("*.partial")]
    with pytest.raises(InputError, match="lm"):
        noise_probability(tmp_path / "lm", ["ACGT"], torch.device("cpu"))
