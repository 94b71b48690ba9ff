"""``pretrain --architecture gpt``: the same windows, runs that resume to the same bits, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hyenadna.baselines.gpt import GPTForCausalLM
from hyenadna.baselines.loading import load_language_model
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.evaluation import evaluate as evaluation
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.inference.config import GenerateConfig, ScoreConfig
from hyenadna.inference.generate import generate
from hyenadna.inference.score import score
from hyenadna.pretraining import train
from hyenadna.pretraining.train import PretrainConfig, pretrain
from tests.hyenadna.pretraining.test_parallel import Run as World, assert_alike, ports, train_in_worlds
from tests.ranks import run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")
__all__ = ["ports"]

GPT: dict[str, Any] = {
    "architecture": "gpt",
    "steps": 4,
    "checkpoint_every": 2,
    "eval_every": 2,
    "warmup_length": None,
    "warmup_length_steps": 1000,
}


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    config = tiny_config(tmp_path_factory.mktemp("gpt") / "run", threads=1, **GPT)
    pretrain(config, progress=False)
    return config


def test_the_model_is_a_gpt_and_learns(finished: PretrainConfig) -> None:
    model = load_language_model(finished.out / "model")
    assert isinstance(model, GPTForCausalLM)
    assert (model.config.d_model, model.config.n_head, model.config.max_seq_len) == (16, 8, 64)
    losses = [row["loss"] for row in read_metrics(finished.out / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_a_resumed_run_has_the_same_bits(finished: PretrainConfig, tmp_path: Path) -> None:
    """Dropout is on, so the random state comes back too."""
    again = dataclasses.replace(finished, out=tmp_path / "again")
    shutil.copytree(finished.out, again.out)
    newest = max(again.out.glob("step-*"))
    for folder in (newest, again.out / "model"):
        shutil.rmtree(folder)
    pretrain(again, resume=True, progress=False)
    weights = [load_language_model(run.out / "model").state_dict() for run in (finished, again)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_it_sees_the_windows_of_a_hyenadna(
    tiny_config: Callable[..., PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def noted(loop_state: Any, batch: torch.Tensor, config: PretrainConfig) -> tuple[float, float]:
        seen.append(batch.clone())
        return 1.0, 1.0

    monkeypatch.setattr(train, "optimizer_step", noted)
    for name, architecture in (("a", "hyena"), ("b", "gpt")):
        pretrain(tiny_config(tmp_path / name, **GPT | {"architecture": architecture}), progress=False)
    assert len(seen) == 8
    assert all(torch.equal(one, other) for one, other in zip(seen[:4], seen[4:], strict=True))


def test_evaluate_and_score_take_it_and_generate_does_not(
    finished: PretrainConfig, tiny_fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_write", lambda *arguments: None)
    model = finished.out / "model"
    row = evaluation.evaluate(
        EvaluateConfig(model, finished.genome, tmp_path / "e", contigs=["b"], length=32, markov_order=-1, device="cpu"),
        progress=False,
    )
    last = read_metrics(finished.out / "metrics.jsonl")[-1]
    assert row["positions"] == 899
    assert row["perplexity"] == pytest.approx(last["valid_perplexity"], rel=0.05)
    fasta = tmp_path / "s.fa"
    fasta.write_text(">a\nACGTACGTAC\n")
    score(ScoreConfig(model, tmp_path / "s.tsv", fasta=fasta, device="cpu"), progress=False)
    likelihood = float((tmp_path / "s.tsv").read_text().splitlines()[1].split("\t")[-3])
    ids = torch.tensor([[7, 8, 9, 10, 7, 8, 9, 10, 7, 8]])
    with torch.no_grad():
        loss = load_language_model(model).double()(ids, labels=ids).loss
    assert likelihood == pytest.approx(-9 * float(loss))
    with pytest.raises(InputError, match="which here does not generate"):
        generate(GenerateConfig(model, tmp_path / "g.fa", prompt="ACGT", device="cpu"), progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "small-32k"}, "`size` small-32k: has no effect without `architecture` hyena"),
        ({"context": 2}, "`context` 2: has no effect"),
        ({"shard": "full"}, "`shard` full: has no effect"),
        ({"checkpoint_format": "dcp"}, "`checkpoint_format` dcp: only a HyenaDNA"),
        ({"gradient_checkpointing": True}, "`gradient_checkpointing` True: has no effect"),
        ({"dropout_masks": "position"}, "`dropout_masks` position: only a HyenaDNA"),
        ({"model_fields": {"short_filter_order": 8}}, "a GPT has no field short_filter_order; it has"),
        ({"model_fields": {"d_model": 16}}, "d_model has an option of its own"),
        ({"d_model": 12}, "n_head 8 does not divide d_model 12"),
        ({"length": 100}, "windows of 100 tokens: the model is made for 64"),
        ({"architecture": "hyena", "init_from": "gpt"}, "is a model of the `architecture` gpt"),
    ],
)
def test_what_only_a_hyenadna_has_is_refused(
    finished: PretrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "init_from" in changes:
        changes = changes | {"init_from": finished.out / "model", "d_model": None, "max_seq_len": None}
    with pytest.raises(InputError, match=message):
        pretrain(dataclasses.replace(finished, out=tmp_path / "refused", **changes), progress=False)


@pytest.mark.slow
def test_two_processes_train_as_one(
    tiny_config: Callable[..., PretrainConfig], tmp_path: Path, ports: Iterator[int]
) -> None:
    dropout = {"one": 0.0, "two": 0.0, "other": 0.1}
    one, two, other = (
        tiny_config(tmp_path / name, **GPT | {"embed_dropout": rate, "steps": 2, "eval_every": 0})
        for name, rate in dropout.items()
    )
    runs = [World(1, next(ports), one), World(2, next(ports), two), World(2, next(ports), other)]
    ends = run_ranks(2, train_in_worlds, runs, group=False)
    assert ends[0][:2] == ["finished"] * 2
    assert ends[0][2] == ends[1][1]
    assert "set `embed_dropout` to 0" in ends[0][2]
    assert_alike(two, one)
