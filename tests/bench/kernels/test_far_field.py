"""bench.kernels.far_field and bench.kernels.bands at small sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.kernels import bands, far_field
from hyena_kernels.far_field_plan import Plan
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "smooth"
    folder.mkdir()
    (folder / "config.yaml").write_text("lr: 0.0006\nlength: 64\n", encoding="utf-8")
    torch.manual_seed(0)
    config = HyenaDNAConfig(d_model=4, n_layer=2, max_seq_len=66, filter_order=8, activation_freq=3)
    HyenaDNAForCausalLM(config).save_pretrained(folder / "step-00000100")
    return folder


@pytest.mark.slow
def test_every_stage_is_timed_on_both_routes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    threads = torch.get_num_threads()
    sizes = ["--channels", "2", "--lengths", "2048", "--plans", "32,4", "--taps", "16", "--rounds", "1"]
    far_field.main([*sizes, "--out", str(out)])
    torch.set_num_threads(threads)
    records = json.loads(out.read_text())["records"]
    found = {(each["what"], each["backward"], each["route"]) for each in records}
    stages = ("filter", "convolution", "operator")
    expected = {(what, back, route) for what in stages for back in (False, True) for route in ("fft", "h=32 p=4")}
    assert found == expected | {("fftconv", back, route) for back in (False, True) for route in ("fft", "K=16")}
    assert all(each["ms"] > 0 and each["ratio"] > 0 for each in records)
    capsys.readouterr()
    far_field.main(["--channels", "2", "--lengths", "2048", "--peak", "32,4"])
    torch.set_num_threads(threads)
    assert int(capsys.readouterr().out) >= 0


@pytest.mark.slow
def test_bands_and_pictures_of_a_run(run: Path, tmp_path: Path) -> None:
    names = ["bands.svg", "errors.svg", "nodes.png", "bands.json"]
    places = [str(tmp_path / name) for name in names]
    options = [
        option for pair in zip(("--picture", "--errors", "--nodes", "--out"), places, strict=True) for option in pair
    ]
    bands.main([str(run), "--models", str(run / "step-00000100"), *options])
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    (record,) = json.loads((tmp_path / "bands.json").read_text())["records"]
    assert (record["run"], record["step"], record["length"], record["lr"]) == ("smooth", 100, 64, 6e-4)
    assert all(0 < band < 1000 for band in record["bands"])
    plan = record["1048576 float32"]
    assert plan["error"] <= 1e-7


def test_a_band_counts_periods_of_the_whole_filter() -> None:
    """Of one sine of 40 periods under a Hann window: 40 bins and the width of the window's own spectrum."""
    width = 2
    network = bands.Network(
        torch.full((width,), 2 * torch.pi),
        torch.tensor([[40.0, 0.0, 0.0]]).expand(width, 3),
        torch.zeros(width),
        torch.zeros(0, width, width),
        torch.zeros(0, width),
        torch.ones(1, width),
        None,
        0.0,
        64,
    )
    assert 41 <= bands.band(network) <= 60
    assert bands.cheapest(network, 1 << 17, torch.float32) is not None
    assert set(bands.errors(network, 1 << 17)) >= {"16,4", "512,10"}
    assert Plan(16, 4) == (16, 4)
