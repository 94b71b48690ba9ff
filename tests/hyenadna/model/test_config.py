from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, InputError
from hyenadna.model.sizes import PUBLISHED_NAMES, PUBLISHED_SIZES

# Name of LongSafari/hyenadna-*: width, layers, l_max, parameters with the head tied to the embedding.
PUBLISHED = {
    "tiny-1k-seqlen": (128, 2, 1026, 436_096),
    "tiny-1k-seqlen-d256": (256, 2, 1026, 1_641_088),
    "tiny-16k-seqlen-d128": (128, 2, 16386, 436_096),
    "small-32k-seqlen": (256, 4, 32770, 3_277_568),
    "medium-160k-seqlen": (256, 8, 160002, 6_550_528),
    "medium-450k-seqlen": (256, 8, 450002, 6_550_528),
    "large-1m-seqlen": (256, 8, 1000002, 6_550_528),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_the_published_ones(name: str) -> None:
    width, layers, length, parameters = PUBLISHED[name]
    config = HyenaDNAConfig.named(name)
    assert (config.d_model, config.n_layer, config.max_seq_len, config.d_inner) == (width, layers, length, 4 * width)
    assert config.modulation_shift == 0.05
    with torch.device("meta"):
        model = HyenaDNAForCausalLM(config)
    tied = sum(p.numel() for p in model.parameters()) - model.lm_head.weight.numel()
    assert tied == parameters
    for alias in (PUBLISHED_NAMES[name], f"LongSafari/hyenadna-{name}-hf", f"hyenadna-{name}"):
        assert HyenaDNAConfig.named(alias).to_dict() == config.to_dict()


def test_named_takes_overrides_and_knows_no_other_name() -> None:
    assert HyenaDNAConfig.named("tiny-1k", max_seq_len=514, modulation_shift=0.0).modulation_shift == 0.0
    with pytest.raises(InputError) as error:
        HyenaDNAConfig.named("huge")
    assert all(name in str(error.value) for name in PUBLISHED_SIZES)


def test_vocabulary_is_12_tokens_in_16_rows() -> None:
    config = HyenaDNAConfig()
    assert (config.vocab_size, config.padded_vocab_size) == (12, 16)
    assert HyenaDNAConfig(vocab_size=16).padded_vocab_size == 16


@pytest.mark.parametrize("fixture", ["micro-L128", "tiny-1k-L1024"])
def test_both_published_layouts_give_the_same_fields(shared: Path, fixture: str) -> None:
    folder = shared / "fixtures" / fixture
    hf = HyenaDNAConfig.from_pretrained(folder / "hf")
    original = HyenaDNAConfig.from_original(json.loads((folder / "orig" / "config.json").read_text()))
    published = json.loads((folder / "hf" / "config.json").read_text())
    for key, value in published.items():
        if key not in ("architectures", "auto_map", "torch_dtype", "transformers_version"):
            assert getattr(hf, key) == getattr(original, key) == value, key


def test_original_layout_round_trip_keeps_the_shift() -> None:
    config = HyenaDNAConfig(d_model=16, max_seq_len=130, modulation_shift=0.0, num_inner_mlps=3, activation_freq=7)
    again = HyenaDNAConfig.from_original(json.loads(json.dumps(config.to_original())))
    assert again.to_dict() == config.to_dict()
    without_shift = config.to_original()
    del without_shift["layer"]["shift"]
    assert HyenaDNAConfig.from_original(without_shift).modulation_shift == 0.05


def test_unknown_original_keys_are_named_in_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    original = HyenaDNAConfig().to_original() | {"colour": "blue"}
    original["layer"] |= {"taste": "sweet", "local_order": 3}
    with caplog.at_level(logging.WARNING, logger="hyenadna"):
        HyenaDNAConfig.from_original(original)
    (record,) = caplog.records
    assert record.getMessage().endswith(": colour, layer.taste")


def test_unknown_hf_keys_are_named_in_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hyenadna"):
        HyenaDNAConfig(colour="blue", architectures=["X"], torch_dtype="float32", num_labels=3, auto_map={})
    (record,) = caplog.records
    assert record.getMessage().endswith(": colour")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"attn_layer_idx": [0]}, "attn_layer_idx"),
        ({"resid_dropout": 0.1}, "resid_dropout"),
        ({"layer": {"l_max": 64, "bidirectional": True}}, "layer.bidirectional"),
        ({"layer": {"l_max": 64, "_name_": "attention"}}, "layer._name_"),
        ({"layer": {"order": 2}}, "l_max"),
    ],
)
def test_another_architecture_is_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        HyenaDNAConfig.from_original(HyenaDNAConfig().to_original() | change)


