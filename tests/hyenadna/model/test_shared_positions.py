"""The layers of a model share the features of the positions, in memory and not in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.model.convert import convert

LAYERS, LENGTH = 3, 32


def made(**options: bool) -> HyenaDNAForCausalLM:
    config = HyenaDNAConfig(d_model=8, n_layer=LAYERS, max_seq_len=LENGTH, filter_order=8, **options)
    return HyenaDNAForCausalLM(config)


def features(model: HyenaDNAForCausalLM) -> list[Tensor]:
    return [layer.mixer.filter_fn.pos_emb.z for layer in model.hyena.backbone.layers]


def key(layer: int, name: str = "z") -> str:
    return f"hyena.backbone.layers.{layer}.mixer.filter_fn.pos_emb.{name}"


def assert_one(model: HyenaDNAForCausalLM) -> None:
    assert len({id(each) for each in features(model)}) == 1


@pytest.mark.parametrize("given", [False, True], ids=["", "state_dict"])
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_files_have_the_positions_of_every_layer(tmp_path: Path, given: bool, tied: bool) -> None:
    model = made(tie_word_embeddings=tied)
    assert_one(model)
    model.save_pretrained(tmp_path, **({"state_dict": model.state_dict()} if given else {}))
    assert_one(model)
    weights = load_file(tmp_path / "model.safetensors")
    for layer, z in enumerate(features(model)):
        assert torch.equal(weights[key(layer)], z)
        assert weights[key(layer, "t")].shape == (1, LENGTH, 1)
    # Every key but those of the sines, which files hold once.
    assert weights.keys() == {name for name in model.state_dict() if not name.endswith((".3.freq", ".5.freq"))}
    loaded = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert_one(loaded)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_checkpoint_whose_layers_differ_keeps_them_apart(tmp_path: Path) -> None:
    model = made()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights[key(1)] += 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    loaded = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    first, second, third = features(loaded)
    assert first is third
    assert torch.equal(second, weights[key(1)])
    assert torch.equal(first, weights[key(0)])
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_without_positions_in_the_file(tmp_path: Path) -> None:
    model = made()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(
        {name: x for name, x in load_file(file).items() if "pos_emb" not in name}, file, metadata={"format": "pt"}
    )
    loaded = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert_one(loaded)
    assert torch.equal(features(loaded)[0], features(model)[0])


def test_the_format_of_the_original(tmp_path: Path) -> None:
    model = made(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "original", "original")
    pickled = torch.load(tmp_path / "original" / "weights.ckpt", weights_only=True)["state_dict"]
    for layer, z in enumerate(features(model)):
        assert torch.equal(pickled[key(layer).replace("hyena.", "model.")], z)
    assert_one(HyenaDNAForCausalLM.from_pretrained(tmp_path / "original"))


def test_one_copy_is_counted() -> None:
    nbytes = sum(buffer.nbytes for name, buffer in made().named_buffers() if "pos_emb" in name)
    assert nbytes == LENGTH * (5 + 1) * 4
