from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.kernels import bidirectional
from hyena_kernels import HyenaOperator


@pytest.mark.parametrize("bias", [True, False])
def test_two_calls_are_the_same_operator(bias: bool) -> None:
    layer, u = HyenaOperator(4, 9, bidirectional=True, bias=bias), torch.randn(2, 9, 4)
    torch.testing.assert_close(bidirectional.by_two_calls(layer, u), layer(u), rtol=0, atol=1e-6)


def test_every_operator_has_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    path = tmp_path / "bidirectional.json"
    bidirectional.main(["--positions", "16", "--width", "4", "--lengths", "8", "--rounds", "2", "--out", str(path)])
    records = json.loads(path.read_text())["records"]
    assert [record["what"] for record in records] == 6 * ["forward"] + 6 * ["forward + backward"]
    assert all(record["ratio"] > 0 for record in records)
    assert capsys.readouterr().out.count("1.00×") == 2
