"""The table of ``bench.kernels.packing``."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.kernels import packing
from hyena_kernels.testing import hyena_mixer_varlen_inputs


def test_every_set_has_its_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["packing", "--sequences=2", "--width=2", "--rounds=1"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(packing, "sets", lambda sequences: {"small": [5, 20][:sequences]})
    packing.main()
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header == "| 2 sequences, D=2 | positions | padded/real | | padded | loop | packed | padded/packed |"
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert [row[:4] for row in rows] == [["small", "25", "1.6", form] for form in ("forward", "forward + backward")]
    assert all(float(cell) > 0 for row in rows for cell in row[4:])


def test_sets_are_those_that_their_names_tell() -> None:
    genes, promoters, mixed = packing.sets(64).values()
    assert {len(lengths) for lengths in (genes, promoters, mixed)} == {64}
    assert max(genes) <= 20_000
    assert 60 <= min(promoters) < max(promoters) <= 500
    assert max(mixed[:-1]) <= 500 < mixed[-1] == 16_384


def test_other_results_have_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    made = hyena_mixer_varlen_inputs([3, 4], 2)
    monkeypatch.setattr(packing, "hyena_mixer_varlen", lambda x, *args, **options: x[:, :2])
    monkeypatch.setattr(packing, "hyena_mixer_varlen_inputs", lambda *args: dict(made))
    with pytest.raises(SystemExit, match="packed and loop give different results"):
        packing.compare([3, 4], 2, 1, gradients=False)
