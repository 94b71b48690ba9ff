"""The calls of ``bench.kernels.porting``, and its table."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.kernels import porting


@pytest.mark.parametrize("call", porting.calls(2, 3, 12), ids=lambda call: call.name)
def test_the_three_of_a_call_agree(call: porting._Call) -> None:
    wide = [tensor.double() for tensor in call.tensors]
    exact = call.exact(*wide)
    for function in (call.ours, call.plain):
        torch.testing.assert_close(function(*wide), exact, rtol=1e-12, atol=1e-12)


def test_every_call_has_times_and_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["porting", "--batch=1", "--width=3", "--length=20", "--rounds=1"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    porting.main()
    head, _, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("(B, D, L) = (1, 3, 20), one thread, float32, medians of 1 rounds")
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [call.name for call in porting.calls(1, 3, 20)]
    for line in lines:
        cells = [float(cell) for cell in line.strip("| ").split(" | ")[1:]]
        assert len(cells) == 8
        assert all(cell > 0 for cell in cells[:6])
        assert all(cell < 1e-5 for cell in cells[6:])
