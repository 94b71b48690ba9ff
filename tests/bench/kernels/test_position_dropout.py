"""The table of ``bench.kernels.position_dropout``."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.kernels import position_dropout
from hyena_kernels import backend


def test_every_implementation_has_a_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := backend._reasons("position_dropout", "cpp", torch.device("cpu")):
        pytest.skip(f"backend 'cpp' {reason}")
    monkeypatch.setattr(sys, "argv", ["position_dropout", "--batch=2", "--length=5", "--width=8", "--rounds=2"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    position_dropout.main()
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header == "| 2 × 5 × 8 | | F.dropout | the model's | cpp | torch |"
    names = [tuple(line.split(" | ")[:2]) for line in lines]
    assert names == [
        (f"| {dtype}", form) for dtype in ("float32", "bfloat16") for form in ("forward", "forward + backward")
    ]
    for line in lines:
        assert all(float(cell) > 0 for cell in line.strip("| ").split(" | ")[2:])
