"""Bidirectional classifiers from end to end: fine-tuned, used to predict and embed, and refused by causal verbs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch

from hyenadna import HyenaDNAForSequenceClassification, InputError
from hyenadna.cli import main as cli
from hyenadna.common.vocab import PAD_ID
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.finetuning.train import finetune
from hyenadna.inference.config import EmbedConfig
from hyenadna.inference.embed import embed
from hyenadna.inference.embeddings import Embeddings
from hyenadna.inference.hidden import hidden_states

COLUMNS = ["--sequence_column", "seq", "--label_columns", "kind"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of 20 to 39 bases that are rich in G and C, or not."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    lines = ["seq\tkind"]
    for i in range(60):
        shares = [0.05, 0.45, 0.45, 0.05] if i % 2 else [0.45, 0.05, 0.05, 0.45]
        lines.append("".join(rng.choice(list("ACGT"), rng.integers(20, 40), p=shares)) + f"\t{['poor', 'rich'][i % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(table: Path, out: Path, kind: Any = True, **more: Any) -> FinetuneConfig:
    return FinetuneConfig(
        data=table, out=out, sequence_column="seq", label_columns=["kind"], method="scratch", d_model=16, n_layer=1,
        max_seq_len=64, model_fields={"filter_order": 8, "bidirectional": kind}, epochs=4, batch_size=12, lr=2e-2,
        device="cpu", threads=1, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned run with the two-sided operator."""
    out = tmp_path_factory.mktemp("run") / "out"
    summary = finetune(settings(table, out), progress=False)
    assert summary["test"]["accuracy"]["mean"] > 0.9
    return out


def test_predictions_do_not_depend_on_the_batch(run: Path, table: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 16):
        out = tmp_path / f"{size}.tsv"
        words = ["predict", "--model", run / "model", "--table", table, "--sequence_column", "seq"]
        cli.main([str(word) for word in (*words, "--out", out, "--batch_size", size, "--device", "cpu")])
        found.append(polars.read_csv(out, separator="\t"))
    numbers = [name for name, kind in found[0].schema.items() if kind == polars.Float64]
    assert numbers
    np.testing.assert_allclose(found[0][numbers].to_numpy(), found[1][numbers].to_numpy(), rtol=0, atol=2e-6)


def test_embeddings_are_those_of_each_sequence_alone(run: Path, table: Path, tmp_path: Path) -> None:
    """Also of a sequence that begins and ends with N, which the model sees as [PAD]."""
    config = EmbedConfig(
        model=run / "model", out=tmp_path / "e.npz", table=table, sequence_column="seq", device="cpu", batch_size=16
    )
    embed(config, progress=False)
    model = HyenaDNAForSequenceClassification.from_pretrained(run / "model").hyena
    ids = np.array([11, 11, 7, 8, 9, 10, 11, 7, 9, 11], dtype=np.uint8)
    rows = list(hidden_states(model, [("a", ids), ("b", np.full(31, 8, np.uint8))], batch_size=2))
    shown = torch.from_numpy(np.where(ids == 11, PAD_ID, ids).astype(np.int64))[None]
    with torch.no_grad():
        alone = model(shown, attention_mask=torch.ones(1, 10)).last_hidden_state[0].numpy()
    np.testing.assert_allclose(rows[0], alone, rtol=0, atol=2e-6)
    first = polars.read_csv(table, separator="\t")["seq"][0]
    (expected,) = hidden_states(model, [("a", np.array([7 + "ACGT".index(base) for base in first], np.uint8))])
    np.testing.assert_allclose(Embeddings.read(config.out).vectors[0], expected.mean(0), rtol=0, atol=2e-6)
    with pytest.raises(InputError, match="`pooling` last takes the base that has seen all others"):
        embed(replace(config, pooling="last", out=tmp_path / "last.npz"), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm_weight": 0.5}, "`lm_weight`: bidirectional is True"),
        ({"pack_tokens": 200}, "`pack_tokens` 200: a bidirectional model takes no packed rows"),
        ({"pooling": "last"}, "config: pooling 'last' takes the position that has seen all others"),
    ],
)
def test_options_that_need_a_causal_model(table: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        finetune(settings(table, tmp_path / "out", **options), progress=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "words",
    [
        ["score", "--fasta", "FASTA"],
        ["generate", "--prompt", "ACGT"],
        ["evaluate", "--genome", "GENOME", "--contigs", "c"],
        ["pretrain", "--genome", "GENOME", "--init_from", "MODEL"],
        ["finetune", "--data", "TABLE", "--method", "few-shot", *COLUMNS],
        ["finetune", "--data", "TABLE", "--method", "soft-prompt", *COLUMNS],
    ],
    ids=lambda words: " ".join(words[:1] + words[3:]),
)
def test_verbs_of_language_models(
    words: list[str], run: Path, table: Path, tiny_genome: Path, tiny_fasta: Path, tmp_path: Path, capsys: Any
) -> None:
    """One line that names the checkpoint, and exit code 2."""
    names = {"FASTA": tiny_fasta, "GENOME": tiny_genome, "TABLE": table, "MODEL": run / "model"}
    given = [str(names.get(word, word)) for word in words]
    given += [] if words[0] == "pretrain" else ["--model", str(run / "model")]
    with pytest.raises(SystemExit) as raised:
        cli.main([*given, "--out", str(tmp_path / "out")])
    assert raised.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].endswith("classify with it, or embed")
    assert f"{run / 'model'}: bidirectional is True" in error
