from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest
import torch

from bench.kernels import step_launches
from bench.kernels.step_launches import Operations, kernels_of


def test_views_and_allocations_launch_nothing() -> None:
    x = torch.randn(4, 6)
    with Operations() as seen:
        y = torch.empty(6, 4)
        y.copy_(x[:, :].t().reshape(6, 4).view(6, 4))
        x.mm(y).sum()
    assert +seen.kernels == {"aten::copy_": 1, "aten::mm": 1, "aten::sum": 1}
    assert seen.calls["aten::t"] == 1


def test_an_operation_on_a_list_is_cut_by_tensors_and_by_elements() -> None:
    small, large = [torch.zeros(3)] * 111, [torch.zeros(1).expand(65_536 * 321)]
    assert kernels_of("aten::_foreach_add_", (small, 1)) == 2
    assert kernels_of("aten::_foreach_add", (small, 1)) == 2
    assert kernels_of("aten::_foreach_add_", (small, small)) == 2
    assert kernels_of("aten::_foreach_add_", (large, 1)) == 2
    assert kernels_of("aten::_foreach_norm", (small[:5],)) == 2
    assert kernels_of("aten::_fused_adamw_", (small, small, small, small, [], small)) == 4
    assert kernels_of("aten::cat", (small,)) == 1


def test_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # On the backend of the CPU: Triton would compile its kernels first.
    monkeypatch.setattr(step_launches, "without_gpu", nullcontext)
    arguments = ["--length", "16", "--channels", "8", "--layers", "1", "--rounds", "1", "--ops"]
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    step_launches.main()
    shown = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown if line.startswith("| ")]
    first, *_, last = [row for row in rows if "AdamW" in row[0]]
    assert first[0] == "random state kept, AdamW over lists"
    assert [int(row[4]) for row in (first, last)] == [int(row[2]) + int(row[3]) for row in (first, last)]
    # One kernel in the place of a dozen.
    assert int(last[4]) < int(first[4])
    assert int(last[1]) < int(first[1])
    operations = {row[0]: int(row[1]) for row in rows if row[0].startswith("aten::")}
    assert sum(operations.values()) == int(last[2])
    assert f"As one CUDA graph: {last[4]} nodes, estimated at " in "\n".join(shown)
