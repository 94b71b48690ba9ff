from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.enbed.noise import make_sets, study, yardsticks
from hyenadna.enbed.noise_config import NoiseConfig
from hyenadna.enbed.noise_scores import CLEAN, NOISY, noise_probability

TINY: dict[str, Any] = {
    "num_layers": 1, "num_decoder_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "local_radius": 4,
    "first_local_radius": 4,
}  # fmt: skip
FEW: dict[str, Any] = {
    "length": 40, "train_examples": 16, "valid_examples": 4, "test_examples": 8, "epochs": 1, "seeds": [0, 1],
    "scales": [1.0], "divergence": [0.1], "kmer": 2, "model_fields": TINY, "device": "cpu", "threads": 1,
}  # fmt: skip


def test_length_gives_no_class_away() -> None:
    config = NoiseConfig(Path("out"), length=100, train_examples=200, deletion=0.3, insertion=0.0)
    sets = make_sets(config, 1.0, 0.0)
    for part, size in zip(sets.values(), (200, 200, 600), strict=True):
        assert {len(ids) for ids, _ in part} == {100}
        assert sum(label == NOISY for _, label in part) == size // 2
    # Sources are drawn anew for each split, so none is in two.
    texts = [{ids.tobytes() for ids, label in part if label == NOISY} for part in sets.values()]
    assert not texts[0] & texts[2]
    again = make_sets(config, 1.0, 0.0)
    assert all(np.array_equal(one[0], two[0]) for one, two in zip(sets["train"], again["train"], strict=True))


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
    with pytest.raises(InputError, match="windows of 144 bases without N, and 4,028 are asked for"):
        make_sets(NoiseConfig(tmp_path, fasta=tmp_path / "a.fa", length=40, train_examples=4000, valid_examples=20,
                              test_examples=8), 1.0, 0.0)  # fmt: skip


def test_a_study_from_one_command(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "noise"
    results = study(NoiseConfig(out, **FEW), progress=False)
    methods = [row["method"] for row in results["table"]]
    assert methods == ["all noisy", "logistic regression on 2-mers", "ENBED, scratch"]
    assert len(results["table"][2]["f1_runs"]) == 2
    assert json.loads((out / "results.json").read_text()) == results
    assert {"model", "noise.png", "report.html", "results.json"} <= {path.name for path in out.iterdir()}
    found = noise_probability(out / "model", ["ACGTACGTAC", "TTAGGGTTAGGG"], torch.device("cpu"))
    one = noise_probability(out / "model", ["TTAGGGTTAGGG"], torch.device("cpu"), batch_size=1)
    assert found.shape == (2,)
    np.testing.assert_allclose(found[1:], one, rtol=1e-5)
    assert ((found > 0) & (found < 1)).all()


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
