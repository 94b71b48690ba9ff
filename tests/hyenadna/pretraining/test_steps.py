"""Pretraining with captured steps. In the place of a GPU, every launch runs the step's operations again on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.pretraining import train
from hyenadna.pretraining.train import LoopState, PretrainConfig, Steps, make_model, pretrain
from hyenadna.training.graphs import GraphError
from hyenadna.training.run_dir import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")

TIMES = ("seconds", "tokens_per_second")


@pytest.fixture
def as_cuda(graphs_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_has_graphs", lambda device: True)


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes every capture fail for a reason."""

    def make(reason: str) -> None:
        def fail(*args: Any, **options: Any) -> Any:
            raise GraphError(reason)

        monkeypatch.setattr(train, "make_graphed_step", fail)

    return make


@pytest.fixture
def tiny(tiny_config: Callable[..., PretrainConfig], tmp_path: Path) -> PretrainConfig:
    """12 steps with dropout, accumulation, and stages of 4 steps of 8 × 16, and then 4 × 32 tokens."""
    return tiny_config(tmp_path / "run")


def rows(config: PretrainConfig) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(config.out / "metrics.jsonl")]


def weights(folder: Path) -> list[Tensor]:
    return list(HyenaDNAForCausalLM.from_pretrained(folder).parameters())


def told(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("steps ")]


