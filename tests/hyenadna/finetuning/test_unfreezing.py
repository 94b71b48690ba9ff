"""Gradual unfreezing: which weights each stage trains, what stays as it is, and when training may stop."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hyenadna import HyenaDNAConfig, HyenaDNAForSequenceClassification
from hyenadna.baselines.gpt import GPTConfig, GPTForSequenceClassification
from hyenadna.common.errors import InputError
from hyenadna.data.dataset import LabelledDataset
from hyenadna.finetuning import train as finetune_module
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.finetuning.train import finetune
from hyenadna.finetuning.unfreezing import Unfreezing
from hyenadna.training.optim import parameter_groups
from tests.ranks import forkserver


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of one base, the other and both, in equal parts, with splits that are told."""
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    rows = [
        f"{'ACGT'[i % 2 :: 2] * 5}{'ACGT'[i % 4] * (i % 5)}\t{'ab'[i % 2]}\t{part}"
        for i, part in enumerate(["train"] * 16 + ["valid"] * 4 + ["test"] * 4)
    ]
    path.write_text("\n".join(["sequence\tlabel\tpart", *rows]) + "\n")
    return path


@pytest.fixture
def config(table: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=table, out=tmp_path / "out", split_column="part", method="scratch", d_model=8, n_layer=2, max_seq_len=32,
        model_fields={"filter_order": 8}, unfreeze_every=1, epochs=4, batch_size=8, lr=1e-2, device="cpu", threads=1,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure takes longer than a run."""
    monkeypatch.setattr(finetune_module, "draw_curves", lambda curves, summary, out: None)


def hyena(**fields: Any) -> Any:
    torch.manual_seed(0)
    shape = {"d_model": 8, "n_layer": 3, "max_seq_len": 32, "filter_order": 8}
    return HyenaDNAForSequenceClassification(HyenaDNAConfig(**shape | fields))


def gpt() -> Any:
    return GPTForSequenceClassification(GPTConfig(d_model=8, n_head=2, n_layer=3, max_seq_len=32))


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def starting(model: nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(("make", "layer"), [(hyena, "hyena.backbone.layers.{}."), (gpt, "gpt.backbone.h.{}.")])
def test_each_stage_trains_the_head_and_the_last_layers(config: FinetuneConfig, make: Any, layer: str) -> None:
    model = make()
    everything = trained(model)
    unfreezing = Unfreezing(replace(config, unfreeze_every=2, epochs=9), model)
    assert unfreezing.last_start == 9
    assert trained(model) == everything
    found = []
    for epoch in range(1, 12):
        unfreezing.begin(epoch)
        found.append(trained(model))
    head = {"score.weight", "score.bias"}
    layers = [head | starting(model, *(layer.format(i) for i in range(first, 3))) for first in (3, 2, 1, 0)]
    assert found == [stage for stage in [*layers, everything] for _ in range(2)] + [everything]
    assert [unfreezing.stage(epoch) for epoch in range(1, 12)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    # What is left for the end: the embedding and the last norm.
    assert len(everything) > len(layers[-1])


def test_layers_that_are_never_unfrozen_need_no_gradient(config: FinetuneConfig) -> None:
    model = hyena()
    unfreezing = Unfreezing(replace(config, unfreeze_layers=2), model)
    wanted = starting(model, "score.", "hyena.backbone.layers.1.", "hyena.backbone.layers.2.")
    # At once, so that no optimizer has the others.
    assert trained(model) == wanted
    unfreezing.begin(1)
    assert trained(model) == {"score.weight", "score.bias"}
    unfreezing.begin(3)
    assert trained(model) == wanted


def test_what_was_fixed_before_stays_fixed(config: FinetuneConfig) -> None:
    model = hyena()
    fixed = model.hyena.backbone.layers[2].mixer.in_proj.weight
    fixed.requires_grad_(False)
    unfreezing = Unfreezing(replace(config, epochs=5), model)
    unfreezing.begin(4)
    assert not fixed.requires_grad
    assert model.hyena.backbone.layers[2].mixer.in_proj.bias.requires_grad


@pytest.mark.parametrize("make", [hyena, gpt])
def test_frozen_parts_run_without_dropout(config: FinetuneConfig, make: Any) -> None:
    model = make()
    layers = model.hyena.backbone.layers if make is hyena else model.gpt.backbone.h
    unfreezing = Unfreezing(replace(config, epochs=5), model)
    for epoch, modes in ((1, [False] * 3), (2, [False, False, True]), (3, [False, True, True]), (5, [True] * 3)):
        # The validation between two epochs leaves the mode that it found.
        model.train(epoch % 2 == 0)
        unfreezing.begin(epoch)
        assert [layer.training for layer in layers] == modes
        assert all(part.training == layer.training for layer in layers for part in layer.modules())
        assert model.score.training
        assert model.base_model.training == (epoch == 5)
    frozen = Unfreezing(replace(config, method="frozen", unfreeze_every=0), model)
    frozen.begin(3)
    assert trained(model) == {"score.weight", "score.bias"}
    assert not model.base_model.training


def test_the_optimizer_leaves_frozen_weights_alone(config: FinetuneConfig) -> None:
    """No decay, no moments; and when a layer is unfrozen its first step is AdamW's first, of the size of the rate."""
    model = hyena(embed_dropout=0.0)
    unfreezing = Unfreezing(replace(config, epochs=5), model)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.0), lr=1e-3)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.5
    ids = torch.randint(7, 11, (4, 12))
    measured = set()
    for epoch in range(1, 6):
        unfreezing.begin(epoch)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer.zero_grad(set_to_none=True)
        model(ids).logits.square().sum().backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            is_open = name in trained(model)
            assert (parameter in optimizer.state) == is_open, (epoch, name)
            assert is_open or torch.equal(parameter, before[name]), (epoch, name)
            if is_open and optimizer.state[parameter]["step"] == 1:
                step = parameter - before[name] * (1 - 1e-3 * 0.5)
                moved = step[parameter.grad.abs() > 1e-4].abs()
                assert torch.allclose(moved, torch.tensor(1e-3), rtol=1e-2), (epoch, name)
                measured |= {epoch} if len(moved) else set()
    assert measured == {1, 2, 3, 4, 5}
    assert {int(state["step"]) for state in optimizer.state.values()} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_run_trains_stage_by_stage(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, decay: float) -> None:
    """Between the epochs only what is unfrozen has moved, also of an average, and each row names its stage."""
    seen: list[dict[str, torch.Tensor]] = []
    real = finetune_module.score

    def noted(model: Any, *args: Any) -> Any:
        seen.append({name: value.clone() for name, value in model.named_parameters()})
        return real(model, *args)

    monkeypatch.setattr(finetune_module, "score", noted)
    finetune(replace(config, epochs=5, ema_decay=decay), progress=False)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == [0, 1, 2, 3, 3]
    first, second, third, fourth = (
        {name for name in seen[0] if not torch.equal(before[name], after[name])} for before, after in pairwise(seen[:5])
    )
    layers = [{name for name in seen[0] if f"layers.{i}." in name} for i in (0, 1)]
    assert first & layers[1]
    assert first <= layers[1] | {"score.weight", "score.bias"}
    assert second & layers[0]
    assert not any("embeddings" in name for name in second)
    assert any("word_embeddings" in name for name in third & fourth)


