"""Folders of peft, loaded like models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from hyenadna import (
    DNATokenizer,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    InputError,
)
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.model.convert import convert
from hyenadna.pretraining.config import PretrainConfig

IDS = torch.tensor([[7, 8, 9, 10, 11, 7], [10, 10, 9, 8, 7, 7]])
KINDS: dict[str, tuple[Any, Any]] = {
    "CAUSAL_LM": (HyenaDNAForCausalLM, AutoModelForCausalLM),
    "SEQ_CLS": (HyenaDNAForSequenceClassification, AutoModelForSequenceClassification),
    "TOKEN_CLS": (HyenaDNAForTokenClassification, AutoModelForTokenClassification),
}
LAYERS = ["in_proj", "fc1"]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture
def adapted(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Path, Any, Path]]:
    """Saves an adapter whose weights are not those of its start: its folder, peft's model, and the base's folder."""

    def make(task: str, config: Any = None, **fields: Any) -> tuple[Path, Any, Path]:
        kind = KINDS[task][0]
        base = tiny_checkpoint(kind, noise=0.1, **fields)
        DNATokenizer(add_sep_token=False).save_pretrained(base)
        config = config or LoraConfig(task_type=task, target_modules=LAYERS, r=2)
        model = get_peft_model(kind.from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", model, base

    return make


@pytest.mark.parametrize("task", KINDS)
def test_an_adapter_is_applied_by_every_way_to_load_it(adapted: Any, task: str) -> None:
    folder, model, base = adapted(task)
    kind, auto = KINDS[task]
    expected = logits(model)
    assert (expected - logits(kind.from_pretrained(base))).abs().max() > 0.01
    for load in (kind, auto):
        loaded = load.from_pretrained(folder)
        assert type(loaded) is kind
        assert torch.equal(logits(loaded), expected)


def test_pipelines_and_the_backbone_apply_it(adapted: Any) -> None:
    folder, model, _ = adapted("CAUSAL_LM")
    assert torch.equal(logits(pipeline("text-generation", model=str(folder), device="cpu").model), logits(model))
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(IDS).last_hidden_state
        assert torch.equal(hidden, model.base_model.model.hyena(IDS).last_hidden_state)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", target_modules=LAYERS, modules_to_save=["lm_head"]),
        LoraConfig(task_type="CAUSAL_LM", target_modules=LAYERS, trainable_token_indices=[7, 8]),
        IA3Config(task_type="CAUSAL_LM", target_modules=["in_proj", "fc2"], feedforward_modules=["fc2"]),
    ],
    ids=["head", "tokens", "IA3"],
)
def test_other_adapters(adapted: Any, config: Any) -> None:
    folder, model, base = adapted("CAUSAL_LM", config)
    assert torch.equal(logits(HyenaDNAForCausalLM.from_pretrained(folder)), logits(model))
    assert (logits(model) - logits(HyenaDNAForCausalLM.from_pretrained(base))).abs().max() > 0.01


def test_a_head_that_only_the_adapter_has(adapted: Any, tiny_checkpoint: Any, tmp_path: Path) -> None:
    base = HyenaDNAForSequenceClassification.from_pretrained(tiny_checkpoint(noise=0.1), num_labels=3)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=LAYERS, init_lora_weights=False))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(InputError, match="cannot be applied"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_beside_its_base_in_one_folder(adapted: Any, tied: bool) -> None:
    _, model, base = adapted("CAUSAL_LM", tie_word_embeddings=tied)
    model.save_pretrained(base)
    for load in (HyenaDNAForCausalLM, AutoModelForCausalLM):
        assert torch.equal(logits(load.from_pretrained(base)), logits(model))


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_soft_prompts_are_refused_with_advice(adapted: Any, kind: Any) -> None:
    folder, _, _ = adapted("CAUSAL_LM", kind(task_type="CAUSAL_LM", num_virtual_tokens=4))
    for load in (HyenaDNAForCausalLM, AutoModelForCausalLM):
        with pytest.raises(InputError, match=r"is P\w+_TUNING, .*peft\.PeftModel\.from_pretrained"):
            load.from_pretrained(folder)


def test_what_trains_or_converts_refuses_adapters(adapted: Any, tiny_genome: Path, tmp_path: Path) -> None:
    folder, model, base = adapted("CAUSAL_LM")
    for place in (folder, base):
        # An adapter may lie beside its base too.
        (base / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
        with pytest.raises(InputError, match=r"is an adapter of peft; merge it .*merge_and_unload"):
            convert(place, tmp_path / "converted")
        with pytest.raises(InputError, match=r"is an adapter of peft; merge it"):
            PretrainConfig(genome=tiny_genome, out=tmp_path / "run", init_from=place).check()
        with pytest.raises(InputError, match=r"is an adapter of peft; merge it"):
            FinetuneConfig(data=base, out=tmp_path / "run", model=place).check()
    assert not (tmp_path / "converted").exists()
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = HyenaDNAForCausalLM.from_pretrained(convert(tmp_path / "merged", tmp_path / "converted"))
    torch.testing.assert_close(logits(merged), logits(HyenaDNAForCausalLM.from_pretrained(folder)), rtol=0, atol=1e-5)


def test_without_peft_the_error_names_the_extra(adapted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = adapted("CAUSAL_LM")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"needs peft .*\[dna,peft\]"):
        HyenaDNAForCausalLM.from_pretrained(folder)


def drop_one(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[min(weights)]
    save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_one, "1 keys are missing"),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"version https://git"),
            "cannot be applied",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be applied"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read as JSON|not a readable"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "expected a JSON object|not a readable"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "names no base_model"),
        (lambda folder: rename_base(folder), "no such file or folder"),
    ],
    ids=["key", "pointer", "no weights", "no JSON", "list", "no base", "base moved"],
)
def test_damaged_adapters(adapted: Any, damage: Any, message: str) -> None:
    folder, _, _ = adapted("CAUSAL_LM")
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        HyenaDNAForCausalLM.from_pretrained(folder)
    assert "\n" not in str(error.value)


def rename_base(folder: Path) -> None:
    content = json.loads((folder / "adapter_config.json").read_text())
    content["base_model_name_or_path"] += "-moved"
    (folder / "adapter_config.json").write_text(json.dumps(content))


def test_a_head_of_the_adapter_is_not_called_new(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny_checkpoint(noise=0.1)
    model = HyenaDNAForSequenceClassification.from_pretrained(base)
    assert "new weights, to be trained before use: score.bias, score.weight" in caplog.text
    config = LoraConfig(task_type="SEQ_CLS", target_modules=LAYERS, r=2)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(tmp_path)
    caplog.clear()
    loaded = HyenaDNAForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(adapted))
    assert "new weights" not in caplog.text
