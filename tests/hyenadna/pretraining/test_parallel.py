"""Pretraining in many processes: every layout trains alike, whoever stops, dies or fails."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hyenadna.baselines.loading import load_language_model
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.common.world import world
from hyenadna.data.windows import TrainWindows
from hyenadna.parallel.processes import start_world
from hyenadna.pretraining import train
from hyenadna.pretraining.train import PretrainConfig, pretrain
from hyenadna.training import run_dir
from tests.hyenadna.parallel.test_processes import join
from tests.ranks import run_ranks

TIMES = ("seconds", "tokens_per_second")
CLOSE = 1e-12
STEPS = 6
SMALL: dict[str, Any] = {
    "d_model": 8,
    "n_layer": 1,
    "model_fields": {"filter_order": 8},
    "length": 33,
    "batch_size": 10,
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
    ``fail_at`` is a rank, a step, and what then goes wrong there.
    """

    size: int
    port: int
    config: PretrainConfig
    resume: bool = False
    stop_at: tuple[int, int] | None = None
    kill_at: tuple[int, int] | None = None
    fail_at: tuple[int, int, str] | None = None


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
    return load_language_model(folder, dtype=torch.float64).state_dict()


def assert_alike(config: PretrainConfig, other: PretrainConfig, close: float = CLOSE) -> None:
    """Metrics, each step once, and the weights of the model."""
    found, expected = rows(config), rows(other)
    assert [(row["step"], "loss" in row) for row in found] == [(row["step"], "loss" in row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=close, abs=close)
    for (name, tensor), wanted in zip(
        weights(config.out / "model").items(), weights(other.out / "model").values(), strict=True
    ):
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


def fail_to_read() -> None:
    """Let no further window be read in this process."""

    def fail(self: TrainWindows, key: object) -> torch.Tensor:
        raise InputError(f"rank {world().rank} reads no window")

    TrainWindows.__getitem__ = fail  # type: ignore[method-assign]


def fill_disk() -> None:
    """Let no further file be written in this process."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_dir.atomic_dir = fail  # type: ignore[assignment]


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
        if run.fail_at is not None and run.fail_at[0] == rank:
            here.append((run.fail_at[1], {"read": fail_to_read, "disk": fill_disk}[run.fail_at[2]]))
        try:
            with contextlib.ExitStack() as stack:
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr(TrainWindows, "__getitem__", TrainWindows.__getitem__)
                patch.setattr(run_dir, "atomic_dir", run_dir.atomic_dir)
                for step, work in here:
                    stack.enter_context(call_at(step, work))
                stack.enter_context(start_world("cpu", timeout=40))
                pretrain(run.config, resume=run.resume, progress=False)
            ends.append("finished")
        except (KeyboardInterrupt, InputError, Killed) as error:
            ends.append(f"{type(error).__name__}: {error}")
        # Connections close with what holds them, as they do when a process dies.
        gc.collect()
    return ends


LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"dropout_masks": "position"}),
    "two": (2, {}),
    "four": (4, {}),
    "mesh": (4, {"context": 2}),
    "sharded": (2, {"shard": "full", "gradient_checkpointing": True}),
    "sharded mesh": (4, {"context": 2, "shard": "full"}),
}
"""Number of processes, and what is told to them."""


@pytest.mark.slow
def test_every_layout_trains_alike(small: Callable[..., PretrainConfig], ports: Iterator[int]) -> None:
    """Rows and shards are uneven. Two runs change their layout and format on the way, stopped by one process each."""
    layouts = {name: Run(size, next(ports), small(name, **changes)) for name, (size, changes) in LAYOUTS.items()}
    plain, sharded = small("plain"), small("sharded twice", shard="full")
    by_all = {"checkpoint_format": "dcp", "async_checkpoint": True}
    stopped = [
        Run(2, next(ports), plain, stop_at=(1, 1)),
        Run(4, next(ports), change(plain, context=2, **by_all), True, stop_at=(3, 3)),
        Run(1, next(ports), plain, True),
        Run(2, next(ports), change(sharded, **by_all), stop_at=(0, 1)),
        Run(2, next(ports), change(sharded, context=2, checkpoint_format="torch"), True, stop_at=(1, 3)),
        Run(2, next(ports), sharded, True),
    ]
    ends = run_ranks(4, train_in_worlds, [*layouts.values(), *stopped], group=False)
    told = [f"KeyboardInterrupt: stopped after step {step}; continue with `resume`" for step in (2, 4)]
    assert ends[0] == ["finished"] * len(layouts) + [*told, "finished"] * 2
    assert ends[1] == ["finished"] * (len(layouts) - 1) + [*told, *told, "finished"]
    assert ends[2] == ends[3] == ["finished"] * 3 + told[1:]

    reference = layouts.pop("one").config
    assert [row["length"] for row in rows(reference) if "loss" in row] == [16, 16, 32, 32, 33, 33]
    for config in (*(run.config for run in layouts.values()), plain, sharded):
        assert_alike(config, reference)
    # Dropout is at work, and its masks are those of no generator.
    pretrain(generator := small("generator"), progress=False)
    assert rows(generator)[-1] != pytest.approx(rows(reference)[-1], rel=1e-6)


@pytest.mark.slow
def test_killed_at_any_step_and_started_again_ends_with_the_same_bits(
    small: Callable[..., PretrainConfig], ports: Iterator[int]
) -> None:
    often: dict[str, Any] = {"checkpoint_every": 2, "eval_every": 3}
    plain, sharded = small("plain", **often), small("sharded", shard="full", **often)
    runs = [Run(2, next(ports), plain), Run(2, next(ports), sharded)]
    # The rank that dies, and the run that the killed one is to end as.
    cases = {step: (step // 2 % 2, sharded if step == 4 else plain) for step in range(1, STEPS + 1)}
    for step, (rank, whole) in cases.items():
        killed = change(whole, out=whole.out.with_name(f"killed {step}"))
        runs += [Run(2, next(ports), killed, kill_at=(rank, step)), Run(2, next(ports), killed, resume=True)]
    ends = run_ranks(2, train_in_worlds, runs, group=False)
    for step, (rank, whole) in cases.items():
        killed, again = 2 * step, 2 * step + 1
        assert ends[rank][killed] == "Killed: "
        lost = f"LostProcessError: rank {1 - rank} of 2: another process has ended, or has not answered for 40 s ("
        assert ends[1 - rank][killed].startswith(lost)
        assert [end[again] for end in ends] == ["finished"] * 2
        assert_alike(runs[again].config, whole, 0.0)


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_ends_all_with_one_line(
    small: Callable[..., PretrainConfig], ports: Iterator[int]
) -> None:
    unread, full, old = small("unread"), small("full"), small("generator", checkpoint_every=2, steps=2)
    pretrain(old, progress=False)
    changes: dict[str, dict[str, Any]] = {
        "`context` 3: does not divide the 2 processes; choose a number that does": {"context": 3},
        "has 3 windows a step in its stage of 32 tokens, and 2 processes with `accumulate` 2 need": {"batch_size": 3},
        "`autocast` float16": {"autocast": "float16", "shard": "full"},
        "`dropout_masks` generator: 2 processes would draw other masks than": {"dropout_masks": "generator"},
        "`model_fields` hyena_dropout: masks by position": {"model_fields": {"filter_order": 8, "hyena_dropout": 0.1}},
    }
    refused = {reason: small("refused", **change) for reason, change in changes.items()}
    runs = [
        Run(2, next(ports), unread, fail_at=(1, 2, "read")),
        Run(2, next(ports), full, fail_at=(0, 3, "disk")),
        *(Run(2, next(ports), config) for config in refused.values()),
        Run(2, next(ports), old),
        Run(2, next(ports), old, resume=True),
    ]
    first, second = run_ranks(2, train_in_worlds, runs, group=False)
    # All raise the same, so that the command line tells it once.
    assert first == second
    assert all(end.startswith("SharedError: ") for end in first)
    assert first[0] == "SharedError: rank 1 reads no window"
    assert first[1] == (
        f"SharedError: {full.out}: cannot be written (No space left on device); free some space and continue with "
        "`resume`"
    )
    for end, reason in zip(first[2:-2], refused, strict=True):
        assert reason in end
    assert "already holds a run; continue with `resume`" in first[-2]
    assert "pass `dropout_masks` position, which are other masks from there on" in first[-1]
    assert not (old.out.parent / "refused").exists()