@pytest.mark.slow
def test_processes_change_nothing(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs side by side end with the weights of runs one after another."""
    monkeypatch.setattr(multiprocessing, "get_context", {"spawn": forkserver()}.__getitem__)
    found = []
    for jobs in (1, 2):
        one = replace(config, out=config.out / str(jobs), seeds=[0, 1], jobs=jobs)
        summary = finetune(one, progress=False)
        found.append((summary["test"], (one.out / "model" / "model.safetensors").read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize(("every", "epochs"), [(0, 3), (1, 5), (2, 8)])
def test_patience_and_plateau_count_from_the_last_stage(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, every: int, epochs: int
) -> None:
    """Validation never gets better after epoch 1. The last of 4 stages begins with epoch 1, 4 or 7."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: Any, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    def same(model: Any, dataset: LabelledDataset, *args: Any) -> Any:
        return {"accuracy": 0.5}, {}

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr(finetune_module, "score", same)
    config = replace(config, unfreeze_every=every, epochs=12, patience=2, lr_schedule="plateau", lr_warmup=0.0)
    finetune(config, progress=False)
    rows = (config.out / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == epochs
    # The rate falls after the first epoch of the last stage that is not better, which is not seen before the next.
    assert rates[:-2] == [1e-2] * (len(rates) - 2)
    assert rates[-1] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze_layers": 2, "unfreeze_every": 0}, "`unfreeze_layers` 2: has no effect without `unfreeze_every`"),
        ({"unfreeze_layers": 3}, "`unfreeze_layers` 3: the model has 2 layers; take at most so many"),
        ({"epochs": 3}, "`unfreeze_every` 1: the last of 4 stages begins with epoch 4, and `epochs` is 3"),
        ({"unfreeze_every": 2, "unfreeze_layers": 1, "epochs": 2}, "the last of 2 stages begins with epoch 3"),
        ({"ablation": "cnn", "d_model": None, "n_layer": None, "model_fields": {}}, "`unfreeze_every` 1: has no eff"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(config: FinetuneConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        finetune(replace(config, **options), progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["frozen", "lora", "soft-prompt"])
def test_methods_that_freeze_in_another_way_are_refused(config: FinetuneConfig, method: Any) -> None:
    options: dict[str, Any] = {"d_model": None, "n_layer": None, "max_seq_len": None, "model_fields": {}}
    with pytest.raises(InputError, match=f"`method` {method}: `unfreeze_every` is for `method` full and scratch"):
        replace(config, method=method, model=config.data, **options).check()
