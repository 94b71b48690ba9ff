"""The options of the recipe have their values in the run: optimizer, schedule, clipping, windows."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hyena_kernels import HyenaOperator
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.common.vocab import NUCLEOTIDE_IDS
from hyenadna.data.genome import prepare
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.pretraining import train
from hyenadna.pretraining.train import PretrainConfig, make_model, pretrain


@pytest.fixture
def tiny(tiny_config: Callable[..., PretrainConfig], tmp_path: Path) -> PretrainConfig:
    small: dict[str, Any] = {"d_model": 8, "n_layer": 1, "eval_every": 0, "checkpoint_every": 100}
    return tiny_config(tmp_path / "run", **small, warmup_length=None, warmup_length_steps=1000)


class Steps:
    """What AdamW holds at each of its steps: its groups without parameters, the parameters, and their gradients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[list[dict[str, Any]]] = []
        self.parameters: list[list[list[torch.Tensor]]] = []
        self.norms: list[float] = []
        step = torch.optim.AdamW.step

        def noted(optimizer: torch.optim.AdamW, *args: Any) -> Any:
            self.groups.append([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
            self.parameters.append([group["params"] for group in optimizer.param_groups])
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
            return step(optimizer, *args)

        monkeypatch.setattr(torch.optim.AdamW, "step", noted)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def factor(step: int, steps: int, warmup: float, least: float) -> float:
    """The schedule as the documentation has it: linear up over the first part, then a cosine down to ``least``."""
    up = math.ceil(warmup * steps)
    if step < up:
        return (step + 1) / up
    way = (step - up) / (steps - 1 - up)
    return least + (1 - least) * (1 + math.cos(math.pi * way)) / 2


def test_the_optimizer_holds_the_values_of_the_configuration(tiny: PretrainConfig, steps: Steps) -> None:
    config = replace(tiny, steps=1, beta1=0.7, beta2=0.8, weight_decay=0.3, lr=0.25, lr_warmup=0.0)
    pretrain(config, progress=False)
    (groups,) = steps.groups
    assert [(group["betas"], group["weight_decay"], group["eps"]) for group in groups] == [
        ((0.7, 0.8), 0.3, 1e-8),
        ((0.7, 0.8), 0.0, 1e-8),
    ]
    decayed, others = steps.parameters[0]
    named = make_model(config).named_parameters()
    kinds = {
        name: "filter_fn" not in name and name.endswith(("proj.weight", "short_filter.weight", "fc1.weight",
        "fc2.weight", "lm_head.weight"))
        for name, _ in named
    }  # fmt: skip
    assert (len(decayed), len(others)) == (sum(kinds.values()), len(kinds) - sum(kinds.values()))


@pytest.mark.parametrize(("warmup", "least"), [(0.2, 0.1), (0.5, 0.0), (0.0, 0.4), (0.25, 1.0)])
def test_the_learning_rate_follows_its_schedule(
    tiny: PretrainConfig, steps: Steps, warmup: float, least: float
) -> None:
    pretrain(replace(tiny, lr=0.02, lr_warmup=warmup, min_lr_factor=least), progress=False)
    expected = [0.02 * factor(step, 12, warmup, least) for step in range(12)]
    rows = [row for row in read_metrics(tiny.out / "metrics.jsonl") if "lr" in row]
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-12)
    # The column says what the optimizer does.
    assert [[group["lr"] for group in groups] for groups in steps.groups] == [[row["lr"]] * 2 for row in rows]


def test_the_gradient_is_clipped(tiny: PretrainConfig, steps: Steps) -> None:
    pretrain(replace(tiny, steps=3, clip=0.01), progress=False)
    rows = [row for row in read_metrics(tiny.out / "metrics.jsonl") if "grad_norm" in row]
    # The log has the norm before it.
    assert min(row["grad_norm"] for row in rows) > 0.1
    assert steps.norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_steps_tokens_and_lengths_are_counted(tiny: PretrainConfig) -> None:
    pretrain(replace(tiny, steps=5, warmup_length=8, warmup_length_steps=2), progress=False)
    rows = [row for row in read_metrics(tiny.out / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["length"] for row in rows] == [8, 8, 16, 16, 32]
    assert [row["tokens"] for row in rows] == [128, 256, 384, 512, 640]
    assert all(row["perplexity"] == pytest.approx(math.exp(row["loss"])) for row in rows)


@pytest.mark.parametrize("both", [True, False])
def test_half_of_the_windows_are_the_other_strand(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    """The genome has A and C alone, so that the other strand has G and T alone."""
    (tmp_path / "g.fa").write_text(">a\n" + "ACCA" * 200 + "\n>b\n" + "AC" * 50 + "\n>c\n" + "AC" * 50 + "\n")
    prepare(tmp_path / "g.fa", tmp_path / "genome", progress=False)
    turned: list[bool] = []
    step = train.optimizer_step

    def noted(state: Any, batch: torch.Tensor, config: PretrainConfig) -> tuple[float, float]:
        other = (batch == NUCLEOTIDE_IDS["G"]) | (batch == NUCLEOTIDE_IDS["T"])
        assert torch.equal(other.any(dim=1), other.all(dim=1))
        turned.extend(other.all(dim=1).tolist())
        return step(state, batch, config)

    monkeypatch.setattr(train, "optimizer_step", noted)
    pretrain(replace(tiny, genome=tmp_path / "genome", batch_size=16, reverse_complement=both), progress=False)
    assert len(turned) == 192
    assert 70 < sum(turned) < 122 if both else not any(turned)


def test_checkpoints_have_the_models_of_their_steps(
    tiny: PretrainConfig,
) -> None:
    config = replace(tiny, steps=4, eval_every=2, checkpoint_every=2, keep=2, eval_windows=2, final_windows=None)
    result = pretrain(config, progress=False)
    rows = [row for row in read_metrics(config.out / "metrics.jsonl") if "valid_perplexity" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert result.valid.score.perplexity == rows[1]["valid_perplexity"] == rows[1]["final_valid_perplexity"]
    # All 900 bases of contig b but the first.
    assert result.valid.score.count == 899
    kept = [HyenaDNAForCausalLM.from_pretrained(config.out / name) for name in ("step-00000004", "model")]
    for one, two in zip(*(model.state_dict().values() for model in kept), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(
        HyenaDNAForCausalLM.from_pretrained(config.out / "step-00000002").lm_head.weight, kept[0].lm_head.weight
    )


def test_rows_validations_and_checkpoints_come_at_their_steps_and_at_the_end(tiny: PretrainConfig) -> None:
    pretrain(replace(tiny, steps=5, log_every=2, eval_every=2, checkpoint_every=3, keep=9), progress=False)
    rows = read_metrics(tiny.out / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 5]
    assert [row["step"] for row in rows if "valid_perplexity" in row] == [2, 4, 5]
    assert sorted(path.name for path in tiny.out.glob("step-*")) == ["step-00000003", "step-00000005"]


def test_validation_has_the_precision_and_the_tokens_of_a_step(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is computed in ``eval()``, and training in ``train()``, before and after it."""
    calls: list[tuple[bool, bool, int, int]] = []
    forward = HyenaOperator.forward

    def noted(self: HyenaOperator, u: torch.Tensor) -> Any:
        calls.append((self.training, torch.is_autocast_enabled("cpu"), u.shape[0], u.shape[1]))
        return forward(self, u)

    monkeypatch.setattr(HyenaOperator, "forward", noted)
    config = replace(tiny, steps=2, eval_every=1, eval_length=16, eval_windows=5, final_windows=3, accumulate=2)
    pretrain(replace(config, autocast="bfloat16"), progress=False)
    step, validation = [(True, True, 2, 32)] * 2, [(False, True, 4, 16), (False, True, 1, 16)]
    assert calls == [*step, *validation, *step, (False, True, 3, 16)]


def test_windows_may_be_as_long_as_the_model_takes(tiny: PretrainConfig) -> None:
    for change in ({"length": 64}, {"eval_length": 64}):
        assert make_model(replace(tiny, **change)).config.max_seq_len == 64
    for dropout in (0.0, 0.25):
        assert make_model(replace(tiny, embed_dropout=dropout)).config.embed_dropout == dropout
    assert make_model(replace(tiny, embed_dropout=None)).config.embed_dropout == 0.1


def test_the_speed_is_that_since_the_last_row(tiny: PretrainConfig) -> None:
    """In a resumed run too, which has the tokens and seconds of before."""
    state = train.LoopState.start(make_model(tiny), tiny)
    state.count(128, 2.0)
    assert (state.step, state.tokens, state.seconds) == (1, 128, 2.0)
    assert state.tokens_per_second() == 64.0
    state.count(128, 1.0)
    state.count(128, 1.0)
    assert state.tokens_per_second() == 128.0
    again = train.LoopState.start(make_model(tiny), tiny)
    again.load_state_dict(state.state_dict())
    assert (again.step, again.tokens, again.seconds) == (3, 384, 4.0)
    again.count(128, 4.0)
    assert again.tokens_per_second() == 32.0


def test_tensorboard_drops_what_came_after_the_checkpoint(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            opened.append(purge_step)

        def __enter__(self) -> Any:
            return types.SimpleNamespace(add_scalar=lambda *args: None)

        def __exit__(self, *error: object) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    config = replace(tiny, steps=3, checkpoint_every=2)
    step = train.optimizer_step

    def stopped(state: Any, *args: Any) -> tuple[float, float]:
        if state.step == 2 and len(opened) == 1:
            raise KeyboardInterrupt
        return step(state, *args)

    monkeypatch.setattr(train, "optimizer_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, progress=False)
    pretrain(config, resume=True, progress=False)
    assert opened == [1, 3]


def test_a_configuration_is_refused_before_anything_is_loaded(tiny: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no published size is called 'huge'"):
        replace(tiny, size="huge").check()
    start = replace(tiny, init_from=tmp_path / "absent", d_model=None, n_layer=None, max_seq_len=None)
    with pytest.raises(InputError, match="no checkpoint at"):
        start.check()
    # A run that has begun has checkpoints of its own.
    tiny.out.mkdir()
    (tiny.out / "config.yaml").write_text("")
    start.check()
