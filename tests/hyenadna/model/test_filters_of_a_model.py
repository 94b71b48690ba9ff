"""The filters of a whole model: in 16 bits, under ``functional_call`` and after loading."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM


@pytest.mark.parametrize("way", ["bfloat16", "to", "from_config", "assign"])
def test_filters_of_a_model_cast_to_16_bits_stay_in_float32(way: str) -> None:
    config = HyenaDNAConfig(d_model=16, n_layer=2, max_seq_len=64, embed_dropout=0.0)
    model = HyenaDNAForCausalLM(config).eval()
    ids = torch.randint(7, 11, (2, 50))
    expected = model(ids).logits
    kernels = [layer.mixer.filter_fn.kernel(50) for layer in model.hyena.backbone.layers]
    if way == "bfloat16":
        narrow = copy.deepcopy(model).bfloat16()
    elif way == "to":
        narrow = copy.deepcopy(model).to(torch.bfloat16)
    else:
        narrow = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        weights = model.state_dict()
        if way == "assign":
            weights = {name: x if "filter_fn" in name else x.bfloat16() for name, x in weights.items()}
        narrow.load_state_dict(weights, assign=way == "assign")
    for name, tensor in narrow.state_dict().items():
        assert tensor.dtype == (torch.float32 if "filter_fn" in name else torch.bfloat16), name
    for layer, kernel in zip(narrow.hyena.backbone.layers, kernels, strict=True):
        assert torch.equal(layer.mixer.filter_fn.kernel(50), kernel)
    error = torch.linalg.vector_norm(narrow(ids).logits.float() - expected) / torch.linalg.vector_norm(expected)
    assert error <= 8 * torch.finfo(torch.bfloat16).eps


def test_functional_call_leaves_the_model_as_it_is() -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, n_layer=2, max_seq_len=64)).eval()
    ids = torch.randint(7, 11, (2, 50))
    before = model(ids).logits
    torch.func.functional_call(model, {name: 2 * x for name, x in model.named_parameters()}, (ids,))
    assert torch.equal(model(ids).logits, before)


def test_sines_share_one_frequency_after_loading(tmp_path: Path) -> None:
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, n_layer=2, max_seq_len=64)).save_pretrained(tmp_path)
    for layer in HyenaDNAForCausalLM.from_pretrained(tmp_path).hyena.backbone.layers:
        first, second, third = (sine.freq for sine in layer.mixer.filter_fn.implicit_filter[1::2])
        assert first is second is third


def test_filters_that_come_in_16_bits_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, n_layer=2, max_seq_len=64))
    model.save_pretrained(tmp_path / "wide")
    HyenaDNAForCausalLM.from_pretrained(tmp_path / "wide", dtype=torch.bfloat16)
    assert "16 bits" not in caplog.text
    half = {name: x.bfloat16() for name, x in model.state_dict().items()}
    model.save_pretrained(tmp_path / "half", state_dict=dict(half))
    with caplog.at_level(logging.WARNING):
        HyenaDNAForCausalLM.from_pretrained(tmp_path / "half")
    assert "model.safetensors: holds filters in 16 bits" in caplog.text
    with pytest.warns(UserWarning, match="have 16 bits, which distort the filters"):
        model.load_state_dict(half)
