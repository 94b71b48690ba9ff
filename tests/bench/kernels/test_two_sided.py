from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.kernels import two_sided
from hyena_kernels import fftconv


def test_both_ways_are_the_same_convolution() -> None:
    u, k = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(3, 15, dtype=torch.float64)
    expected = fftconv(u, k, causal=False)
    torch.testing.assert_close(two_sided.two_calls(u, k, "torch"), expected, rtol=1e-12, atol=1e-12)


def test_every_backend_length_and_direction_has_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(two_sided, "BACKENDS", ("torch",))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    path = tmp_path / "two_sided.json"
    two_sided.main(["--channels", "2", "--lengths", "8", "16", "--rounds", "2", "--out", str(path)])
    records = json.loads(path.read_text())["records"]
    assert [(each["length"], each["what"]) for each in records] == [
        (length, what) for length in (8, 16) for what in ("forward", "forward + backward")
    ]
    assert all(each["ratio"] > 0 for each in records)
    assert capsys.readouterr().out.count("one call") == 4
