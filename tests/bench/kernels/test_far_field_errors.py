"""bench.kernels.far_field_errors with filters that are smooth over a few hundred positions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

from bench.kernels import far_field_errors
from hyena_kernels.testing import relative_error
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

LENGTH = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model"
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16, filter_order=8, activation_freq=1))
    model.save_pretrained(path)
    return path


@pytest.mark.slow
def test_every_route_is_measured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "errors.json"
    arguments = [
        "--lengths",
        str(LENGTH),
        "--channels",
        "1",
        "--dtypes",
        "float32",
        "bfloat16",
        "float64",
        "--backends",
        "torch",
    ]
    monkeypatch.setattr(sys, "argv", ["x.py", *arguments, "--checkpoints", f"smooth={folder}", "--out", str(out)])
    far_field_errors.main()
    rows = json.loads(out.read_text())["rows"]
    found = {(row["filter"], row["dtype"], row["route"].partition(" h=")[0]): row["errors"] for row in rows}
    exact = "FFT, exact filter, torch"
    # A filter as published is rough at this length, and in float64 plain PyTorch has no error.
    assert found.keys() == {
        *(("initial", dtype, route) for dtype in ("float32", "bfloat16") for route in ("FFT, torch", exact)),
        *(("smooth", "float32", route) for route in ("far field", "FFT, torch", exact)),
        *(("smooth", "bfloat16", route) for route in ("far field", "FFT, torch", exact)),
        ("smooth", "float64", "far field"),
    }
    for (_, dtype, route), errors in found.items():
        assert set(errors) == set(far_field_errors.COLUMNS[: 6 if route == exact else None])
        bound = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-2}[dtype]
        assert all(0 <= error < bound for error in errors.values()), (route, errors)
    assert found["smooth", "float32", exact]["filter"] < found["smooth", "float32", "FFT, torch"]["filter"]


def test_signals_are_the_same_numbers_in_every_dtype() -> None:
    for values in far_field_errors.signals(3, 1000).values():
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.equal(values.to(dtype).double(), values)


def test_filters_of_a_model_are_stretched_to_the_length(folder: Path) -> None:
    network = far_field_errors.trained(folder, LENGTH, 2)
    assert (network.seq_len, len(network.w_out), len(network.deltas)) == (LENGTH, 2, 2)
    assert far_field_errors.trained(folder, 5, 2).seq_len == 16
    case = far_field_errors.Case(network, LENGTH)
    assert relative_error(case.taps(torch.float32, "torch"), case.exact_taps) < 1e-5


@pytest.mark.parametrize("text", ["model", "=model", "a=nowhere"])
def test_a_checkpoint_has_a_name_and_a_folder(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=FOLDER"):
        far_field_errors.checkpoint(text)
