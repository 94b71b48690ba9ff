from __future__ import annotations

import copy
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hyenadna import (
    DNATokenizer,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
)
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import reverse_complement
from hyenadna.common.writers import only_writer
from hyenadna.data.dataset import LabelledDataset
from hyenadna.data.sequences import encode
from hyenadna.evaluation.baselines import kmer_counts
from hyenadna.finetuning import batches as batches_module, runs as runs_module, train as finetune_module
from hyenadna.finetuning.batches import epoch_batches, random_crop
from hyenadna.finetuning.data import read_data
from hyenadna.finetuning.results import describe
from hyenadna.finetuning.train import FinetuneConfig, finetune, predict
from hyenadna.inference import logits as logits_module
from tests.ranks import forkserver


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(d_model=16)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences that are rich in G and C, or not, with labels for each task."""
    rng = np.random.default_rng(0)
    lines = ["seq\tkind\trich\tpoor\tshare\ttokens"]
    for i in range(120):
        rich = i % 3 != 0
        letters = rng.choice(
            list("ACGT"), rng.integers(20, 40), p=[0.1, 0.4, 0.4, 0.1] if rich else [0.4, 0.1, 0.1, 0.4]
        )
        tokens = "".join("S" if base in "GC" else "W" for base in letters)
        share = f"{np.isin(letters, ['G', 'C']).mean():.4f}"
        lines.append(
            "\t".join(["".join(letters), "rich" if rich else "poor", str(int(rich)), str(int(not rich)), share, tokens])
        )
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def config(table: Path, folder: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=table, out=tmp_path / "out", model=folder, sequence_column="seq", label_columns=["kind"],
        epochs=6, batch_size=16, lr=1e-2, device="cpu", threads=1,
    )  # fmt: skip


SCRATCH: dict[str, Any] = {"method": "scratch", "model": None}


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "scratch"])
def test_every_method_learns_and_leaves_a_model(config: FinetuneConfig, method: str) -> None:
    changes: dict[str, Any] = {"method": method}
    if method == "scratch":
        changes |= {"model": None, "d_model": 16, "n_layer": 1, "max_seq_len": 64, "model_fields": {"filter_order": 8}}
    summary = finetune(replace(config, **changes), progress=False)
    assert summary["test"]["accuracy"]["mean"] > 0.85
    assert summary["examples"] == {"train": 84, "valid": 12, "test": 24}
    assert json.loads((config.out / "results.json").read_text()) == summary
    assert sorted(path.name for path in config.out.iterdir()) == [
        "metrics.jsonl",
        "model",
        "results.json",
        "training.png",
    ]

    model = HyenaDNAForSequenceClassification.from_pretrained(config.out / "model")
    assert model.config.id2label == {0: "poor", 1: "rich"}
    test = read_data(config)[0].test
    logits = predict(model, test, config, torch.device("cpu"))
    assert (logits.argmax(1) == test.labels).mean() == pytest.approx(summary["test"]["accuracy"]["mean"])
    assert DNATokenizer.from_pretrained(config.out / "model").model_max_length == 64


def test_what_is_frozen_stays(config: FinetuneConfig, folder: Path) -> None:
    finetune(replace(config, method="frozen", epochs=1), progress=False)
    before = HyenaDNAForCausalLM.from_pretrained(folder).hyena
    after = HyenaDNAForSequenceClassification.from_pretrained(config.out / "model").hyena
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize(
    ("task", "columns", "metric", "least"),
    [
        ("multilabel", ["rich", "poor"], "auroc", 0.9),
        ("regression", ["share"], "pearson", 0.7),
        ("token", ["tokens"], "accuracy", 0.95),
    ],
)
def test_other_tasks(config: FinetuneConfig, task: str, columns: list[str], metric: str, least: float) -> None:
    summary = finetune(replace(config, task=task, label_columns=columns), progress=False)
    assert summary["test"][metric]["mean"] > least
    kind = HyenaDNAForTokenClassification if task == "token" else HyenaDNAForSequenceClassification
    model = kind.from_pretrained(config.out / "model")
    assert model.config.num_labels == (1 if task == "regression" else 2)


def test_seeds_and_baselines_and_the_published_figure(config: FinetuneConfig) -> None:
    config = replace(config, seeds=[0, 1], baseline=True, preset="gb-nontata-promoters", epochs=2)
    summary = finetune(config, progress=False)
    accuracies = [run["test"]["accuracy"] for run in summary["runs"]]
    assert summary["test"]["accuracy"] == {
        "mean": pytest.approx(np.mean(accuracies)),
        "deviation": pytest.approx(np.std(accuracies, ddof=1)),
        "runs": 2,
    }
    test = np.asarray(read_data(config)[0].test.labels)
    majority, logistic, tuned = summary["baseline"].values()
    assert majority == (test == 1).mean()
    assert min(logistic, tuned) > majority
    text = describe(summary)
    assert "majority class, accuracy" in text
    assert text.endswith("drawn from all examples (split_seed 0): a demonstration, not a benchmark")
    assert f"{'published pretrained, accuracy':<52}   0.9660" in text
    assert "not comparable with the published figure: training began from other weights than the published ones" in text
    said = {key: summary[key] for key in ("preset", "weights", "epoch_chosen_on")}
    assert said == {
        "preset": "gb-nontata-promoters", "weights": "other", "epoch_chosen_on": "drawn from the training examples",
    }  # fmt: skip
    assert {name: summary["deviations"][name] for name in ("epochs", "batch_size", "lr")} == {
        "epochs": [2, 100], "batch_size": [16, 128], "lr": [1e-2, 6e-4],
    }  # fmt: skip
    assert summary["deviations"]["size"][0].startswith("d_model 16, n_layer ")
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["epoch"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_runs_are_the_same_with_the_same_seed(config: FinetuneConfig, one_thread: None) -> None:
    one, two, three = (
        finetune(replace(config, epochs=1, out=config.out / str(i), seeds=[seed], balanced=True), progress=False)
        for i, seed in enumerate((0, 0, 1))
    )
    for run in (one, two, three):
        run["runs"][0].pop("seconds")
    assert one["runs"] == two["runs"] != three["runs"]


@pytest.mark.slow
def test_jobs_side_by_side_give_what_one_after_another_gives(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    config = replace(config, epochs=2, seeds=[0, 1])
    # The order in which runs end changes nothing.
    monkeypatch.setattr(finetune_module, "as_completed", reversed)
    monkeypatch.setattr(multiprocessing, "get_context", {"spawn": forkserver()}.__getitem__)
    one, two = (finetune(replace(config, jobs=n, out=config.out / str(n)), progress=False) for n in (1, 2))
    for summary in (one, two):
        for run in summary["runs"]:
            run.pop("seconds")
    assert one == two
    files = [{path.name: path.read_bytes() for path in (config.out / n / "model").iterdir()} for n in "12"]
    assert files[0] == files[1]


def test_an_error_ends_the_other_jobs_and_keeps_what_was_finished(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures: list[Future[None]] = []

    def first_then_error(submitted: list[Future[None]]) -> Iterator[Future[None]]:
        futures.extend(submitted)
        yield next(as_completed(submitted))
        raise InputError("out of luck")

    monkeypatch.setattr(multiprocessing, "get_context", {"spawn": forkserver()}.__getitem__)
    monkeypatch.setattr(finetune_module, "as_completed", first_then_error)
    config = replace(config, epochs=2, seeds=list(range(8)), jobs=2)
    pattern = r"out of luck; ([1-7]) of 8 runs are finished and kept in .*out\.partial: the same command with `resume`"
    with pytest.raises(InputError, match=pattern) as caught:
        finetune(config, progress=False)
    assert multiprocessing.active_children() == []
    assert sum(not future.cancelled() and future.exception() is None for future in futures) < 8
    assert not config.out.exists()
    runs = list(config.out.with_name("out.partial").glob("seed-*/run.json"))
    said = re.match(pattern, str(caught.value))
    assert said is not None
    assert len(runs) == int(said[1])
    for run in runs:
        assert [row["epoch"] for row in json.loads(run.read_text())["epochs"]] == [1, 2]


def test_a_stopped_run_is_resumed(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, one_thread: None, capsys: Any
) -> None:
    """Seeds of two folds; the best of the four runs is among the first two, or not."""
    config = replace(config, epochs=1, folds=2, seeds=[0, 1])
    whole = finetune(replace(config, out=config.out.with_name("whole")), progress=False)
    train = finetune_module.train
    names: list[str] = []

    def stopped_after_two(*args: Any) -> Any:
        names.append(args[4])
        if len(names) == 3:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(finetune_module, "train", stopped_after_two)
    kept = config.out.with_name("out.partial")
    with pytest.raises(KeyboardInterrupt) as caught:
        finetune(config, progress=False)
    assert str(caught.value) == (
        f"2 of 4 runs are finished and kept in {kept}: the same command with `resume` continues with the others"
    )
    assert sorted(path.name for path in kept.glob("seed-*")) == ["seed-0-fold-1", "seed-1-fold-1"]
    assert len(list(kept.glob("seed-*/model"))) == 1
    with pytest.raises(InputError, match=r"out\.partial: holds parts of a stopped run; continue it with `resume`"):
        finetune(config, progress=False)
    with pytest.raises(InputError, match=r"other options \(lr: 0\.01 there, 0\.02 now\): give the same options to"):
        finetune(replace(config, lr=0.02, resume=True), progress=False)
    # As a kill leaves a run that was being written.
    (kept / f".seed-1-fold-2.{'0' * 32}.tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module, "_train_all", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            finetune(replace(config, resume=True), progress=False)
    assert capsys.readouterr().out == ""
    resumed = finetune(replace(config, resume=True), progress=True)
    assert "2 of 4 runs are finished, continuing with the others" in capsys.readouterr().out
    assert names[3:] == ["seed 0, fold 2", "seed 1, fold 2"]
    for run in (*whole["runs"], *resumed["runs"]):
        run.pop("seconds")
    assert resumed == whole
    files = [
        {path.name: path.read_bytes() for path in (config.out.with_name(name) / "model").iterdir()}
        for name in ("whole", "out")
    ]
    assert files[0] == files[1]
    assert sorted(path.name for path in config.out.parent.iterdir()) == ["out", "whole"]


def test_a_run_stopped_before_anything_is_finished_leaves_nothing(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_module, "train", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="nothing was finished, and nothing is kept"):
        finetune(config, progress=False)
    assert list(config.out.parent.iterdir()) == []


def test_a_run_that_cannot_be_kept_leaves_nothing_in_the_way(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "save_model", full)
        with pytest.raises(InputError, match="No space left"):
            finetune(replace(config, epochs=1), progress=False)
    assert list(config.out.parent.iterdir()) == []
    foreign = config.out.with_name("out.partial")
    (foreign / "seed-0").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(InputError, match=r"out\.partial: is in the way and was made by no run"):
            finetune(replace(config, epochs=1, resume=resume), progress=False)
    assert (foreign / "seed-0").is_dir()


@pytest.mark.parametrize("resume", [False, True])
def test_runs_that_another_process_trains_are_refused(config: FinetuneConfig, resume: bool) -> None:
    message = rf"out: process {os.getpid()} on .* is writing there; wait until it has ended, or choose another `out`"
    with only_writer(config.out), pytest.raises(InputError, match=message):
        finetune(replace(config, resume=resume), progress=False)
    assert list(config.out.parent.iterdir()) == []


def test_a_process_that_dies_is_reported(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_module, "_start_worker", os._exit)
    with pytest.raises(InputError, match="a process of `jobs` 2 ended before its run: out of memory"):
        finetune(replace(config, seeds=[0, 1], jobs=2), progress=False)
    assert not config.out.exists()


def test_a_correlation_below_zero_stays_below_zero(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_module, "score", lambda *args: ({"pearson": -0.25}, {}))
    summary = finetune(replace(config, task="regression", label_columns=["share"], epochs=1), progress=False)
    assert summary["runs"][0]["valid"] == -0.25


def test_weights_that_the_last_step_ruins_are_reported(config: FinetuneConfig) -> None:
    """One batch an epoch: the loss is computed before the step, and stays finite."""
    with pytest.raises(InputError, match=r"the predictions are not finite\): lower `lr`"):
        finetune(replace(config, lr=1e30, batch_size=200, epochs=1), progress=False)


def test_the_next_token_needs_a_head_that_reads_it(
    config: FinetuneConfig, tiny_checkpoint: Callable[..., Path]
) -> None:
    classifier = tiny_checkpoint(HyenaDNAForSequenceClassification)
    with pytest.raises(InputError, match="`lm_weight` needs a checkpoint with the head of a language model: "):
        finetune(replace(config, model=classifier, lm_weight=0.5), progress=False)


def test_splits_are_drawn_once_and_do_not_overlap(config: FinetuneConfig) -> None:
    data, again, other = (read_data(replace(config, split_seed=seed))[0] for seed in (0, 0, 1))
    texts = [[tuple(ids) for ids in split.sequences] for split in (data.train, data.valid, data.test)]
    assert [len(part) for part in texts] == [84, 12, 24]
    assert len(set().union(*texts)) == 120
    assert all(np.array_equal(a, b) for a, b in zip(data.test.sequences, again.test.sequences, strict=True))
    assert [tuple(ids) for ids in other.test.sequences] != texts[2]


def test_folds_test_every_example_once(config: FinetuneConfig) -> None:
    config = replace(config, folds=4, epochs=1)
    runs = read_data(config)
    tested = [tuple(ids) for run in runs for ids in run.test.sequences]
    assert len(tested) == len(set(tested)) == 120
    for run in runs:
        parts = [{tuple(ids) for ids in split.sequences} for split in (run.train, run.valid, run.test)]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 120
    summary = finetune(config, progress=False)
    assert [run["fold"] for run in summary["runs"]] == [1, 2, 3, 4]
    assert summary["test"]["accuracy"]["runs"] == 4


def test_balanced_batches_draw_every_class_equally_often() -> None:
    data = LabelledDataset([np.zeros(3, np.uint8)] * 1000, np.array([0] * 900 + [1] * 100))
    rng = np.random.default_rng(0)
    plain, drawn = (np.concatenate(epoch_batches(data, 16, rng, balanced=balanced)) for balanced in (False, True))
    assert sorted(plain) == list(range(1000))
    assert np.asarray(data.labels)[drawn].mean() == pytest.approx(0.5, abs=0.06)


def test_crops_take_every_part_and_leave_a_base() -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(9, dtype=np.uint8)
    found = {tuple(random_crop(ids, 2, rng)) for _ in range(200)}
    assert found == {tuple(ids[left : 9 - right]) for left in range(3) for right in range(3)}
    for length in (1, 2, 3):
        assert min(len(random_crop(ids[:length], 50, rng)) for _ in range(50)) == 2 - length % 2


def test_cropping_is_for_training_alone(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: dict[bool, list[int]] = {False: [], True: []}
    to_tensor = logits_module.to_tensor

    def recorded(sequences: list[np.ndarray], device: torch.device, **options: Any) -> torch.Tensor:
        lengths[torch.is_grad_enabled()] += map(len, sequences)
        return to_tensor(sequences, device, **options)

    for module in (batches_module, logits_module):
        monkeypatch.setattr(module, "to_tensor", recorded)
    data = read_data(config)[0]
    finetune(replace(config, epochs=1, crop=10), progress=False)
    assert sum(lengths[True]) < sum(map(len, data.train.sequences)) - 5 * len(data.train)
    assert sorted(lengths[False]) == sorted(map(len, [*data.valid.sequences, *data.test.sequences]))


def test_next_token_loss_is_that_of_the_language_model_without_pads(folder: Path) -> None:
    model = HyenaDNAForCausalLM.from_pretrained(folder)
    ids = torch.randint(7, 12, (3, 12))
    ids[1, 5:] = ids[2, 1:] = 4
    with torch.no_grad():
        output = model(ids, labels=ids.masked_fill(ids == 4, -100), output_hidden_states=True)
        found = finetune_module.mean_next_token_loss(output.hidden_states[-1], ids, model.lm_head)
        nothing = finetune_module.mean_next_token_loss(output.hidden_states[-1][:, :1], ids[:, :1], model.lm_head)
    assert abs(float(found - output.loss)) < 1e-6
    assert nothing == 0


@pytest.mark.parametrize("method", ["full", "lora", "scratch"])
def test_the_next_token_is_learnt_beside_the_labels(
    config: FinetuneConfig, folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is the checkpoint's, if there is one. It is trained, and a larger weight lowers its loss more."""
    heads, losses = [], {}
    make_head, mean_loss = finetune_module.make_language_head, finetune_module.mean_next_token_loss

    def recorded_head(*args: Any) -> nn.Linear:
        heads.append(make_head(*args))
        heads.append(copy.deepcopy(heads[0]))
        return heads[0]

    def recorded_loss(*args: Any) -> torch.Tensor:
        loss = mean_loss(*args)
        losses.setdefault(config.lm_weight, []).append(float(loss.detach()))
        return loss

    monkeypatch.setattr(finetune_module, "make_language_head", recorded_head)
    monkeypatch.setattr(finetune_module, "mean_next_token_loss", recorded_loss)
    changes = {"model": None, "size": "tiny-1k", "d_model": 16, "n_layer": 1} if method == "scratch" else {}
    for weight in (1e-9, 3.0):
        heads.clear()
        config = replace(config, method=method, lm_weight=weight, out=config.out / str(weight), **changes)
        finetune(config, progress=False)
        if method != "scratch":
            assert torch.equal(heads[1].weight, HyenaDNAForCausalLM.from_pretrained(folder).lm_head.weight)
        assert not torch.equal(heads[0].weight, heads[1].weight)
    idle, learnt = (np.array(values) for values in losses.values())
    assert learnt[:6].mean() - learnt[-6:].mean() > idle[:6].mean() - idle[-6:].mean() + 0.3


