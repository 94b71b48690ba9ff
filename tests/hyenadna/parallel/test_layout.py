"""How processes divide batches and windows, and what a validation makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.common.world import World, joined, world
from hyenadna.data.genome import Genome
from hyenadna.data.intervals import Interval
from hyenadna.data.windows import EvalWindows
from hyenadna.evaluation.evaluate import evaluate_windows
from hyenadna.model.device import pick_device
from hyenadna.parallel.layout import Layout
from hyenadna.parallel.processes import start_world
from tests.hyenadna.parallel.test_processes import join
from tests.ranks import run_ranks

LENGTH = 33
# 6 windows of 33 inputs, one of 3 and one of 1.
INTERVALS = [Interval("a", 100, 203), Interval("b", 3, 71), Interval("c", 0, 34)]


class Second(World):
    """The second of two processes, which answers for both."""

    rank = local_rank = 1
    size = 2


def evaluate_in_two(rank: int, port: int, genome: Path) -> list[tuple[Any, bytes]]:
    """The result of one process, of two that take batches in turn, and of two that divide each window."""
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=6, n_layer=1, max_seq_len=LENGTH, initializer_range=0.3))
    model.double()
    opened, results = Genome.open(genome), []

    def score(layout: Layout) -> None:
        windows = EvalWindows(opened, INTERVALS, LENGTH, context=layout.context)
        found = evaluate_windows(model, windows, batch_size=2, progress=False, layout=layout)
        results.append((found.score, found.position_nats.tobytes()))

    score(Layout())
    join(rank, 2, port)
    with start_world("cpu", timeout=40):
        assert (world().sums([rank, 1]), world().sums([0.25 + rank])) == ([1, 2], [1.5])
        for context in (1, 2):
            score(Layout.make(torch.device("cpu"), context))
    return results


def test_processes_share_out_windows(tiny_genome: Path, free_port: int) -> None:
    """Of 5 batches, one process has 2 and is idle once. Nobody divides the last two windows."""
    (alone, by_rows, by_positions), others = run_ranks(2, evaluate_in_two, free_port, tiny_genome, group=False)
    assert others == [alone, by_rows, by_positions]
    assert by_rows == alone
    assert by_positions[0].count == alone[0].count == 6 * LENGTH + 3 + 1
    assert by_positions[0].accuracy == alone[0].accuracy
    assert by_positions[0].perplexity == pytest.approx(alone[0].perplexity, rel=1e-12)
    np.testing.assert_allclose(np.frombuffer(by_positions[1]), np.frombuffer(alone[1]), rtol=1e-12)


def test_batches_are_dealt_in_turn(tiny_genome: Path) -> None:
    windows = EvalWindows(Genome.open(tiny_genome), INTERVALS, LENGTH)
    whole = [batch.windows for batch in windows.batches(2)]
    assert len(whole) == 5
    for size in (1, 2, 3, 7):
        dealt = [[(batch.windows, counts) for batch, counts in windows.dealt(2, rank, size)] for rank in range(size)]
        assert {len(own) for own in dealt} == {-(-5 // size)}
        in_turn = [item for turn in zip(*dealt, strict=True) for item in turn]
        assert [found for found, counts in in_turn if counts] == whole
        assert [found for found, counts in in_turn if not counts] == [whole[-1]] * (len(in_turn) - 5)
    with pytest.raises(InputError, match="batch size 0"):
        next(windows.dealt(0, 0, 1))


def test_a_context_needs_its_processes() -> None:
    cpu = torch.device("cpu")
    assert Layout.make(cpu, 1) == Layout()
    assert Layout().shards(7) is None
    with pytest.raises(InputError, match=r"^`context` 2: needs 2 processes, and this is one; start them with torchrun"):
        Layout.make(cpu, 2)
    with joined(Second()):
        assert Layout.of_rows() == Layout((1, 2))
        with pytest.raises(InputError, match=r"^`context` 3: does not divide the 2 processes; .* or start 3 of them"):
            Layout.make(cpu, 3)


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(pick_device(name)) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    with joined(Second()):
        assert [str(pick_device(name)) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
