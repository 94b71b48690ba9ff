"""The options of the recipe have their values in the run: optimizer, strands, frozen parts, choice of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from hyena_kernels import HyenaOperator
from hyenadna import HyenaDNAForSequenceClassification
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import NUCLEOTIDE_IDS, reverse_complement
from hyenadna.data.dataset import LabelledDataset
from hyenadna.finetuning import batches as batches_module, results as results_module, train as finetune_module
from hyenadna.finetuning.batches import augment, draw_examples
from hyenadna.finetuning.data import Splits, read_data
from hyenadna.finetuning.train import FinetuneConfig, finetune
from hyenadna.inference.predict import PredictConfig, predict as predict_file

AC = {NUCLEOTIDE_IDS["A"], NUCLEOTIDE_IDS["C"]}
GT = {NUCLEOTIDE_IDS["G"], NUCLEOTIDE_IDS["T"]}


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(noise=0.1, embed_dropout=0.1)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> FinetuneConfig:
    """Sequences of A and C alone: 16 for training, 8 for validation, 8 for the test."""
    rng = np.random.default_rng(0)
    lines = ["sequence\tlabel\tvalue\tpart"]
    for i in range(32):
        text = "".join(rng.choice(["A", "C"], 12))
        lines.append(f"{text}\t{'xy'[i % 2]}\t{text.count('A')}\t{('train', 'valid', 'train', 'test')[i // 2 % 4]}")
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    return FinetuneConfig(
        data=tmp_path / "t.tsv", out=tmp_path / "out", model=folder, split_column="part", epochs=3, batch_size=4,
        lr=1e-3, device="cpu", threads=1,
    )  # fmt: skip


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rate, decays, betas and norm of the gradient at every step of AdamW."""
    seen: list[dict[str, Any]] = []
    step = torch.optim.AdamW.step

    def noted(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        seen.append({
            "lr": [group["lr"] for group in groups],
            "decay": [group["weight_decay"] for group in groups],
            "betas": {group["betas"] for group in groups},
            "parameters": [{id(p) for p in group["params"]} for group in groups],
            "norm": float(torch.stack([g.norm() for g in gradients]).norm()),
        })  # fmt: skip
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    return seen


@pytest.mark.parametrize(("warmup", "least"), [(0.25, 0.1), (0.5, 0.0), (0.0, 0.4)])
def test_the_optimizer_follows_the_options(
    config: FinetuneConfig, steps: list[dict[str, Any]], warmup: float, least: float
) -> None:
    finetune(
        replace(config, weight_decay=0.3, lr_warmup=warmup, min_lr_factor=least, lr=0.004, clip=0.01), progress=False
    )
    up = math.ceil(warmup * 12)
    expected = [
        0.004 * ((i + 1) / up if i < up else least + (1 - least) * (1 + math.cos(math.pi * (i - up) / (11 - up))) / 2)
        for i in range(12)
    ]
    assert [step["lr"] for step in steps] == [pytest.approx([rate, rate], rel=1e-12) for rate in expected]
    assert {tuple(step["decay"]) for step in steps} == {(0.3, 0.0)}
    assert steps[0]["betas"] == {(0.9, 0.999)}
    assert max(step["norm"] for step in steps) <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("steps_up", [0, 2])
def test_a_schedule_by_steps_ends_before_the_training(
    config: FinetuneConfig, steps: list[dict[str, Any]], steps_up: int
) -> None:
    """12 steps, of which the schedule has 6. The rate then stays at its end."""
    finetune(
        replace(
            config,
            lr_warmup=0.05 if steps_up else 0.25,
            lr_warmup_steps=steps_up,
            lr_steps=6,
            min_lr_factor=0.2,
            lr=0.004,
        ),
        progress=False,
    )
    up = steps_up or math.ceil(0.25 * 12)
    down = [0.2 + 0.8 * (1 + math.cos(math.pi * i / (5 - up))) / 2 for i in range(6 - up)]
    expected = [(i + 1) / up for i in range(up)] + down + [0.2] * 6
    assert [step["lr"][0] / 0.004 for step in steps] == pytest.approx(expected, rel=1e-12)


def test_the_language_head_is_trained_and_clipped_with_the_rest(
    config: FinetuneConfig, steps: list[dict[str, Any]]
) -> None:
    finetune(replace(config, lm_weight=5.0, clip=0.01, epochs=1), progress=False)
    finetune(replace(config, out=config.out.with_name("other"), clip=0.01, epochs=1), progress=False)
    with_head, without = (sum(map(len, step["parameters"])) for step in (steps[0], steps[-1]))
    assert with_head == without + 1
    assert max(step["norm"] for step in steps) <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("both", [True, False])
def test_training_sees_both_strands_and_the_test_averages_them(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    turned: list[bool] = []
    to_tensor = batches_module.to_tensor

    def noted(sequences: list[np.ndarray], device: torch.device, **options: Any) -> torch.Tensor:
        for ids in sequences:
            assert {*ids.tolist()} <= AC or {*ids.tolist()} <= GT
            turned.append({*ids.tolist()} <= GT)
        return to_tensor(sequences, device, **options)

    monkeypatch.setattr(batches_module, "to_tensor", noted)
    summary = finetune(replace(config, reverse_complement=both, epochs=4), progress=False)
    assert len(turned) == 4 * 16
    assert 20 < sum(turned) < 44 if both else not any(turned)
    model = HyenaDNAForSequenceClassification.from_pretrained(config.out / "model")
    test = read_data(config)[0].test
    with torch.no_grad():
        sides = [model(to_tensor(rows, model.device)).logits for rows in (
            test.sequences, [reverse_complement(ids) for ids in test.sequences]
        )]  # fmt: skip
    logits = sum(sides) / 2 if both else sides[0]
    accuracy = float((logits.argmax(1).numpy() == test.labels).mean())
    assert summary["runs"][0]["test"]["accuracy"] == pytest.approx(accuracy)


def test_augment_turns_half_and_keeps_the_rest() -> None:
    rows = [np.array([7, 7, 8], dtype=np.uint8)] * 400
    found = augment(rows, np.random.default_rng(0), both_strands=True, crop=0)
    turned = sum(ids.tolist() == [9, 10, 10] for ids in found)
    assert turned + sum(ids.tolist() == [7, 7, 8] for ids in found) == 400
    assert 160 < turned < 240
    assert augment(rows, np.random.default_rng(0), both_strands=False, crop=0) == rows


@pytest.mark.parametrize(("method", "trains"), [("full", {True}), ("frozen", {False}), ("soft-prompt", {False})])
def test_dropout_is_off_in_what_is_frozen(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, method: Any, trains: set[bool]
) -> None:
    modes: set[bool] = set()
    forward, losses = HyenaOperator.forward, finetune_module.batch_losses

    def noted(self: HyenaOperator, *args: Any, **kwargs: Any) -> Any:
        modes.add(self.training)
        return forward(self, *args, **kwargs)

    def training(config: FinetuneConfig, model: Any, *args: Any) -> Any:
        # Dropout stands in the backbone, before the first operator.
        backbone = next(module for module in model.modules() if hasattr(module, "embed_dropout"))
        assert {backbone.embed_dropout.training} == trains
        with monkeypatch.context() as patch:
            patch.setattr(HyenaOperator, "forward", noted)
            return losses(config, model, *args)

    monkeypatch.setattr(finetune_module, "batch_losses", training)
    few: dict[str, Any] = {"prompt_tokens": 4} if method == "soft-prompt" else {}
    finetune(replace(config, method=method, epochs=2, **few), progress=False)
    assert modes == trains


@pytest.mark.parametrize(("task", "metric", "best"), [("regression", "mse", 2), ("regression", "pearson", 3)])
def test_the_metric_decides_on_the_epoch_and_its_weights(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, task: Any, metric: str, best: int
) -> None:
    """Lower is better for mse alone. The first of two equal epochs is kept."""
    values = iter([0.5, 0.2, 0.7, 0.2, 0.7])
    weights: list[torch.Tensor] = []

    def scored(model: Any, *args: Any) -> Any:
        weights.append(model.score.weight.detach().clone())
        return {metric: next(values)}, {}

    monkeypatch.setattr(finetune_module, "score", scored)
    summary = finetune(
        replace(config, task=task, label_columns=["value"], metric=metric, epochs=4, patience=4), progress=False
    )
    run = summary["runs"][0]
    assert (run["best_epoch"], run["valid"]) == (best, 0.2 if metric == "mse" else 0.7)
    saved = HyenaDNAForSequenceClassification.from_pretrained(config.out / "model").score.weight
    assert torch.equal(saved, weights[best - 1])
    # The test is scored with them too.
    assert torch.equal(weights[4], weights[best - 1])


@pytest.mark.parametrize(("metric", "best"), [("mse", 1), ("pearson", 0)])
def test_the_saved_model_is_the_best_over_the_seeds(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, metric: str, best: int
) -> None:
    valid, weights = [0.9, 0.1, 0.5], []
    train = finetune_module.train

    def noted(*args: Any) -> Any:
        model, epochs, result = train(*args)
        result["valid"] = valid[len(weights)]
        weights.append(model.score.weight.detach().clone())
        return model, epochs, result

    monkeypatch.setattr(finetune_module, "train", noted)
    finetune(
        replace(config, task="regression", label_columns=["value"], metric=metric, seeds=[4, 5, 6], epochs=1),
        progress=False,
    )
    saved = HyenaDNAForSequenceClassification.from_pretrained(config.out / "model").score.weight
    assert [torch.equal(saved, each) for each in weights] == [i == best for i in range(3)]


def test_data_in_the_order_of_their_classes_are_mixed_before_they_are_cut(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        for name in ("a", "b", "c"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for i in range(20):
                (tmp_path / "d" / split / name / f"{i:02}.txt").write_text("ACGT" * 3)
    (drawn,) = read_data(replace(config, data=tmp_path / "d", split_column=None, valid_fraction=0.3))
    assert (len(drawn.train), len(drawn.valid), len(drawn.test)) == (42, 18, 60)
    assert {*drawn.train.labels} == {*drawn.valid.labels} == {0, 1, 2}
    lines = [f"{'ACGT' * 3}\t{name}" for name in "abc" for _ in range(20)]
    (tmp_path / "sorted.tsv").write_text("\n".join(["sequence\tlabel", *lines]) + "\n")
    table = replace(config, data=tmp_path / "sorted.tsv", split_column=None)
    (drawn,) = read_data(table)
    assert (len(drawn.train), len(drawn.valid), len(drawn.test)) == (42, 6, 12)
    assert {*drawn.train.labels} == {*drawn.test.labels} == {0, 1, 2}
    assert len({*drawn.valid.labels}) > 1
    for fold in read_data(replace(table, folds=3, valid_fraction=0.25)):
        assert (len(fold.train), len(fold.valid), len(fold.test)) == (30, 10, 20)
        assert {*fold.train.labels} == {*fold.test.labels} == {0, 1, 2}


def test_the_new_language_head_has_weights_of_the_configured_size(config: FinetuneConfig) -> None:
    config = replace(config, model=None, method="scratch", d_model=64, n_layer=1)
    (data,) = read_data(config)
    model, _ = finetune_module.make_model(config, data, 0)
    head = finetune_module.make_language_head(config, model)
    assert float(head.weight.detach().std()) == pytest.approx(model.config.initializer_range, rel=0.1)


def test_adapters_have_twice_their_rank_as_scale(config: FinetuneConfig) -> None:
    (data,) = read_data(config)
    model, trained = finetune_module.make_model(replace(config, method="lora", lora_rank=3), data, 0)
    settings = trained.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.task_type) == (3, 6, "SEQ_CLS")
    adapted = {name.split(".lora_A")[0].rpartition("layers.0.")[2] for name, _ in trained.named_parameters()
               if "lora_A" in name}  # fmt: skip
    linear = {f"mixer.{name}" for name in ("in_proj", "out_proj")} | {f"mlp.{name}" for name in ("fc1", "fc2")}
    filters = {f"mixer.filter_fn.implicit_filter.{i}" for i in (0, 2, 4, 6)}
    assert adapted == linear | filters
    assert model.config.num_labels == 2


def test_rows_hold_means_over_the_batches(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[tuple[float, float]] = []
    compute = finetune_module.batch_losses

    def noted(*args: Any) -> Any:
        loss, lm_loss = compute(*args)
        losses.append((float(loss), float(lm_loss)))
        return loss, lm_loss

    monkeypatch.setattr(finetune_module, "batch_losses", noted)
    summary = finetune(replace(config, lm_weight=0.5, epochs=2), progress=False)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["epoch"], row["step"]) for row in rows] == [(0, 1, 4), (0, 2, 8)]
    for row, part in zip(rows, (losses[:4], losses[4:]), strict=True):
        assert (row["loss"], row["lm_loss"]) == pytest.approx(tuple(np.mean(part, axis=0)))
    assert summary["runs"][0]["valid"] == max(row["valid_accuracy"] for row in rows)


def test_few_shot_is_tested_with_every_number_of_shots_and_then_with_its_own(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots: list[int] = []

    def scored(model: Any, *args: Any) -> Any:
        shots.append(model.shots)
        return {"accuracy": len(shots) / 10}, {}

    monkeypatch.setattr(finetune_module, "score", scored)
    config = replace(config, method="few-shot", length=4, shots=2, eval_shots=[0, 1], epochs=1, metric="accuracy")
    summary = finetune(config, progress=False)
    assert shots == [2, 0, 1, 2]
    run = summary["runs"][0]
    assert run["shots"] == {"0": {"accuracy": 0.2}, "1": {"accuracy": 0.3}}
    assert (run["valid"], run["test"]) == (0.1, {"accuracy": 0.4})
    means = {name: value["mean"] for name, value in summary["test"].items()}
    assert means == {"accuracy": 0.4, "accuracy at 0 shots": 0.2, "accuracy at 1 shots": 0.3}


@pytest.mark.parametrize(
    ("task", "column", "problem"),
    [
        ("classification", "label", "single_label_classification"),
        ("multilabel", "part_of_two", "multi_label_classification"),
        ("regression", "value", "regression"),
        ("token", "tokens", None),
    ],
)
def test_the_saved_model_names_its_problem_and_its_outputs(
    config: FinetuneConfig, tmp_path: Path, task: Any, column: str, problem: str | None
) -> None:
    lines = ["sequence\tlabel\tpart_of_two\tvalue\ttokens\tpart"]
    lines += [f"ACGTACGTACGT\t{'xy'[i % 2]}\t{i % 2}\t{i}\t{'SWSWSWSWSWSW'}\t{part}"
              for i, part in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2)]  # fmt: skip
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    config = replace(config, task=task, label_columns=[column], pooling="last")
    (data,) = read_data(config)
    model, trained = finetune_module.make_model(config, data, 0)
    assert model is trained
    assert model.config.problem_type == problem
    names = {"label": ["x", "y"], "tokens": ["S", "W"]}.get(column, [column])
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == names
    assert model.config.label2id == {name: i for i, name in enumerate(names)}
    assert model.config.pooling == "last"


def test_outputs_without_a_name_are_numbered(config: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(f">chr1\n{'ACGT' * 20}\n")
    (tmp_path / "d").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "d" / f"{split}.csv").write_text("Chr_No,Start,End,y_a,y_b\n0,0,12,1,0\n0,4,16,0,1\n")
    config = replace(config, data=tmp_path / "d", genome=tmp_path / "g.fa", task="multilabel", split_column=None)
    (data,) = read_data(config)
    assert data.names == ["y0", "y1"]
    assert not data.demonstration
    (data,) = read_data(replace(config, label_columns=["promoter", "enhancer"]))
    assert data.names == ["promoter", "enhancer"]


def test_a_context_may_fill_the_model_exactly(config: FinetuneConfig, tiny_checkpoint: Callable[..., Path]) -> None:
    """Sequences have 12 bases and [SEP]; a demonstration has 12, [SEP], its letter and [SEP]."""
    (data,) = read_data(config)
    for method, options, room in (
        ("soft-prompt", {"prompt_tokens": 20}, 33),
        ("few-shot", {"shots": 1, "eval_shots": [0]}, 2 * 15 + 13),
        ("few-shot", {"shots": 0, "eval_shots": [0, 1]}, 2 * 15 + 13),
    ):
        for length in (room, room - 1):
            changed = replace(config, method=method, model=tiny_checkpoint(max_seq_len=length), **options)
            if length == room:
                model, _ = finetune_module.make_model(changed, data, 0)
                assert model.eval().max_length >= 12
            else:
                with pytest.raises(InputError, match=r"12 bases and \[SEP\] follow"):
                    finetune_module.make_model(changed, data, 0)
    whole = replace(config, model=tiny_checkpoint(max_seq_len=12))
    assert finetune_module.make_model(whole, data, 0)[0].config.max_seq_len == 12


def test_jobs_share_the_threads(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []

    class Pool:
        def __init__(self, jobs: int, context: Any, *, initializer: Any, initargs: tuple[int, ...]) -> None:
            started.append((jobs, initargs))
            before = torch.get_num_threads()
            initializer(*initargs)
            started.append((torch.get_num_threads(),))
            torch.set_num_threads(before)
            raise InputError("enough")

    monkeypatch.setattr(finetune_module, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(finetune_module.signal, "signal", lambda *args: None)
    for threads, jobs, expected in ((4, 2, [(2, (2,)), (2,)]), (3, 2, [(2, (1,)), (1,)]), (1, 3, [(3, (1,)), (1,)])):
        started.clear()
        with pytest.raises(InputError, match="enough"):
            finetune(replace(config, seeds=[0, 1, 2], jobs=jobs, threads=threads), progress=False)
        assert started == expected
    torch.set_num_threads(1)


def test_a_size_is_refused_before_anything_is_loaded(config: FinetuneConfig) -> None:
    scratch = replace(config, method="scratch", model=None)
    scratch.check()
    with pytest.raises(InputError, match="no published size is called 'huge'"):
        replace(scratch, size="huge").check()


def test_the_figure_has_the_epochs_and_the_test_of_every_run(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def noted(runs: Any, tests: Any, out: Path, **more: Any) -> None:
        drawn.extend((runs, tests, more))
        out.write_bytes(b"")

    monkeypatch.setattr(results_module, "validation_curves", noted)
    summary = finetune(replace(config, seeds=[0, 1], epochs=2, baseline=True), progress=False)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    runs, tests, more = drawn
    assert runs == {f"seed {i}": [row["valid_accuracy"] for row in rows if row["seed"] == i] for i in (0, 1)}
    assert tests == {f"seed {run['seed']}": (run["best_epoch"], run["test"]["accuracy"]) for run in summary["runs"]}
    assert more == {"metric": "accuracy", "baselines": summary["baseline"]}


PACKED: dict[str, dict[str, Any]] = {
    "classification": {"label_columns": ["label"]},
    "token": {"label_columns": ["letters"]},
    "multilabel": {"label_columns": ["one", "two"]},
    "regression": {"label_columns": ["one"]},
}


@pytest.mark.parametrize(("task", "method"), [*((task, "full") for task in PACKED), ("classification", "lora")])
def test_packed_and_divided_steps_have_the_losses_and_gradients_of_padded_ones(
    folder: Path, tmp_path: Path, task: Any, method: Any
) -> None:
    """Rows of unequal sizes, a sequence longer than a row, one of a single base, and N."""
    rng = np.random.default_rng(0)
    lines = ["sequence\tlabel\tletters\tone\ttwo"]
    for i, length in enumerate((1, 5, 40, 12, 7, 7, 30, 3, 9, 2, 22, 14)):
        text = "N" * (length > 10) + "".join(rng.choice([*"ACGT"], length - (length > 10)))
        letters = "".join(rng.choice([*"xy"], length))
        lines.append(f"{text}\t{'xy'[i % 2]}\t{letters}\t{i % 2}\t{int(i % 3 == 0)}")
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    config = FinetuneConfig(
        data=tmp_path / "t.tsv", out=tmp_path / "out", model=folder, task=task, method=method, lm_weight=0.5,
        device="cpu", **PACKED[task],
    )  # fmt: skip
    data = read_data(config)[0]
    torch.manual_seed(0)
    _, model = finetune_module.make_model(config, data, 0)
    head = finetune_module.make_language_head(config, model)
    learnt = [*model.parameters(), *head.parameters()]
    rows, found = np.arange(len(data.train)), []
    ways: tuple[dict[str, int], ...] = ({}, {"pack_tokens": 24}, {"accumulate": 5})
    for way in ways:
        for parameter in learnt:
            parameter.grad = None
        losses = np.zeros(2)
        parts = list(batches_module.parts(data.train, rows, data.train.sequences, torch.device("cpu"), **way))
        assert len(parts) > 2 if way else len(parts) == 1
        for part in parts:
            loss, lm_loss = finetune_module.batch_losses(config, model.eval(), head, *part)
            (loss + 0.5 * lm_loss).backward()
            losses += float(loss.detach()), float(lm_loss.detach())
        gradient = torch.cat([p.grad.flatten() for p in learnt if p.grad is not None])
        logits = finetune_module.predict(model, data.train, replace(config, **cast(Any, way)), torch.device("cpu"))
        found.append((losses, gradient, logits))
    losses, gradient, logits = found[0]
    for other_losses, other_gradient, other_logits in found[1:]:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-6)
        np.testing.assert_allclose(other_logits, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
        assert (other_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_where_the_validation_split_is_from(config: FinetuneConfig) -> None:
    assert [data.valid_drawn for data in read_data(config)] == [False]
    assert [data.valid_drawn for data in read_data(replace(config, split_column=None))] == [True]
    assert [data.valid_drawn for data in read_data(replace(config, folds=2))] == [True, True]


def test_windows_past_the_end_of_a_chromosome_are_told(config: FinetuneConfig, tmp_path: Path) -> None:
    for species in ("fly", "worm"):
        (tmp_path / "species" / species).mkdir(parents=True)
        text = "".join(f">chr{name}\n{'ACGT' * bases}\n" for name, bases in (("1", 3), ("2", 9), ("5", 9)))
        (tmp_path / "species" / species / "g.fa").write_text(text)
    species = replace(config, data=tmp_path / "species", split_column=None, length=20, species_windows=30)
    (found,) = read_data(species)
    assert any(note.startswith("6 of the 6 test windows end in N, because no chromosome") for note in found.notes)
    assert not any("train windows end in N" in note for note in found.notes)


@pytest.mark.parametrize(("keep", "first"), [("start", 0), ("middle", 3), ("end", 7)])
def test_long_sequences_keep_a_part_with_the_labels_of_its_bases(
    config: FinetuneConfig, tmp_path: Path, keep: Any, first: int
) -> None:
    text, letters = "ACGTTGCAACG", "xyxxyyxyxxy"
    (tmp_path / "token.tsv").write_text("sequence\tlabel\n" + f"{text}\t{letters}\nAC\txy\n" * 10)
    token = replace(config, data=tmp_path / "token.tsv", task="token", split_column=None, length=4, keep=keep)
    found = read_data(token)[0].train
    assert isinstance(found.labels, list)
    expected = {text[first : first + 4]: letters[first : first + 4], "AC": "xy"}
    names = {value: key for key, value in NUCLEOTIDE_IDS.items()}
    assert {
        "".join(names[i] for i in ids): "".join("xy"[i] for i in labels)
        for ids, labels in zip(found.sequences, found.labels, strict=True)
    } == expected
    # Labels that do not fit their sequence are not cut until they do.
    (tmp_path / "token.tsv").write_text("sequence\tlabel\n" + f"{text}\t{letters}xx\nAC\txy\n" * 10)
    with pytest.raises(InputError, match="13 token labels for a sequence of 11"):
        read_data(token)


def test_prediction_cuts_as_training_did(config: FinetuneConfig, tmp_path: Path, capsys: Any) -> None:
    finetune(replace(config, length=8, keep="end", epochs=1), progress=False)
    (tmp_path / "n.fa").write_text(">long\nGGGGACCATTTA\n>cut\nACCATTTA\n>short\nACC\n")
    asked = PredictConfig(config.out / "model", tmp_path / "p.tsv", fasta=tmp_path / "n.fa", device="cpu")
    capsys.readouterr()
    predict_file(asked)
    assert "warning: 1 sequence was cut to the end of 8 bases, as in training" in capsys.readouterr().err
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in asked.out.read_text().splitlines()}
    assert rows["long"] == rows["cut"] != rows["short"]
    # Another training with this model does not inherit the cut.
    again = replace(config, model=config.out / "model", out=tmp_path / "again", epochs=1)
    finetune(again, progress=False)
    assert json.loads((again.out / "model" / "config.json").read_text())["train_length"] is None


def test_classes_of_bases_are_not_predicted_in_part(config: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "token.tsv").write_text("sequence\tlabel\n" + "ACGTT\txyxxy\nAC\txy\n" * 10)
    finetune(
        replace(config, data=tmp_path / "token.tsv", task="token", split_column=None, length=4, epochs=1),
        progress=False,
    )
    (tmp_path / "n.fa").write_text(">a\nACGT\n>b\nACGTA\n")
    asked = PredictConfig(config.out / "model", tmp_path / "p.tsv", fasta=tmp_path / "n.fa", device="cpu")
    with pytest.raises(InputError, match="5 bases are longer than the 4 of the training; give windows of at most 4"):
        predict_file(asked)


def test_the_rate_falls_at_a_plateau(
    config: FinetuneConfig, steps: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every epoch that is not better than the best, down to the floor. The warm-up has six of four steps each."""
    values = iter([0.5, 0.5, 0.6, 0.1, 0.2, 0.3, 0.0])
    monkeypatch.setattr(finetune_module, "score", lambda *args: ({"accuracy": next(values)}, {}))
    finetune(
        replace(
            config, lr_schedule="plateau", lr=1.0, lr_warmup_steps=6, min_lr_factor=0.005, epochs=6, patience=6
        ),
        progress=False,
    )  # fmt: skip
    expected = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0, 1.0, 1.0, *[0.1] * 8, *[0.01] * 4, *[0.005] * 4]
    assert [step["lr"][0] for step in steps] == pytest.approx(expected, rel=1e-12)


def test_lengths_grow_by_stages_at_random_places(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 bases training sees 3, 3, 6, 6 and then all. Micro-batches grow with them, and validation has all."""
    seen: list[list[bytes]] = []
    scored: set[int] = set()
    make_parts, predict_all = finetune_module.parts, finetune_module.predict

    def noted(dataset: LabelledDataset, rows: Any, sequences: Any, *args: Any, accumulate: int) -> Any:
        whole = [dataset.sequences[row].tobytes() for row in rows]
        assert all(ids.tobytes() in full for ids, full in zip(sequences, whole, strict=True))
        seen.append([ids.tobytes() for ids in sequences])
        assert accumulate == math.ceil(4 * len(sequences[0]) / 12)
        return make_parts(dataset, rows, sequences, *args, accumulate=accumulate)

    def noted_scores(model: Any, dataset: LabelledDataset, *args: Any) -> Any:
        scored.update(map(len, dataset.sequences))
        return predict_all(model, dataset, *args)

    monkeypatch.setattr(finetune_module, "parts", noted)
    monkeypatch.setattr(finetune_module, "predict", noted_scores)
    finetune(
        replace(config, warmup_length=3, warmup_length_epochs=2, epochs=6, patience=6, accumulate=4), progress=False
    )
    lengths = [{len(ids) for ids in batch} for batch in seen]
    assert lengths == [{3}] * 8 + [{6}] * 8 + [{12}] * 8
    assert scored == {12}
    rows = [json.loads(line)["length"] for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert rows == [3, 3, 6, 6, 12, 12]


def test_a_random_part_begins_anywhere() -> None:
    rows = [np.arange(5, dtype=np.uint8)] * 200 + [np.arange(2, dtype=np.uint8)]
    found = augment(rows, np.random.default_rng(0), both_strands=False, crop=0, most=3)
    assert {tuple(ids.tolist()) for ids in found} == {(0, 1, 2), (1, 2, 3), (2, 3, 4), (0, 1)}


@pytest.mark.parametrize(("count", "classes"), [(2, [1, 1, 0]), (5, [2, 2, 1]), (9, [4, 4, 1]), (0, [20, 7, 1])])
def test_training_examples_are_drawn_evenly_from_the_classes(count: int, classes: list[int]) -> None:
    labels = np.repeat([0, 1, 2], [20, 7, 1])
    data = LabelledDataset([np.array([7, i], dtype=np.uint8) for i in range(28)], labels)
    found = draw_examples(data, count, 3)
    drawn = np.bincount(np.asarray(found.labels), minlength=3)
    assert sorted(drawn.tolist(), reverse=True) == classes
    assert len({ids[1] for ids in found.sequences}) == (count or 28)
    assert all(labels[ids[1]] == label for ids, label in zip(found.sequences, found.labels, strict=True))
    again = draw_examples(data, count, 3)
    assert [ids[1] for ids in again.sequences] == [ids[1] for ids in found.sequences]
    with pytest.raises(InputError, match="`train_examples` 29: there are 28 for training; take fewer"):
        draw_examples(data, 29, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 5}, "`accumulate` 5: exceeds `batch_size` 4"),
        ({"accumulate": 2, "pack_tokens": 64}, "`accumulate` 2: has no effect without `pack_tokens` 0"),
        ({"warmup_length_epochs": 2}, "`warmup_length_epochs` 2: has no effect without `warmup_length`"),
        ({"warmup_length": 4, "method": "few-shot"}, "`warmup_length` 4: has no effect without a head"),
        ({"warmup_length": 4, "task": "token"}, "`warmup_length` 4: has no effect without a label for the whole"),
        ({"keep": "end"}, "`keep` end: has no effect without `length`"),
        ({"lr_schedule": "plateau", "lr_steps": 9}, "`lr_steps` 9: has no effect without `lr_schedule` cosine"),
        ({"lr_steps": 9, "lr_warmup_steps": 9}, "`lr_steps` 9: must be above `lr_warmup_steps` 9"),
        ({"lr_warmup": 0.1, "lr_warmup_steps": 9}, "`lr_warmup` 0.1: has no effect without `lr_warmup_steps` 0"),
        ({"letters": "AC"}, "`letters` AC: has no effect without `method` soft-prompt or few-shot"),
        ({"letters": "AA", "method": "few-shot"}, "`letters` 'AA': give different ones of ACGTN"),
        ({"letters": "AX", "method": "few-shot"}, "`letters` 'AX': give different ones of ACGTN"),
        ({"letters": "", "method": "few-shot"}, "`letters` '': give different ones of ACGTN"),
        ({"prompt_dropout": 0.5}, "`prompt_dropout` 0.5: has no effect without `method` soft-prompt"),
        ({"method": "few-shot", "reverse_complement": True}, "`method` few-shot: its demonstrations have a strand"),
        ({"method": "soft-prompt", "letters": "A"}, "2 classes are too many: a prompt has a letter for 1, A"),
        ({"train_examples": 17}, "`train_examples` 17: there are 16 for training"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    config: FinetuneConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        finetune(replace(config, **change), progress=False)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("bases", "change", "message"),
    [
        (2000, {}, "use a checkpoint for longer ones, such as LongSafari/hyenadna-tiny-16k-seqlen-d128-hf, cut the"),
        (2000, {"preset": "species-32k"},
         "such as LongSafari/hyenadna-small-32k-seqlen-hf, that of `preset` species-32k, cut"),
        (2000, {"preset": "gb-ocr"}, "such as LongSafari/hyenadna-tiny-16k-seqlen-d128-hf, cut"),
        (2000, {"method": "scratch"}, "take a `size` for longer ones, such as tiny-16k, cut the"),
        (2_000_000, {}, "use a checkpoint for longer ones, cut the"),
        (2_000_000, {"method": "scratch"}, "take a `size` for longer ones by `max_seq_len`, cut the"),
    ],
)  # fmt: skip
def test_a_model_that_is_too_short_names_a_longer_one(
    config: FinetuneConfig, bases: int, change: dict[str, Any], message: str
) -> None:
    part = LabelledDataset([np.full(bases, 7, dtype=np.uint8)], np.array([0]))
    data = Splits(part, part, part, ["x", "y"], demonstration=False)
    if change.get("method") == "scratch":
        change = {**change, "model": None, "d_model": 8, "n_layer": 1}
    with pytest.raises(InputError) as caught:
        finetune_module.make_model(replace(config, **change), data, 0)
    assert str(caught.value).startswith(f"a sequence of {bases:,} bases is longer than the ")
    assert message in str(caught.value)