WRONG: list[tuple[str, Any]] = [
    ("d_model", 0),
    ("d_model", 100_000_000),
    ("d_model", 1e8),
    ("n_layer", 1.5),
    ("n_layer", True),
    ("n_layer", 1_000_000_000),
    ("d_inner", -1),
    ("max_seq_len", "64"),
    ("max_seq_len", 10**12),
    ("vocab_size", None),
    ("pad_vocab_size_multiple", 0),
    ("emb_dim", 4),
    ("hyena_order", 1),
    ("filter_order", [64]),
    ("short_filter_order", 2.5),
    ("num_inner_mlps", -1),
    ("activation_freq", None),
    ("activation_freq", math.inf),
    ("modulation_shift", math.nan),
    ("layer_norm_epsilon", "x"),
    ("layer_norm_epsilon", 0.0),
    ("initializer_range", -5),
    ("embed_dropout", 1.5),
    ("hyena_dropout", math.nan),
    ("hyena_filter_dropout", -0.1),
    ("train_freq", 1),
    ("use_bias", "no"),
    ("tie_word_embeddings", None),
    ("pooling", "max"),
    ("pooling", 3),
    ("pad_token_id", 99),
    ("pad_token_id", None),
    ("bos_token_id", -1),
    ("eos_token_id", [1, 16]),
    ("num_labels", -1),
    ("num_labels", "3"),
    ("id2label", {}),
    ("id2label", ["a", "b"]),
    ("id2label", {0: "a", 2: "b"}),
    ("problem_type", "guess"),
    ("dtype", "float99"),
    ("dtype", "int8"),
    ("return_dict", "yes"),
    ("output_hidden_states", 1),
    ("is_encoder_decoder", True),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name} {value}" for name, value in WRONG])
def test_impossible_values_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^config: {name} ") as error:
        HyenaDNAConfig(**{name: value})
    assert "\n" not in str(error.value)
    # From a file, the error names it, and nothing is made first: neither layers nor weights.
    if name == "dtype" or not isinstance(value, float) or math.isfinite(value):
        HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16)).save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text()) | {name: value}
        (tmp_path / "config.json").write_text(json.dumps(content))
        if name == "id2label" and isinstance(value, dict) and not value:
            return
        with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'config.json'}: {name} ")):
            HyenaDNAForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("d_model", 1e8), ("layer_norm_epsilon", "x"), ("layer.w", None), ("layer.l_max", 10**12), ("layer.order", 1)],
)
def test_the_key_of_the_original_is_named(key: str, value: Any) -> None:
    original = HyenaDNAConfig().to_original()
    place = original["layer"] if "." in key else original
    place[key.removeprefix("layer.")] = value
    with pytest.raises(InputError, match=rf"^config\.json: {re.escape(key)} must be"):
        HyenaDNAConfig.from_original(original)


def test_overrides_are_checked_as_fields_are() -> None:
    content = HyenaDNAConfig().to_dict()
    with pytest.raises(InputError, match="config: n_layer must be an integer"):
        HyenaDNAConfig.from_dict(content, n_layer=0)
    with pytest.raises(InputError, match="config: d_model must be an integer"):
        HyenaDNAConfig.from_dict(content, hidden_size="wide")
    with pytest.raises(InputError, match="model_type is 'bert'"):
        HyenaDNAConfig.from_dict(content | {"model_type": "bert"})
    with pytest.raises(InputError, match="num_labels is 3, and id2label has 1 names"):
        HyenaDNAConfig(num_labels=3, id2label={0: "a"})


def test_fields_that_transformers_asks_for() -> None:
    config = HyenaDNAConfig()
    assert (config.bos_token_id, config.eos_token_id, config.use_cache) == (None, None, False)
    assert HyenaDNAConfig(eos_token_id=1, bos_token_id=2).eos_token_id == 1
    again = HyenaDNAConfig.from_dict(HyenaDNAConfig(num_labels=3).to_dict(), num_labels=2)
    assert again.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_unknown_keys_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16)).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | {"flavour": "lemon"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, logger="hyenadna"):
        for load in (HyenaDNAForCausalLM, AutoModelForCausalLM):
            load.from_pretrained(tmp_path)
    assert caplog.messages == ["config keys without effect here: flavour"]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_missing_transformers_names_the_extra() -> None:
    done = run("import sys; sys.modules['transformers'] = None; import hyenadna")
    assert done.returncode != 0
    assert "ImportError: hyenadna needs transformers" in done.stderr
    assert "pip install '.[dna]' in a checkout" in done.stderr


def test_command_line_imports_no_torch_before_a_verb_needs_it() -> None:
    done = run(
        "import sys, hyenadna_command, hyenadna, hyenadna.common.vocab\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules], hyenadna.InputError)"
    )
    assert done.stdout.startswith("[] <class 'hyenadna.common.errors.InputError'>"), done.stderr


def test_several_keys_without_effect_are_named_in_order(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hyenadna"):
        HyenaDNAConfig(zebra=1, apple=2)
    assert caplog.messages == ["config keys without effect here: apple, zebra"]
