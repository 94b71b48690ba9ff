"""The table of ``bench.kernels.mixer_step``."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.kernels import mixer_step
from hyena_kernels import backend


def test_every_backend_has_a_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := backend._reasons("hyena_mixer_step", "cpp", torch.device("cpu")):
        pytest.skip(f"backend 'cpp' {reason}")
    arguments = ["--batch", "2", "1", "--width", "3", "--horizon=9", "--window=8", "--rounds=2"]
    monkeypatch.setattr(sys, "argv", ["mixer_step", *arguments])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    mixer_step.main()
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header == "| B × d | cpp | torch | ratio |"
    assert [line.split(" | ")[0] for line in lines] == ["| 2 × 3", "| 1 × 3"]
    for line in lines:
        assert all(float(cell) > 0 for cell in line.strip("| ").split(" | ")[1:])
