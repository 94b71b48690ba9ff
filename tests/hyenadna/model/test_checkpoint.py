from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNAModel, InputError
from hyenadna.model.checkpoint import hf_to_original, load_original
from hyenadna.model.convert import convert

IDS = torch.tensor([[7, 8, 9, 10, 11, 4, 1, 7]])


@pytest.fixture
def model() -> HyenaDNAForCausalLM:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=32, tie_word_embeddings=True)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def original(model: HyenaDNAForCausalLM, tmp_path: Path) -> Path:
    """A folder in the original's format, as its trainer leaves it."""
    folder = tmp_path / "original"
    folder.mkdir()
    weights = hf_to_original(model.state_dict(), model.config.num_inner_mlps)
    torch.save({"state_dict": weights, "epoch": 3}, folder / "weights.ckpt")
    (folder / "config.json").write_text(json.dumps(model.config.to_original()))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    content = torch.load(folder / "weights.ckpt", weights_only=True)
    change(content["state_dict"])
    torch.save(content, folder / "weights.ckpt")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_original_format_loads(model: HyenaDNAForCausalLM, original: Path) -> None:
    for path in (original, original / "weights.ckpt", str(original)):
        loaded = HyenaDNAForCausalLM.from_pretrained(path)
        assert torch.equal(logits(loaded), logits(model))
        assert not loaded.training
        assert loaded.name_or_path == loaded.config.name_or_path == str(path)


def test_untied_head_shares_no_memory_with_the_embedding(original: Path) -> None:
    loaded = HyenaDNAForCausalLM.from_pretrained(original)
    loaded.lm_head.weight.data += 1
    assert not torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)


def test_tolerated_differences_of_original_checkpoints(model: HyenaDNAForCausalLM, original: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        for key in list(weights):
            tensor = weights.pop(key)
            absent = key.endswith(("pos_emb.z", "pos_emb.t", "modulation.deltas", "3.freq", "lm_head.weight"))
            if not absent:
                weights[key.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer.")] = tensor
        weights["train_torchmetrics.num_tokens.count"] = torch.tensor(5)

    rewrite(original, change)
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(original)), logits(model))


def test_load_original_gives_both_files_as_they_are(shared: Path) -> None:
    for name in ("weights.ckpt", "weights_omegaconf.ckpt"):
        weights, config = load_original(shared / "fixtures" / "micro-L128" / "orig" / name)
        assert len(weights) == 63
        assert all(isinstance(tensor, Tensor) for tensor in weights.values())
        assert config["layer"]["l_max"] == 130
    with pytest.raises(InputError, match="is not a checkpoint in the original's format"):
        load_original(shared / "fixtures" / "micro-L128" / "hf")