@pytest.mark.slow
@pytest.mark.usefixtures("as_cuda")
def test_a_run_of_graphs_is_the_run_op_by_op(
    tiny: PretrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_graphs: Callable[[str], None],
) -> None:
    eager_steps: list[tuple[int, ...]] = []
    optimizer_step = train.optimizer_step

    def count(loop_state: LoopState, batch: Tensor, config: PretrainConfig) -> tuple[float, float]:
        eager_steps.append(tuple(batch.shape))
        return optimizer_step(loop_state, batch, config)

    monkeypatch.setattr(train, "optimizer_step", count)
    graphed = pretrain(tiny)
    assert told(capsys.readouterr().out) == [
        "steps of 8 windows of 16 tokens run as one CUDA graph",
        "steps of 4 windows of 32 tokens run as one CUDA graph",
    ]
    # The first of each shape.
    assert eager_steps == [(8, 17), (4, 33)]

    no_graphs("the reason")
    other = dataclasses.replace(tiny, out=tmp_path / "eager")
    eager = pretrain(other)
    assert told(capsys.readouterr().out) == ["steps run op by op, not as one CUDA graph: the reason"]
    assert len(eager_steps) == 2 + 12
    assert rows(tiny) == rows(other)
    for a, b in zip(weights(graphed.model), weights(eager.model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.usefixtures("as_cuda")
def test_a_run_of_graphs_can_be_resumed(tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain(tiny, progress=False)
    cut = dataclasses.replace(tiny, out=tmp_path / "cut")
    save = RunFolder.save

    def save_and_die(folder: RunFolder, step: int, *args: Any, **kwargs: Any) -> Path:
        path = save(folder, step, *args, **kwargs)
        if step == 6:
            raise RuntimeError("dies here")
        return path

    monkeypatch.setattr(RunFolder, "save", save_and_die)
    with pytest.raises(RuntimeError, match="dies here"):
        pretrain(cut, progress=False)
    monkeypatch.setattr(RunFolder, "save", save)
    result = pretrain(cut, resume=True, progress=False)
    assert rows(tiny) == rows(cut)
    for a, b in zip(weights(whole.model), weights(result.model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("begins_as_cuda", [False, True])
def test_a_checkpoint_goes_from_one_kind_of_device_to_the_other(
    tiny: PretrainConfig, begins_as_cuda: bool, graphs_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [torch.randint(7, 11, (4, 33), dtype=torch.uint8) for _ in range(4)]
    config = dataclasses.replace(tiny, embed_dropout=0.0)

    def start(as_cuda: bool) -> LoopState:
        monkeypatch.setattr(train, "_has_graphs", lambda device: as_cuda)
        torch.manual_seed(0)
        return LoopState.start(make_model(config).train(), config)

    def go(state: LoopState, steps: slice) -> list[tuple[float, float]]:
        state.set_lr(1e-3)
        return [train.optimizer_step(state, batch, config) for batch in batches[steps]]

    whole = start(False)
    wanted = go(whole, slice(0, 4))
    first = start(begins_as_cuda)
    go(first, slice(0, 2))
    second = start(not begins_as_cuda)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    for group in second.optimizer.param_groups:
        assert group["capturable"] is group["fused"] is True or begins_as_cuda
        assert isinstance(group["lr"], Tensor) is not begins_as_cuda
    assert all(float(state["step"]) == 2 for state in second.optimizer.state.values())
    # One kernel rounds otherwise than several.
    for found, expected in zip(go(second, slice(2, 4)), wanted[2:], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("as_cuda")
def test_float16_runs_op_by_op(tiny: PretrainConfig) -> None:
    config = dataclasses.replace(tiny, autocast="float16")
    state = LoopState.start(make_model(config), config)
    lines: list[str] = []
    steps = Steps(state, config, lines.append)
    assert lines == [
        "steps run op by op, not as one CUDA graph: float16 needs a scaler of the loss, whose values Python reads"
    ]
    assert not state.optimizer.param_groups[0]["capturable"]
    assert not steps.release()
    assert len(lines) == 1


@pytest.mark.usefixtures("as_cuda")
def test_a_shape_that_comes_once_is_not_captured(tiny: PretrainConfig) -> None:
    state = LoopState.start(make_model(tiny).train(), tiny)
    lines: list[str] = []
    steps = Steps(state, tiny, lines.append)
    for rows in (4, 3, 4, 3):
        steps(torch.randint(7, 11, (rows, 9), dtype=torch.uint8))
    assert lines == []


@pytest.mark.usefixtures("as_cuda")
@pytest.mark.parametrize("has_graph", [True, False])
def test_validation_takes_back_the_memory_of_the_graph(
    tiny: PretrainConfig,
    has_graph: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_graphs: Callable[[str], None],
) -> None:
    evaluate = train.evaluate_windows
    calls = []

    def short_of_memory(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(*args, **options)

    monkeypatch.setattr(train, "evaluate_windows", short_of_memory)
    if not has_graph:
        no_graphs("the reason")
        with pytest.raises(torch.OutOfMemoryError):
            pretrain(tiny)
        return
    pretrain(dataclasses.replace(tiny, eval_every=6))
    assert told(capsys.readouterr().out)[-1] == (
        "steps run op by op, not as one CUDA graph: the validation needs its memory"
    )
    assert len(calls) == 3


def test_a_cpu_is_told_nothing(tiny: PretrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(dataclasses.replace(tiny, steps=3, eval_every=0))
    assert not told(capsys.readouterr().out)
    state = LoopState.start(make_model(tiny), tiny)
    assert state.optimizer.param_groups[0]["lr"] == tiny.lr
    assert not state.optimizer.param_groups[0]["capturable"]


def test_too_many_windows_for_the_memory_are_refused(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "training_step", fail)
    state = LoopState.start(make_model(tiny), tiny)
    with pytest.raises(InputError, match=r"^3 windows of 8 tokens do not fit into the memory of cpu: raise `accumul"):
        train.optimizer_step(state, torch.zeros((5, 9), dtype=torch.uint8), tiny)


@pytest.mark.gpu
def test_a_run_of_graphs_on_a_gpu(
    tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_graphs: Callable[[str], None]
) -> None:
    config = dataclasses.replace(tiny, device="cuda", gradient_checkpointing=True)
    pretrain(config)
    assert [line.rpartition(" run ")[2] for line in told(capsys.readouterr().out)] == ["as one CUDA graph"] * 2
    no_graphs("the reason")
    other = dataclasses.replace(config, out=tmp_path / "eager")
    pretrain(other)
    for found, expected in zip(rows(config), rows(other), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
