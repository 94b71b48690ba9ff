"""bench.kernels.sparse_filters with a model of random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bench.kernels import sparse_filters
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM


def test_every_way_of_thinning_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16)).save_pretrained(tmp_path / "model")
    bases = "".join("ACGT"[i] for i in torch.randint(0, 4, (200,)))
    (tmp_path / "genome.fa").write_text(f">other\nACGT\n>chr\n{bases}\n")
    arguments = [str(tmp_path / "model"), str(tmp_path / "genome.fa"), "chr", "--windows", "3"]
    monkeypatch.setattr(sys, "argv", ["x.py", *arguments, "--out", str(tmp_path / "rows.json")])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    sparse_filters.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    by_kind: dict[str, dict[float, float]] = {}
    for row in rows:
        by_kind.setdefault(row["filters"], {})[row["kept"]] = row["nats"]
    assert {kind: len(shares) for kind, shares in by_kind.items()} == {
        "all taps and frequencies": 1,
        "the first taps": 5,
        "the lowest frequencies, causal": 5,
        "the lowest, sees the future": 5,
        "windows of 16, half of it context": 1,
        "one sequence of 64": 4,
    }
    # With the fewest taps and frequencies the loss is another one.
    whole = by_kind["all taps and frequencies"][1.0]
    changed = [min(shares.items())[1] for shares in list(by_kind.values())[1:4]]
    assert all(nats != whole and abs(nats - whole) < 0.2 for nats in changed), (whole, changed)


def test_a_contig_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "genome.fa").write_text(">chr\nACGT\n")
    with pytest.raises(SystemExit, match="has no contig chrX"):
        sparse_filters.windows(tmp_path / "genome.fa", "chrX", 2, 1)