class Payload:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Holder:
    """Pickles with ``state`` handed to BUILD."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return {"state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def payloads(marker: Path) -> dict[str, Any]:
    write = f"__import__('pathlib').Path({str(marker)!r}).write_text('ran')"
    system = Payload(os.system, f"echo ran > '{marker}'")
    evaluate = Payload(builtins.eval, write)
    return {
        "os.system": system,
        "builtins.eval": evaluate,
        "builtins.exec": Payload(builtins.exec, write),
        "subprocess": Payload(subprocess.run, ["touch", str(marker)]),
        "open": Payload(builtins.open, str(marker), "w"),
        "in a state": Holder(evaluate),
        "in a state of a state": Holder([Holder({"a": (system, evaluate)})]),
        "as a key": {evaluate: 1},
        "as an argument": Payload(dict, [("a", evaluate)]),
        "unpickler within": Payload(pickle.loads, pickle.dumps(evaluate)),
    }


KINDS = sorted(payloads(Path("marker")))


@pytest.mark.parametrize("place", ["beside", "in the state_dict", "alone"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_code_of_a_checkpoint_runs(original: Path, tmp_path: Path, kind: str, form: str, place: str) -> None:
    marker = tmp_path / "marker"
    payload = payloads(marker)[kind]
    content = torch.load(original / "weights.ckpt", weights_only=True)
    if place == "beside":
        content = {"hyper_parameters": payload} | content
    elif place == "in the state_dict":
        content["state_dict"]["model.extra"] = payload
    else:
        content = payload
    file = original / "weights.ckpt"
    if form == "bare pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")

    weights: dict[str, Tensor] = {}
    with contextlib.suppress(InputError):
        weights, _ = load_original(original)
    assert not marker.exists()
    # Only torch's present format gets stubs for the objects beside the tensors.
    assert not weights or (form == "zip" and place != "alone")
    assert all(isinstance(tensor, Tensor) for tensor in weights.values())


@pytest.mark.parametrize("kind", KINDS)
def test_these_payloads_do_run_in_an_ordinary_unpickler(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps(payloads(marker)[kind])
    # What a payload returns may not fit where it stands: it has run all the same.
    with contextlib.suppress(TypeError):
        pickle.loads(data)
    assert marker.exists()


def test_published_style_objects_are_stubbed(shared: Path) -> None:
    folder = shared / "fixtures" / "micro-L128" / "orig"
    loaded = HyenaDNAForCausalLM.from_pretrained(folder / "weights_omegaconf.ckpt")
    assert torch.equal(logits(loaded), logits(HyenaDNAForCausalLM.from_pretrained(folder)))


def drop(*ends: str) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        for key in [key for key in weights if key.endswith(ends)]:
            del weights[key]

    return change


def add(weights: dict[str, Tensor]) -> None:
    weights["model.backbone.colour"] = torch.zeros(1)


def unshare(weights: dict[str, Tensor]) -> None:
    key = "model.backbone.layers.0.mixer.filter_fn.implicit_filter.3.freq"
    weights[key] = weights[key] + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("layers.1.mlp.fc1.weight"), ["1 keys are missing: hyena.backbone.layers.1.mlp.fc1.weight"]),
        (drop(".bias"), ["23 keys are missing", "and 13 more"]),
        (drop(".freq"), ["6 keys are missing", "implicit_filter.1.freq"]),
        (add, ["1 keys are unexpected: hyena.backbone.colour"]),
        (unshare, ["implicit_filter.3.freq differs"]),
    ],
    ids=["missing", "many missing", "no freq at all", "unexpected", "unshared freq"],
)
def test_keys_that_do_not_fit_are_listed(
    original: Path, change: Callable[[dict[str, Tensor]], None], words: list[str]
) -> None:
    rewrite(original, change)
    with pytest.raises(InputError) as error:
        HyenaDNAForCausalLM.from_pretrained(original)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_head_that_differs_cannot_be_tied(tmp_path: Path) -> None:
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=32)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="head differs from its embedding"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path, tie_word_embeddings=True)


@pytest.mark.parametrize("layout", ["hf", "orig"])
def test_a_name_on_the_hub_is_downloaded(shared: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    folder = shared / "fixtures" / "micro-L128" / layout
    asked = []

    def cached_file(name: str, file: str, **hub: Any) -> str:
        asked.append((name, file, hub))
        return str(folder / file)

    monkeypatch.setattr("hyenadna.model.checkpoint.cached_file", cached_file)
    loaded = HyenaDNAForCausalLM.from_pretrained("LongSafari/some-model", revision="v2", modulation_shift=0.0)
    assert loaded.config.modulation_shift == 0.0
    assert torch.equal(logits(loaded), logits(HyenaDNAForCausalLM.from_pretrained(folder, modulation_shift=0.0)))
    weights_file = "model.safetensors" if layout == "hf" else "weights.ckpt"
    assert asked == [("LongSafari/some-model", file, {"revision": "v2"}) for file in ("config.json", weights_file)]


def test_pickled_weights_of_the_hf_format(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("tied", [False, True])
def test_a_fine_tuned_model_is_no_language_model(tmp_path: Path, tied: bool) -> None:
    config = HyenaDNAConfig(d_model=16, max_seq_len=32, num_labels=2, tie_word_embeddings=tied)
    HyenaDNAForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match="is fine-tuned and has no language head; use the model that it was tuned from"
    ):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)


def test_the_folder_of_a_run_points_to_its_model(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "run" / "model")
    for name, hint in (("empty", ""), ("run", f"; did you mean {tmp_path / 'run' / 'model'}?")):
        with pytest.raises(InputError) as caught:
            HyenaDNAModel.from_pretrained(tmp_path / name)
        wanted = f"{tmp_path / name} holds no weights: expected model.safetensors or weights.ckpt in it{hint}"
        assert str(caught.value) == wanted


def test_missing_head_of_the_hf_format_is_listed(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    HyenaDNAModel(model.config).save_pretrained(tmp_path / "headless")
    with pytest.raises(InputError, match=r"1 keys are missing: lm_head\.weight"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path / "headless", tie_word_embeddings=False)


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_weights_of_another_size_are_named(tmp_path: Path, layout: Any) -> None:
    convert_from = tmp_path / "small"
    small = HyenaDNAForCausalLM(HyenaDNAConfig.named("tiny-1k", tie_word_embeddings=True))
    small.save_pretrained(convert_from)
    folder = convert(convert_from, tmp_path / "copy", to=layout)
    config = HyenaDNAConfig.named("tiny-1k-d256")
    content = config.to_original() if layout == "original" else config.to_dict()
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        HyenaDNAForCausalLM.from_pretrained(folder)
    for words in ("has shape (16, 128)", "asks for (16, 256)", "the weights have the size of tiny-1k"):
        assert words in str(error.value)


def test_another_max_seq_len_is_refused(original: Path) -> None:
    with pytest.raises(InputError, match="max_seq_len is 32 and cannot be 64"):
        HyenaDNAForCausalLM.from_pretrained(original, max_seq_len=64)
    # A configuration that lies about it does not fit the positions that the checkpoint stores.
    content = json.loads((original / "config.json").read_text())
    content["layer"]["l_max"] = 64
    (original / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"pos_emb\.t has shape \(1, 32, 1\)"):
        HyenaDNAForCausalLM.from_pretrained(original)


# Saved by transformers in other layouts


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("rows", "multiple"), [(20, None), (14, None), (20, 8), (16, None)])
def test_a_resized_vocabulary_saves_and_loads(tmp_path: Path, rows: int, multiple: int | None, tied: bool) -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=32, tie_word_embeddings=tied)).eval()
    model.resize_token_embeddings(rows, pad_to_multiple_of=multiple, mean_resizing=False)
    assert model.lm_head.weight.shape[0] == model.config.padded_vocab_size == (24 if multiple else rows)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(tmp_path)), logits(model))
    with pytest.raises(InputError, match=rf"id {rows + 10}: the embedding has"):
        model(torch.tensor([[rows + 10]]))


@pytest.fixture
def other(model: HyenaDNAForCausalLM) -> HyenaDNAForCausalLM:
    """A model of the same sizes with other weights."""
    torch.manual_seed(5)
    return HyenaDNAForCausalLM(model.config).eval()


@pytest.mark.parametrize("load", [HyenaDNAForCausalLM, AutoModelForCausalLM])
@pytest.mark.parametrize("first", ["whole", "shards"])
def test_old_weights_are_never_loaded(
    model: HyenaDNAForCausalLM, other: HyenaDNAForCausalLM, tmp_path: Path, first: str, load: Any
) -> None:
    whole: dict[str, Any] = {}
    parts = {"max_shard_size": "8KB"}
    other.save_pretrained(tmp_path, **(whole if first == "whole" else parts))
    (tmp_path / "notes.txt").write_text("mine")
    model.save_pretrained(tmp_path, **(parts if first == "whole" else whole))
    assert torch.equal(logits(load.from_pretrained(tmp_path)), logits(model))
    assert (tmp_path / "model.safetensors").exists() == (first == "shards")
    assert (tmp_path / "model.safetensors.index.json").exists() == (first == "whole")
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("load", [HyenaDNAForCausalLM, AutoModelForCausalLM])
@pytest.mark.parametrize("size", ["50GB", "8KB"])
def test_variants_and_subfolders(
    model: HyenaDNAForCausalLM, other: HyenaDNAForCausalLM, tmp_path: Path, size: str, load: Any
) -> None:
    other.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
    model.save_pretrained(tmp_path / "inner", max_shard_size=size)
    assert torch.equal(logits(load.from_pretrained(tmp_path, variant="fp16")), logits(model))
    assert torch.equal(logits(load.from_pretrained(tmp_path, subfolder="inner")), logits(model))
    assert torch.equal(logits(load.from_pretrained(tmp_path)), logits(other))
    with pytest.raises(InputError, match=r"holds no weights: expected model\.int8\.safetensors"):
        load.from_pretrained(tmp_path, variant="int8")


def test_two_sets_of_weights_are_refused(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    model.save_pretrained(tmp_path / "whole")
    shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="two sets of weights: remove the one that is out of date"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)


def test_shards_that_are_missing_or_badly_listed(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    shard = min(tmp_path.glob("model-*"))
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name} is missing: model\.safetensors\.index\.json names it"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)
    for text, message in (("[]", "expected a JSON object"), ("{}", "'weight_map'"), ("", "cannot be read as JSON")):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(InputError, match=message):
            HyenaDNAForCausalLM.from_pretrained(tmp_path)


def test_pickled_weights_if_asked(model: HyenaDNAForCausalLM, other: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    torch.save(other.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(tmp_path)), logits(model))
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(tmp_path, use_safetensors=False)), logits(other))


@pytest.mark.parametrize("use_cache", [False, True])
def test_arguments_of_causal_models(model: HyenaDNAForCausalLM, tmp_path: Path, use_cache: bool) -> None:
    model.save_pretrained(tmp_path)
    for load in (HyenaDNAForCausalLM, AutoModelForCausalLM):
        assert torch.equal(logits(load.from_pretrained(tmp_path, use_cache=use_cache)), logits(model))
    with pytest.raises(TypeError, match="colour"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path, colour="blue")
    with pytest.raises(RuntimeError, match=r"has shape \(16, 16\)") as error:
        HyenaDNAForCausalLM.from_pretrained(tmp_path, d_model=32)
    assert isinstance(error.value, InputError)
    with pytest.raises(InputError, match="gguf_file"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf")


# What wrappers leave in the names of weights


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
@pytest.mark.parametrize("layout", ["safetensors", "bin", "ckpt"])
def test_prefixes_of_wrappers_are_left_out(
    model: HyenaDNAForCausalLM, original: Path, tmp_path: Path, prefix: str, layout: str
) -> None:
    folder = original if layout == "ckpt" else tmp_path / "hf"
    if layout == "ckpt":
        weights = torch.load(folder / "weights.ckpt", weights_only=True)["state_dict"]
        torch.save({"state_dict": {prefix + key: weights[key] for key in weights}}, folder / "weights.ckpt")
    else:
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        renamed = {prefix + key: weights[key] for key in weights}
        if layout == "bin":
            torch.save(renamed, folder / "pytorch_model.bin")
        else:
            save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(folder)), logits(model))


def test_prefixes_inside_names(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    inner = {key.replace("layers.0.", "layers.0._orig_mod."): weights[key] for key in weights}
    save_file(inner, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(tmp_path)), logits(model))
    twice = weights | {"module.lm_head.weight": weights["lm_head.weight"].clone()}
    save_file(twice, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="holds some weights twice"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)


# What stands in the place of weights


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
            "is a pointer of Git LFS.*git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html>404</html>", "is a web page"),
        (b"", "not a readable|refused"),
        (None, "is a folder: expected a file of weights"),
    ],
    ids=["pointer", "web page", "empty", "folder"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.ckpt"])
def test_what_is_no_weights(
    model: HyenaDNAForCausalLM, original: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    folder = original if name == "weights.ckpt" else tmp_path / "hf"
    if folder != original:
        model.save_pretrained(folder)
        (folder / "model.safetensors").unlink()
    if content is None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        HyenaDNAForCausalLM.from_pretrained(folder)
    assert str(folder / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.int(), r"is torch\.int32: weights are floating-point numbers"),
        (lambda tensor: tensor / 0, "holds NaN or infinity"),
    ],
    ids=["integers", "not finite"],
)
def test_weights_that_are_no_numbers(model: HyenaDNAForCausalLM, tmp_path: Path, change: Any, words: str) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = change(weights["lm_head.weight"])
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"lm_head.weight {words}"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_layer": 3}, "n_layer is 3, and model.safetensors holds 2 layers"),
        ({"n_layer": 10_000}, "n_layer is 10000, and model.safetensors holds 2 layers"),
        ({"d_inner": 10_000_000}, r"fc1\.bias has shape \(64,\)"),
        ({"d_model": 1_000_000}, r"has shape \(16, 16\)"),
        ({"max_seq_len": 1 << 30}, r"pos_emb\.[tz] has shape \(1, 32,"),
        ({"emb_dim": 1_000_001}, "implicit_filter"),
        ({"hyena_order": 999}, r"has shape \(16,\)"),
    ],
)
def test_sizes_are_compared_before_memory_is_asked_for(
    model: HyenaDNAForCausalLM, tmp_path: Path, fields: dict[str, int], words: str
) -> None:
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps(content))
    started = time.perf_counter()
    with pytest.raises(InputError, match=words):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "expected a JSON object"),
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b'{"eos_token_id": 99}', "eos_token_id must be an id from 0 to 15, got 99"),
        (b'{"pad_token_id": "x"}', "pad_token_id must be an id"),
        (b'{"temperature": "x"}', "temperature must be a number above 0"),
        (b'{"num_beams": 0}', "num_beams must be a number above 0"),
    ],
)
def test_damaged_settings_of_generation(model: HyenaDNAForCausalLM, tmp_path: Path, content: bytes, words: str) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"generation_config\.json: {words}") as error:
        HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def damage(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "is missing"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "expected a JSON object"),
        ("weights.ckpt", None, "holds no weights"),
        ("weights.ckpt", b"", "refused"),
        ("weights.ckpt", b"PK\x03\x04 and then nothing", "refused"),
        ("weights.ckpt", b"not a pickle", "refused"),
    ],
)
def test_damaged_original_folders(original: Path, name: str, content: bytes | None, words: str) -> None:
    damage(original, name, content)
    with pytest.raises(InputError, match=words) as error:
        HyenaDNAForCausalLM.from_pretrained(original)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("keep", [0, 4, 2000])
def test_truncated_safetensors(model: HyenaDNAForCausalLM, tmp_path: Path, keep: int, form: str) -> None:
    model.save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        HyenaDNAForCausalLM.from_pretrained(file if form == "file" else file.parent)


def test_a_path_that_does_not_exist_is_no_name_on_the_hub(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", "nothing", tmp_path / "weights.ckpt", "./a/b"):
        with pytest.raises(InputError, match="no such file or folder"):
            HyenaDNAForCausalLM.from_pretrained(path)


@pytest.mark.parametrize("fixture", ["micro-L128", "tiny-1k-L1024"])
def test_round_trip_of_the_published_formats(shared: Path, tmp_path: Path, fixture: str) -> None:
    folder = shared / "fixtures" / fixture
    as_hf = convert(folder / "orig", tmp_path / "hf")
    written, published = load_file(as_hf / "model.safetensors"), load_file(folder / "hf" / "model.safetensors")
    assert written.keys() == published.keys()
    assert all(torch.equal(written[key], published[key]) for key in published)
    config, reference = (json.loads((path / "config.json").read_text()) for path in (as_hf, folder / "hf"))
    assert config.pop("modulation_shift") == 0.05
    for key in reference.keys() - {"auto_map", "torch_dtype", "transformers_version"}:
        assert config[key] == reference[key], key

    back, _ = load_original(convert(as_hf, tmp_path / "orig", to="original"))
    weights, _ = load_original(folder / "orig")
    expected = {
        key.replace("mixer.layer.", "mixer.").replace("mlp.layer.", "mlp."): tensor
        for key, tensor in weights.items()
        if "torchmetrics" not in key
    }
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[key], expected[key]) for key in expected)


def test_convert_carries_the_shift(original: Path, tmp_path: Path) -> None:
    as_hf = convert(original, tmp_path / "hf", modulation_shift=0.0)
    assert json.loads((as_hf / "config.json").read_text())["modulation_shift"] == 0.0
    back = convert(as_hf, tmp_path / "back", to="original")
    assert HyenaDNAForCausalLM.from_pretrained(back).config.modulation_shift == 0.0


def test_convert_refuses_what_it_cannot_do(model: HyenaDNAForCausalLM, original: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists: choose a folder"):
        convert(original, original)
    with pytest.raises(InputError, match="no format 'onnx'"):
        convert(original, tmp_path / "out", to="onnx")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no such file or folder"):
        convert("a/b", tmp_path / "out")
    untied = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=32))
    untied.save_pretrained(tmp_path / "untied")
    with pytest.raises(
        InputError, match=r"head differs from its embedding.*--model_fields '{\"tie_word_embeddings\": true}'"
    ):
        convert(tmp_path / "untied", tmp_path / "out", to="original")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["hf", "original"])
def test_a_full_disk_leaves_nothing_behind(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="No space left on device"):
        convert(original, tmp_path / "out", to=to)
    assert sorted(tmp_path.iterdir()) == before


def test_failed_save_keeps_the_checkpoint_that_was_there(
    model: HyenaDNAForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    model.save_pretrained(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    model.lm_head.weight.data += 1
    with pytest.raises(InputError, match="No space left on device"):
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load_is_bit_identical(tmp_path: Path, tied: bool) -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=32, tie_word_embeddings=tied)).eval()
    model.save_pretrained(tmp_path / "a")
    loaded = HyenaDNAForCausalLM.from_pretrained(tmp_path / "a")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    assert "lm_head.weight" in load_file(tmp_path / "a" / "model.safetensors")
    loaded.save_pretrained(tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_weights_file_without_the_folder_around_it(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "hf")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(tmp_path / "hf" / "model.safetensors", moved / "best.safetensors")
    with pytest.raises(InputError, match=r"config\.json is missing"):
        HyenaDNAForCausalLM.from_pretrained(moved / "best.safetensors")
    shutil.copy(tmp_path / "hf" / "config.json", moved)
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(moved / "best.safetensors")), logits(model))


def test_unexpected_keys_of_the_hf_format_are_listed(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"hyena.backbone.colour": torch.zeros(1)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 keys are unexpected: hyena\.backbone\.colour"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["pickled", "shards"])
def test_other_weights_of_a_name_on_the_hub(
    model: HyenaDNAForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model.save_pretrained(tmp_path, **({"max_shard_size": "4KB"} if kind == "shards" else {}))
    if kind == "pickled":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    fetched: set[str] = set()

    def cached_file(name: str, file: str, **hub: Any) -> str:
        if not (tmp_path / file).is_file():
            raise OSError(f"{name} has no {file}")
        fetched.add(file)
        return str(tmp_path / file)

    monkeypatch.setattr("hyenadna.model.checkpoint.cached_file", cached_file)
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained("LongSafari/some-model")), logits(model))
    assert fetched == {path.name for path in tmp_path.iterdir()} - {"generation_config.json"}
    for path in tmp_path.iterdir():
        if path.name != "config.json":
            path.unlink()
    with pytest.raises(OSError, match=r"has no model\.safetensors"):
        HyenaDNAForCausalLM.from_pretrained("LongSafari/some-model")


def test_weights_may_be_given_in_memory(model: HyenaDNAForCausalLM) -> None:
    loaded = HyenaDNAForCausalLM.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(logits(loaded.eval()), logits(model))


def test_a_configuration_that_does_not_fit_names_its_place(model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="config must be a HyenaDNAConfig, got dict"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path, config={"d_model": 16})
    content = json.loads((tmp_path / "config.json").read_text()) | {"pooling": "max"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"^" + re.escape(str(tmp_path)) + r".*: config: pooling must be"):
        HyenaDNAConfig.from_pretrained(tmp_path)
    for text in ("[]", "[1]", '"x"', "3", "null"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match="expected a JSON object"):
            HyenaDNAConfig.from_pretrained(tmp_path)
