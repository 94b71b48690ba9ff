"""Pretraining in many processes: every layout trains alike, whoever stops, dies or fails."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import plain, read_metrics
from hyenadna.common.world import LostProcessError, World, joined, world
from hyenadna.common.writers import only_writer
from hyenadna.data.windows import TrainWindows
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.parallel.processes import start_world
from hyenadna.pretraining import train
from hyenadna.pretraining.train import PretrainConfig, pretrain
from tests.hyenadna.parallel.test_processes import join
from tests.ranks import run_ranks

TIMES = ("seconds", "tokens_per_second")
CLOSE = 1e-12
STEPS = 6
SMALL: dict[str, Any] = {
    "d_model": 8,
    "n_layer": 2,
    "model_fields": {"filter_order": 8},
    "batch_size": 8,
    "warmup_length_steps": 2,
    "steps": STEPS,
    "eval_every": 4,
    "eval_windows": 3,
    "checkpoint_every": 4,
}


class Killed(BaseException):
    """Ends a process as a kill would: nothing catches it."""


class Run(NamedTuple):
    """A world of some processes, and what they train.

    ``stop_at`` and ``kill_at`` are a rank and the step after which a signal comes to it, or after which it dies.
    """

    size: int
    port: int
    config: PretrainConfig
    resume: bool = False
    stop_at: tuple[int, int] | None = None
    kill_at: tuple[int, int] | None = None


@pytest.fixture
def ports() -> Iterator[int]:
    """Free ports, as many as asked for."""

    def free() -> Iterator[int]:
        while True:
            with socket.create_server(("localhost", 0)) as server:
                port: int = server.getsockname()[1]
            yield port

    return free()


@pytest.fixture
def small(tiny_config: Callable[..., PretrainConfig], tmp_path: Path) -> Callable[..., PretrainConfig]:
    """Makes a run of 6 steps in a folder of this name, with dropout, N, accumulation and a length warm-up."""

    def make(name: str, **changes: Any) -> PretrainConfig:
        return tiny_config(tmp_path / name, **SMALL | changes)

    return make


def change(config: PretrainConfig, **changes: Any) -> PretrainConfig:
    return dataclasses.replace(config, **changes)


def rows(config: PretrainConfig) -> list[dict[str, Any]]:
    found = read_metrics(config.out / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return HyenaDNAForCausalLM.from_pretrained(folder, dtype=torch.float64).state_dict()


def assert_alike(config: PretrainConfig, other: PretrainConfig, close: float = CLOSE) -> None:
    """Metrics, each step once, and the weights of the model."""
    found, expected = rows(config), rows(other)
    assert [(row["step"], "loss" in row) for row in found] == [(row["step"], "loss" in row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=close, abs=close)
    for (name, tensor), wanted in zip(weights(config.out / "model").items(), weights(other.out / "model").values()):
        torch.testing.assert_close(tensor, wanted, rtol=close, atol=close, msg=name)


@contextlib.contextmanager
def call_at(step: int, work: Callable[[], None]) -> Iterator[None]:
    """Call ``work`` in this process when it has finished a step, before it writes anything of it."""
    count = train.LoopState.count

    def counted(self: train.LoopState, tokens: int, seconds: float) -> None:
        count(self, tokens, seconds)
        if self.step == step:
            work()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.LoopState, "count", counted)
        yield


def die() -> None:
    raise Killed


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def train_in_worlds(rank: int, runs: list[Run]) -> list[str]:
    """One run after the other, each in a world of its own processes. Returns how each ended here."""
    torch.set_default_dtype(torch.float64)
    ends = []
    for run in runs:
        if rank >= run.size:
            continue
        join(rank, run.size, run.port)
        planned = ((run.stop_at, stop), (run.kill_at, die))
        here = [(at[1], work) for at, work in planned if at is not None and at[0] == rank]
        try:
            with contextlib.ExitStack() as stack:
                for step, work in here:
                    stack.enter_context(call_at(step, work))
                stack.enter_context(start_world("cpu", timeout=40))
                pretrain(run.config, resume=run.resume, progress=False)
            ends.append("finished")
        except (KeyboardInterrupt, LostProcessError, Killed) as error:
            ends.append(f"{type(error).__name__}: {error}")
    return ends


LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"dropout_masks": "position"}),
    "two": (2, {}),
    "uneven": (3, {}),
    "four": (4, {}),
    "sharded": (2, {"shard": "full", "gradient_checkpointing": True}),
    "mesh": (4, {"context": 2}),
    "sharded mesh": (4, {"context": 2, "shard": "full"}),
    "narrow": (3, {"context": 3}),
}
"""Number of processes, and what is told to them."""


@pytest.mark.slow
def test_every_layout_trains_alike(small: Callable[..., PretrainConfig], ports: Iterator[int]) -> None:
    """Also where the layout changes in the middle, and the stop comes to one process only."""
    layouts = {name: Run(size, next(ports), small(name, **changes)) for name, (size, changes) in LAYOUTS.items()}
    by_first, by_all = small("by first"), small("by all")
    stopped = [
        Run(2, next(ports), by_first, stop_at=(1, 1)),
        Run(4, next(ports), change(by_first, shard="full", async_checkpoint=True), True, stop_at=(3, 3)),
        Run(1, next(ports), by_first, True),
        Run(2, next(ports), change(by_all, shard="full"), stop_at=(0, 1)),
        Run(4, next(ports), change(by_all, context=2, shard="full", checkpoint_format="torch"), True, stop_at=(2, 3)),
        Run(1, next(ports), by_all, True),
    ]
    ends = run_ranks(4, train_in_worlds, [*layouts.values(), *stopped], group=False)
    assert ends[0][: len(layouts)] == ["finished"] * len(layouts)
    told = [f"KeyboardInterrupt: stopped after step {step}; continue with `resume`" for step in (2, 4)]
    assert ends[0][len(layouts) :] == [*told, "finished"] * 2
    assert [end[-1] for end in ends[1:]] == [told[1]] * 3

    reference = layouts.pop("one").config
    assert [row["length"] for row in rows(reference) if "loss" in row] == [16, 16, 32, 32, 32, 32]
    for run in layouts.values():
        assert_alike(run.config, reference)
    for config in (by_first, by_all):
        assert_alike(config, reference)
    # Dropout is at work, and its masks are those of no generator.
    pretrain(plainly := small("generator"), progress=False)
    assert rows(plainly)[-1] != pytest.approx(rows(reference)[-1], rel=1e-6)


@pytest.mark.slow
def test_killed_at_any_step_and_started_again_ends_with_the_same_bits(
    small: Callable[..., PretrainConfig], ports: Iterator[int]
) -> None:
    kinds: list[dict[str, Any]] = [
        {"checkpoint_every": 2, "eval_every": 3},
        {"shard": "full", "checkpoint_every": 2, "eval_every": 3},
    ]
    whole = [Run(2, next(ports), small(f"whole {i}", **kind)) for i, kind in enumerate(kinds)]
    runs, configs = [*whole], []
    for step in range(1, STEPS + 1):
        configs.append(config := small(f"killed {step}", **kinds[step % 2]))
        runs += [Run(2, next(ports), config, kill_at=(step // 2 % 2, step)), Run(2, next(ports), config, True)]
    ends = run_ranks(2, train_in_worlds, runs, group=False)
    for step in range(1, STEPS + 1):
        dying = step // 2 % 2
        killed, again = 2 * step, 2 * step + 1
        assert ends[dying][killed] == "Killed: "
        assert ends[1 - dying][killed].startswith(f"LostProcessError: rank {1 - dying} of 2: another process has ended")
        assert [end[again] for end in ends] == ["finished"] * 2
    for step, config in enumerate(configs, start=1):
        assert_alike(config, whole[step % 2].config, 0.0)
        assert (config.out / "model/model.safetensors").read_bytes() == (
            whole[step % 2].config.out / "model/model.safetensors"
        ).read_bytes()