def test_training_stops_when_validation_no_longer_improves(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.9, 0.7, 0.8, 0.6, 0.75])
    monkeypatch.setattr(finetune_module, "score", lambda *args: ({"accuracy": next(values)}, {}))
    summary = finetune(replace(config, epochs=20, patience=3), progress=False)
    rows = (config.out / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 5
    assert (summary["runs"][0]["best_epoch"], summary["runs"][0]["valid"]) == (2, 0.9)
    assert summary["test"]["accuracy"]["mean"] == 0.75


@pytest.mark.parametrize("method", ["full", "lora", "soft-prompt"])
def test_a_moving_average_is_validated_tested_and_saved(
    config: FinetuneConfig, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decay 0.5: the average after steps 1, 2, 3 is w1, (w1 + w2) / 2, (w1 + w2 + 2 w3) / 4."""
    weights, scored = [], []
    step, score = torch.optim.AdamW.step, finetune_module.score

    def recorded_step(self: torch.optim.AdamW, *args: Any) -> None:
        step(self, *args)
        weights.append([p.detach().clone() for group in self.param_groups for p in group["params"]])

    def recorded_score(model: Any, *args: Any) -> Any:
        scored.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        return score(model, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded_step)
    monkeypatch.setattr(finetune_module, "score", recorded_score)
    config = replace(config, method=method, ema_decay=0.5, epochs=1, batch_size=28)
    finetune(config, progress=False)
    assert len(weights) == 3
    average = [(one + two + 2 * three) / 4 for one, two, three in zip(*weights, strict=True)]
    # Validation, then the test.
    assert len(scored) == 2
    for parameters in scored:
        ours = sorted(parameters.values(), key=lambda p: (p.shape, p.sum()))
        expected = sorted(average, key=lambda p: (p.shape, p.sum()))
        for value, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)


def test_predictions_do_not_depend_on_batches_or_strand(config: FinetuneConfig, folder: Path) -> None:
    model = HyenaDNAForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float64)
    data = read_data(config)[0].test
    cpu = torch.device("cpu")
    one, many = (predict(model, data, replace(config, batch_size=size), cpu) for size in (1, 24))
    np.testing.assert_allclose(one, many, atol=1e-6)
    turned = LabelledDataset([reverse_complement(ids) for ids in data.sequences], data.labels)
    both = replace(config, reverse_complement=True)
    np.testing.assert_allclose(predict(model, data, both, cpu), predict(model, turned, both, cpu), atol=1e-6)
    assert not np.allclose(predict(model, turned, config, cpu), one, atol=1e-6)


def test_words_are_counted() -> None:
    counts = kmer_counts([encode("ACGTNACGTA", ""), encode("AC", "")], k=2)
    assert counts.shape == (2, 16)
    assert counts[0].sum() == 7
    assert (counts[0, 1], counts[0, 6], counts[0, 11], counts[0, 12]) == (2, 2, 2, 1)
    assert counts[1].sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "half"}, "`method` half: choose full, frozen, lora, scratch"),
        ({"model": None}, "`method` full: needs a `model`"),
        ({"method": "scratch"}, "`method` scratch: leave out `model`"),
        ({"task": "x"}, "`task` x: choose classification, multilabel, regression or token"),
        ({"format": "x"}, "`format` x: choose auto, table"),
        ({"metric": "pearson"}, "`metric` pearson: for `task` classification choose accuracy, mcc"),
        ({"epochs": 0}, "`epochs` 0: must be at least 1"),
        ({"folds": 1}, "`folds` 1: choose 0 for none"),
        ({"valid_fraction": 1.0}, "`valid_fraction` 1.0: must be above 0 and below 1"),
        ({"ema_decay": 1.0}, "`ema_decay` 1.0: must be at least 0 and below 1"),
        ({"lr": 0.0}, "`lr` 0.0: must be above 0"),
        ({"seeds": []}, "`seeds`: give at least one number"),
        ({"seeds": [3, 1, 3]}, "`seeds` [3, 1, 3]: a seed is there twice"),
        ({"label_columns": ["share"]}, "not classes: choose `task` regression"),
        ({"task": "regression", "baseline": True}, "`baseline` is for `task` classification"),
        ({"task": "regression", "balanced": True}, "`balanced` is for `task` classification"),
        ({"task": "token", "reverse_complement": True}, "`reverse_complement`: the labels of bases have a strand"),
        ({"label_columns": ["absent"]}, "has no column 'absent'"),
        ({"model": Path("absent")}, "no checkpoint at absent"),
        ({"task": "multilabel", "label_columns": ["share"]}, "outputs of several labels are 0 or 1"),
        ({"label_columns": ["tokens"]}, "too few examples of each label, none is left for valid"),
        (
            {"method": "scratch", "model": None, "max_seq_len": 16},
            "bases is longer than the 16 that the model is made for",
        ),
        ({"lr": 1e30}, "the loss is nan; lower `lr`"),
        ({"jobs": 0}, "`jobs` 0: must be at least 1"),
        ({"lm_weight": -1.0}, "`lm_weight` -1.0: must be at least 0"),
        ({"lm_weight": 0.5, "method": "frozen"}, "`lm_weight` is for `method` full, lora and scratch"),
        ({"crop": -1}, "`crop` -1: must be at least 0"),
        ({"crop": 2, "task": "token", "label_columns": ["tokens"]}, "leave it out for `task` token"),
        ({"threads": 0}, "`threads` 0: must be at least 1 and below 1024"),
        ({"threads": 10**9}, "`threads` 1000000000: must be"),
        ({"batch_size": 0}, "`batch_size` 0: must be"),
        ({"batch_size": 10**9}, "`batch_size` 1000000000: must be"),
        ({"jobs": -1}, "`jobs` -1: must be at least 1"),
        ({"split_seed": -1}, "`split_seed` -1: must be at least 0"),
        ({"seeds": [10**30]}, f"`seeds` {10**30}: must be"),
        ({"folds": 1000}, "`folds` 1000: there are 120 training examples; take fewer folds"),
        ({"d_model": 32}, "`d_model` 32: has no effect without `method` scratch; leave it out"),
        ({"model_fields": {"filter_order": 8}}, "has no effect without `method` scratch"),
        (
            {**SCRATCH, "model_fields": {"widht": 3}},
            "`model_fields`: HyenaDNAConfig has no field widht",
        ),
        (
            {**SCRATCH, "model_fields": {"pooling": "last"}},
            "`model_fields`: pooling has an option of its own, which sets it too",
        ),
        (
            {**SCRATCH, "model_fields": {"d_model": 8}, "d_model": 16},
            "`model_fields`: d_model has an option of its own, which sets it too",
        ),
        (
            {**SCRATCH, "model_fields": {"hyena_filter_dropout": 0.5}},
            "`model_fields` {'hyena_filter_dropout': 0.5}: make no model (HyenaFilter: dropout=0.5 is not supported",
        ),
        ({"size": "small-32k"}, "`size` small-32k: has no effect without `method` scratch"),
        ({"lora_rank": 4}, "`lora_rank` 4: has no effect without `method` lora"),
        ({"prompt_tokens": 4}, "has no effect without `method` soft-prompt"),
        ({"shots": 4}, "has no effect without `method` few-shot"),
        ({"eval_shots": [1]}, "has no effect without `method` few-shot"),
        ({"method": "soft-prompt", "pooling": "last"}, "`pooling` last: has no effect without a head"),
        ({"task": "token", "label_columns": ["tokens"], "pooling": "last"}, "`pooling` last: has no effect"),
        ({"aliases": Path("pyproject.toml")}, "has no effect without DeepSEA's coordinates as `data`"),
        ({"species_windows": 3}, "`species_windows` 3: has no effect without species as `data`"),
        (
            {"task": "multilabel", "label_columns": ["rich", "poor"], "metric": "auroc_tf"},
            "auroc_tf has no value on the validation split (it is for the 919 outputs of DeepSEA)",
        ),
        (
            {"method": "few-shot", "eval_shots": [0, 29]},
            "`shots` and `eval_shots`: 29 demonstrations of each class, but one has 28 in training",
        ),
        ({"valid_fraction": 0.3}, "`valid_fraction` 0.3: has no effect without splits in the data"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(config: FinetuneConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        finetune(replace(config, **change), progress=False)
    assert message in str(caught.value)
    assert list(config.out.parent.iterdir()) == []


def test_runs_before_a_failure_are_kept_apart(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = finetune_module.train

    def failing(config: FinetuneConfig, data: Any, seed: int, *rest: Any) -> Any:
        if seed == 1:
            raise InputError("seed 1 fails")
        return original(config, data, seed, *rest)

    monkeypatch.setattr(finetune_module, "train", failing)
    with pytest.raises(
        InputError, match=r"seed 1 fails; 1 of 2 runs are finished and kept in .*out\.partial: the same command with"
    ):
        finetune(replace(config, seeds=[0, 1], epochs=1), progress=False)
    assert [path.name for path in config.out.parent.iterdir()] == ["out.partial"]


def test_long_sequences_are_cut_to_their_middle_if_asked(config: FinetuneConfig) -> None:
    whole, cut = (read_data(replace(config, length=length))[0].test for length in (None, 10))
    for long, short in zip(whole.sequences, cut.sequences, strict=True):
        first = (len(long) - 10) // 2
        assert np.array_equal(short, long[first : first + 10])


def test_an_output_that_is_undefined_on_the_validation_split_says_so(config: FinetuneConfig, tmp_path: Path) -> None:
    lines = ["seq\tkind\tpart"]
    lines += [f"{'ACGT' * 5}\t{i % 2}\ttrain" for i in range(8)]
    lines += [f"{'ACGT' * 5}\t1\t{part}" for part in ("valid", "test", "valid", "test")]
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    config = replace(config, data=tmp_path / "t.tsv", split_column="part", epochs=1)
    assert not read_data(config)[0].demonstration
    with pytest.raises(
        InputError, match=r"mcc has no value on the validation split \(the split holds only one class\)"
    ):
        finetune(replace(config, metric="mcc"), progress=False)
    summary = finetune(config, progress=False)
    assert "mcc" not in summary["test"]
    assert "mcc has no value: the split holds only one class" in describe(summary)


def write_table(path: Path, labels: list[str], sequences: list[str] | None = None, parts: str = "") -> Path:
    """A table with a random sequence for each label, and the splits of the letters ``parts``."""
    rng = np.random.default_rng(0)
    sequences = sequences or ["".join(rng.choice(list("ACGT"), 20)) for _ in labels]
    names = {"r": "train", "v": "valid", "t": "test"}
    lines = ["seq\tkind" + "\tpart" * bool(parts)]
    for i, (sequence, label) in enumerate(zip(sequences, labels, strict=True)):
        lines.append(f"{sequence}\t{label}" + (f"\t{names[parts[i]]}" if parts else ""))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("seed", range(5))
def test_every_drawn_split_has_the_same_fraction_of_each_class(
    config: FinetuneConfig, tmp_path: Path, seed: int
) -> None:
    table = write_table(tmp_path / "t.tsv", ["positive"] * 10 + ["negative"] * 190)
    [splits] = read_data(replace(config, data=table, split_seed=seed))
    for split, count in ((splits.train, 140), (splits.valid, 20), (splits.test, 40)):
        assert np.bincount(np.asarray(split.labels)).tolist() == [count * 19 // 20, count // 20]
    assert splits.notes == []
    for fold in read_data(replace(config, data=table, split_seed=seed, folds=5)):
        assert np.bincount(np.asarray(fold.test.labels)).tolist() == [38, 2]
        assert (np.asarray(fold.valid.labels) == 1).sum() == 1


def test_a_class_that_is_too_rare_for_every_split_is_told(config: FinetuneConfig, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", ["a"] * 20 + ["b"] * 20 + ["rare"])
    [splits] = read_data(replace(config, data=table))
    assert splits.notes == [
        f"the {split} split holds no example of rare: metrics over all classes have no value there"
        for split in ("valid", "test")
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "NA", "NA"], "row 3: the label 'NA' stands for a missing value (and in 1 more examples): leave"),
        (["a", "b", "nan"], "the label 'nan' stands for a missing value"),
        (["a", "b", " "], "the label ' ' stands for a missing value"),
        (["rich", "poor", "Rich"], "row 3: the class 'Rich' (1 times) differs from 'rich' (1 times) only in case"),
        (["rich", "poor", "rich "], "the class 'rich ' (1 times) differs from 'rich'"),
        (["0", "1", "1.0"], "the class '1.0' (1 times) differs from '1' (1 times) only in"),
    ],
)
def test_labels_that_are_no_further_class(
    config: FinetuneConfig, tmp_path: Path, labels: list[str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_data(replace(config, data=write_table(tmp_path / "t.tsv", labels)))
    assert message in str(caught.value)


def test_sequences_in_two_splits_are_told(
    config: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sequences = ["ACGTACGGT", "GGGGACCCC", "TTTTACGCC", "ACGTACGGT", "CCCCCCTTA", "GGGGTCCCC", "ACGTACGGT", "ACCCCCCCA"]
    table = write_table(tmp_path / "t.tsv", list("ababbaaa"), sequences, "rrrvvttt")
    config = replace(config, data=table, split_column="part", epochs=1)
    summary = finetune(config)
    notes = [
        "1 of the 2 valid sequences are training sequences too: the valid figures may be too good",
        "2 of the 3 test sequences are training sequences too (1 as the reverse complement): the test figures may "
        "be too good",
        "1 of the 3 test sequences are validation sequences too: the test figures may be too good",
        "of the sequences that repeat, 1 have different labels: no model can be right on all of these",
        "the valid split holds no example of a: metrics over all classes have no value there",
        "the test split holds no example of b: metrics over all classes have no value there",
    ]
    assert summary["notes"] == json.loads((config.out / "results.json").read_text())["notes"] == notes
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert told == [f"warning: {note}" for note in notes]
    assert {name: summary["runs"][0]["test"][name] for name in ("auroc", "mcc", "f1_macro")} == {
        "auroc": None,
        "mcc": None,
        "f1_macro": None,
    }


def test_a_folder_of_tables_says_what_it_leaves_out(config: FinetuneConfig, tmp_path: Path) -> None:
    lines = "\n".join(f"ACGT{'ACGT'[i % 4]}\t{'ab'[i % 2]}" for i in range(20))
    for name in ("train", "test", "rest"):
        (tmp_path / f"{name}.tsv").write_text(f"seq\tkind\n{lines}\n")
    (tmp_path / "validation.tsv").write_text("seq\tkind\n")
    (data,) = read_data(replace(config, data=tmp_path))
    assert (len(data.train), len(data.valid), len(data.test), data.demonstration) == (18, 2, 20, False)
    assert data.notes[:2] == [
        f"{tmp_path}: left out rest.tsv, which are tables of no split",
        f"{tmp_path}: no validation rows; 10% of the training rows are held out, of whatever group",
    ]
    with pytest.raises(InputError, match="`split_column` part: has no effect without a table as `data`"):
        read_data(replace(config, data=tmp_path, split_column="part"))
