"""The block of the example computes the same on plain PyTorch and on the ops."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/striped_block/striped_block.py"


def test_both_ways_give_the_same_results_and_gradients() -> None:
    assert runpy.run_path(str(EXAMPLE))["largest_difference"](width=6, depth=2, length=37) < 1e-12


def test_the_command_compares_their_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--length", "64", "--width", "8", "--depth", "1", "--rounds", "1"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.count("times as fast") == 4
