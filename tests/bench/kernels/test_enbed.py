"""The measurement of ENBED's encoder against full attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.kernels import enbed
from hyenadna.encoder_decoder.modeling import ENBEDEncoder

SHAPE = ("enbed-tiny", 2, 4, 64)


def test_the_three_encoders_have_one_shape() -> None:
    made = {kind: enbed.encoder(kind, *SHAPE) for kind in enbed.KINDS}
    assert {kind: type(model) is ENBEDEncoder for kind, model in made.items()} == {
        "block of 16": True, "fixed number": True, "full attention": False,
    }  # fmt: skip
    assert [made[kind].config.global_block_size for kind in enbed.KINDS[:2]] == [16, 16]
    assert enbed.encoder("fixed number", "enbed-tiny", 2, 2, 64).config.global_block_size == 32
    assert [made["block of 16"].config.radius_of(layer) for layer in (0, 1)] == [64, 128]
    # Projections and feed-forward layers are the same; global tokens have a norm in each layer, and biases.
    windows, full = (
        {
            name.removeprefix("encoder.").split("SelfAttention.")[-1]: weight.shape
            for name, weight in m.named_parameters()
        }
        for m in (made["block of 16"], made["full attention"])
    )
    assert full.keys() - windows.keys() == {"shared.weight"}
    for name in full.keys() & windows.keys():
        assert full[name] == windows[name]
    assert made["full attention"].config.feed_forward_proj == "gated-gelu"


@pytest.mark.parametrize("kind", enbed.KINDS)
@pytest.mark.parametrize("mode", enbed.MODES)
def test_a_call_does_all_of_its_work(kind: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = enbed.encoder(kind, *SHAPE)
    monkeypatch.setattr(enbed, "encoder", lambda *shape: model)
    monkeypatch.setattr(enbed, "return_freed_memory", lambda: None)
    enbed.prepare(kind, mode, 40, *SHAPE)()
    grads = {name: weight.grad is not None for name, weight in model.named_parameters()}
    assert all(grads.values()) if mode == "forward + backward" else not any(grads.values())


def test_exponents_are_slopes_of_logarithms() -> None:
    assert enbed.exponent([512, 4096, 16_384], [3 * n**1.5 for n in (512, 4096, 16_384)]) == pytest.approx(1.5)
    assert enbed.exponent([512], [1.0]) is None


def test_the_command_measures_and_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, ...]] = []

    def peak(setup: object, kind: str, mode: str, length: int, *shape: object) -> tuple[int, int]:
        asked.append((kind, mode, length, *shape))
        return 0, length**2 << (10 if kind == "full attention" else 0)

    monkeypatch.setattr(enbed, "peak_rss", peak)
    monkeypatch.setattr(enbed, "return_freed_memory", lambda: None)
    words = ["--size", "enbed-tiny", "--layers", "2", "--lengths", "64", "16", "--tokens", "2", "--rounds", "1"]
    # 16 bytes take a quarter of a MiB of full attention, and 64 would take 4.
    enbed.main([*words, "--memory", str(1 / 1024), "--out", str(tmp_path / "x.json")])
    content = json.loads((tmp_path / "x.json").read_text())
    left = [record for record in content["records"] if "left_out" in record]
    assert [(record["kind"], record["length"]) for record in left] == [("full attention", 64)] * 2
    assert len(content["records"]) == 2 * 2 * 3
    assert {shape[3:] for shape in asked} == {("enbed-tiny", 2, 2, 64)}
    growth = {(line["kind"], line["mode"]): line for line in content["growth"]}
    assert growth["block of 16", "forward"]["bytes"] == pytest.approx(2)
    assert growth["full attention", "forward"]["bytes"] is None
    assert all(record["seconds"] > 0 for record in content["records"] if record not in left)
    assert content["transformers"]
    assert "full attention: left out: needs about" in capsys.readouterr().out
    assert torch.get_num_threads() == 1
