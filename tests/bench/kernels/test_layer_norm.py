"""The table of ``bench.kernels.layer_norm``."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.kernels import layer_norm
from hyena_kernels import backend


def test_every_implementation_has_a_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := backend._reasons("layer_norm_fwd", "cpp", torch.device("cpu")):
        pytest.skip(f"backend 'cpp' {reason}")
    monkeypatch.setattr(sys, "argv", ["layer_norm", "--rows=5", "--width=8", "--rounds=2"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    layer_norm.main()
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header == "| 5 × 8 | | PyTorch's ops | cpp | torch |"
    names = [tuple(line.split(" | ")[:2]) for line in lines]
    assert names == [
        (f"| {op}", form) for op in ("layer_norm", "add_layer_norm") for form in ("forward", "forward + backward")
    ]
    for line in lines:
        assert all(float(cell) > 0 for cell in line.strip("| ").split(" | ")[2:])
