"""The route of long convolutions in the verbs that run a model: same results, and what is told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch

from hyena_kernels import far_field_plan as plans, long_conv, operator as operators
from hyenadna import HyenaDNAForCausalLM
from hyenadna.cli import main as cli
from hyenadna.inference.embeddings import Embeddings
from hyenadna.pretraining import train

L = 1024
SHAPE: dict[str, Any] = {"max_seq_len": 1 << 15, "activation_freq": 1.0}


@pytest.fixture(autouse=True)
def short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """``"auto"`` tries rows of about 900 positions at any cost."""
    monkeypatch.setitem(long_conv.MIN_LENGTH, "cpu", 800)
    monkeypatch.setattr(plans, "cost", lambda plan, length, network: 1e9 if plan is None else plan.h / plan.p)
    monkeypatch.setattr(long_conv, "_announced", set())


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list to which every call of a mixer adds whether it takes the far field."""
    found: list[bool] = []
    real = operators.HyenaOperator.far_field_plan

    def asked(self: Any, *args: Any, **options: Any) -> Any:
        plan = real(self, *args, **options)
        found.append(plan is not None)
        return plan

    monkeypatch.setattr(operators.HyenaOperator, "far_field_plan", asked)
    return found


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(noise=0.05, n_layer=2, **SHAPE)


def run(*words: object) -> None:
    cli.main([str(word) for word in words])


def evaluated(folder: Path, genome: Path, fasta: Path, out: Path) -> Any:
    run("evaluate", "--model", folder, "--genome", genome, "--contigs", "b", "--length", L, "--markov_order", 0,
        "--out", out, "--device", "cpu")  # fmt: skip
    row = json.loads((out / "evaluation.json").read_text())
    return np.array([row["perplexity"]])


def scored(folder: Path, genome: Path, fasta: Path, out: Path) -> Any:
    run("score", "--model", folder, "--fasta", fasta, "--out", out.with_suffix(".tsv"), "--precision", "float32",
        "--device", "cpu")  # fmt: skip
    table = polars.read_csv(out.with_suffix(".tsv"), separator="\t")
    return table.select(polars.selectors.float()).to_numpy()


def embedded(folder: Path, genome: Path, fasta: Path, out: Path) -> Any:
    run("embed", "--model", folder, "--fasta", fasta, "--out", out.with_suffix(".npz"), "--device", "cpu")
    return Embeddings.read(out.with_suffix(".npz")).vectors


@pytest.mark.parametrize("verb", [pytest.param(evaluated, marks=pytest.mark.slow), scored, embedded])
def test_verbs_give_the_same_numbers_on_both_routes(
    verb: Callable[..., Any],
    folder: Path,
    tiny_genome: Path,
    tmp_path: Path,
    taken: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("ACGT"), L))
    fasta = tmp_path / "long.fa"
    fasta.write_text(f">one\n{bases}\n>two\n{bases[:900]}\n")
    far = verb(folder, tiny_genome, fasta, tmp_path / "far")
    assert any(taken)
    taken.clear()
    # As HYENA_LONG_CONV=fft of the shell, which is read once.
    monkeypatch.setattr(long_conv, "_environment", "fft")
    exact = verb(folder, tiny_genome, fasta, tmp_path / "exact")
    assert not any(taken)
    assert far.size > 0
    np.testing.assert_allclose(far, exact, rtol=2e-5, atol=2e-6)


def test_scores_in_float64_take_the_exact_route(folder: Path, tmp_path: Path, taken: list[bool]) -> None:
    fasta = tmp_path / "long.fa"
    fasta.write_text(f">one\n{'ACGT' * 225}\n")
    run("score", "--model", folder, "--fasta", fasta, "--out", tmp_path / "scores.tsv", "--device", "cpu")
    assert taken == [False, False]


@pytest.mark.slow
def test_a_filter_that_is_roughened_while_it_trains_changes_over_and_is_told_of_once(
    tiny_genome: Path,
    tmp_path: Path,
    taken: list[bool],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[list[bool]] = []
    real = train.optimizer_step

    def step(state: Any, *args: Any) -> Any:
        if len(steps) == 2:
            with torch.no_grad():
                state.model.hyena.backbone.layers[0].mixer.filter_fn.implicit_filter[0].weight.mul_(1e4)
        taken.clear()
        done = real(state, *args)
        steps.append([*taken])
        return done

    monkeypatch.setattr(train, "optimizer_step", step)
    words = f"--d_model 8 --n_layer 2 --max_seq_len {1 << 15} --length {L} --batch_size 1 --steps 4 --eval_every 0"
    fields = json.dumps({"activation_freq": 1.0, "filter_order": 8})
    with caplog.at_level(logging.WARNING, logger="hyena_kernels"):
        run("pretrain", "--genome", tiny_genome, "--out", tmp_path / "run", "--valid_contigs", "b", *words.split(),
            "--max_n_fraction", 0.5, "--lr", 1e-5, "--model_fields", fields, "--device", "cpu")  # fmt: skip
    assert steps == [[True, True], [True, True], [False, True], [False, True]]
    told = [record.getMessage() for record in caplog.records if record.name == "hyena_kernels"]
    assert len(told) == 1
    assert f"of up to {L:,} positions in float32: the filters have become too rough" in told[0]
    assert "the exact route from now on" in told[0]
    assert HyenaDNAForCausalLM.from_pretrained(tmp_path / "run" / "model").config.long_conv == "auto"


def test_a_field_of_the_model_names_the_route(tiny_genome: Path, tmp_path: Path, taken: list[bool]) -> None:
    words = f"--d_model 8 --n_layer 1 --max_seq_len {1 << 15} --length {L} --batch_size 1 --steps 1 --eval_every 0"
    run("pretrain", "--genome", tiny_genome, "--out", tmp_path / "run", "--valid_contigs", "b", *words.split(),
        "--max_n_fraction", 0.5, "--model_fields", json.dumps({"long_conv": "fft"}), "--device", "cpu")  # fmt: skip
    assert not any(taken)
    assert HyenaDNAForCausalLM.from_pretrained(tmp_path / "run" / "model").config.long_conv == "fft"


def test_doctor_tells_the_setting_and_where_it_begins(capfd: pytest.CaptureFixture[str]) -> None:
    run("doctor")
    told = capfd.readouterr().out
    assert "long convolutions: long_conv='auto'; auto tries the far field from 800 positions on cpu" in told
