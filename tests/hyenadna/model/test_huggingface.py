"""What users of transformers and peft do, with a model of this package in the place of theirs."""

from __future__ import annotations

import csv
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hyenadna import (
    DNATokenizer,
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
)
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.finetuning.train import finetune
from hyenadna.inference.predict import PredictConfig, predict
from hyenadna.inference.score import ScoreConfig, score
from hyenadna.model.convert import convert
from hyenadna.pretraining.train import PretrainConfig, pretrain

CLASSES = {
    "CAUSAL_LM": HyenaDNAForCausalLM,
    "SEQ_CLS": HyenaDNAForSequenceClassification,
    "TOKEN_CLS": HyenaDNAForTokenClassification,
}


def small(**fields: Any) -> HyenaDNAConfig:
    return HyenaDNAConfig(**{"d_model": 16, "max_seq_len": 64, "embed_dropout": 0.0, **fields})


def batch(task: str, length: int = 20) -> dict[str, Tensor]:
    ids = torch.randint(7, 11, (2, length))
    labels = {"CAUSAL_LM": ids, "SEQ_CLS": torch.tensor([0, 1]), "TOKEN_CLS": ids % 2}[task]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


SEQUENCES = ["ACGT", "GATTACA", "TTTTT", "CCCCCCCC"]


def arguments(folder: Path, **fields: Any) -> TrainingArguments:
    quiet = {"report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    steps = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    return TrainingArguments(str(folder), **quiet | steps | fields)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 3}, [0, 2, 1, 0]),
        (
            {"num_labels": 2, "problem_type": "multi_label_classification"},
            [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]],
        ),
        ({"num_labels": 1, "problem_type": "regression"}, [0.5, -1.0, 2.0, 0.0]),
    ],
    ids=["classes", "several labels", "regression"],
)
def test_trainer_takes_a_step(tmp_path: Path, fields: dict[str, Any], labels: list[Any], checkpointing: bool) -> None:
    tokenizer = DNATokenizer()
    data = [{**tokenizer(text), "labels": label} for text, label in zip(SEQUENCES, labels, strict=True)]
    model = HyenaDNAForSequenceClassification(small(**fields))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    options = {"gradient_checkpointing": checkpointing, "gradient_accumulation_steps": 2}
    trainer = Trainer(
        model, arguments(tmp_path, **options), train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer)
    )
    assert trainer.train().training_loss > 0
    changed = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(changed) == len(before)
    assert trainer.evaluate(data)["eval_loss"] > 0
    assert trainer.predict(data).predictions.shape == (4, fields["num_labels"])
    trainer.save_model(str(tmp_path / "saved"))
    loaded = HyenaDNAForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert loaded.config.problem_type == (fields.get("problem_type") or "single_label_classification")


def test_trainer_takes_a_step_on_tokens(tmp_path: Path) -> None:
    tokenizer = DNATokenizer()
    data = [{**(coded := tokenizer(text)), "labels": [i % 2 for i in coded["input_ids"]]} for text in SEQUENCES]
    model = HyenaDNAForTokenClassification(small(num_labels=2))
    trainer = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=data,
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    assert trainer.train().training_loss > 0


@pytest.mark.slow
def test_trainer_takes_a_language_model_and_counts_tokens_over_accumulated_batches(tmp_path: Path) -> None:
    """One step on four sequences of unequal lengths is the same in one batch and in two."""
    tokenizer = DNATokenizer()
    data = [tokenizer(text) for text in SEQUENCES]
    trained = []
    for size in (4, 2):
        torch.manual_seed(0)
        model = HyenaDNAForCausalLM(small()).double()
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        settings: dict[str, Any] = {
            "max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1.0,
            "per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size,
        }  # fmt: skip
        trainer = Trainer(
            model,
            arguments(tmp_path, **settings),
            train_dataset=data,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        assert trainer.train().training_loss > 0
        steps = {name: parameter - before[name] for name, parameter in model.named_parameters()}
        assert all(step.abs().max() > 0 for step in steps.values())
        trained.append(steps)
    for name, whole in trained[0].items():
        torch.testing.assert_close(trained[1][name], whole, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("how", ["smoothing", "function", "plain"])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_loss_of_the_trainer_is_that_of_the_next_base(tmp_path: Path, how: str, adapted: bool) -> None:
    """One step, on four sequences in two accumulated batches, equals the loss computed by hand."""
    tokenizer = DNATokenizer()
    data = [tokenizer(text) for text in SEQUENCES]
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(small()).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    epsilon = 0.3 if how == "smoothing" else 0.0
    terms = []
    for row in data:
        ids = torch.tensor(row.input_ids)
        nats = -model(ids[None]).logits[0, :-1].log_softmax(-1)
        likeliest = nats.gather(1, ids[1:, None])[:, 0]
        terms.append((1 - epsilon) * likeliest + epsilon * nats.mean(-1))
    by_hand = torch.cat(terms).mean().item()

    def summed(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        """What users write for compute_loss_func: labels are not shifted yet."""
        return (
            torch.nn.functional.cross_entropy(
                outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            )
            / num_items_in_batch
        )

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["in_proj"], r=2)
    steps = {"max_steps": 1, "gradient_accumulation_steps": 2, "label_smoothing_factor": epsilon}
    trainer = Trainer(
        get_peft_model(model, config) if adapted else model,
        arguments(tmp_path, **steps),
        train_dataset=data,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        compute_loss_func=summed if how == "function" else None,
    )
    assert trainer.train().training_loss == pytest.approx(by_hand, rel=1e-6)


TEXTS = ["ACGT", "GATTACAGG", "TT", "CCCGTA", "A"]


@pytest.mark.parametrize("add_cls_token", [False, True])
def test_the_pipeline_continues_bare_prompts(caplog: pytest.LogCaptureFixture, add_cls_token: bool) -> None:
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(small()).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    model.lm_head.weight.data[[*range(7), *range(11, 16)]] = 0
    tokenizer = DNATokenizer(add_cls_token=add_cls_token)
    settings = {"max_new_tokens": 6, "do_sample": False}

    def continued(text: str) -> str:
        ids = tokenizer(text).input_ids[:-1]
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return tokenizer.decode(ids[-6:], skip_special_tokens=True)

    expected = [continued(text) for text in TEXTS]
    assert len(set(expected)) > 2
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert "not supported" not in caplog.text
    for more in ({}, {"batch_size": 4}):
        new = [one[0]["generated_text"] for one in pipe(TEXTS, return_full_text=False, **settings, **more)]
        assert new == expected
        full = [one[0]["generated_text"] for one in pipe(TEXTS, **settings, **more)]
        assert full == [text + more for text, more in zip(TEXTS, expected, strict=True)]
    assert [pipe(text, return_full_text=False, **settings)[0]["generated_text"] for text in TEXTS] == expected


@pytest.mark.slow
def test_a_resumed_trainer_misses_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = DNATokenizer()
    data = [{**tokenizer(text), "labels": i % 3} for i, text in enumerate(SEQUENCES)]

    def trainer(steps: int) -> Trainer:
        options = {"save_strategy": "steps", "save_steps": 1, "max_steps": steps}
        model = HyenaDNAForSequenceClassification(small(num_labels=3))
        return Trainer(
            model, arguments(tmp_path, **options), train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer)
        )

    trainer(1).train()
    transformers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        resumed = trainer(2)
        resumed.train(resume_from_checkpoint=True)
    transformers.utils.logging.disable_propagation()
    assert [message for message in caplog.messages if "missing keys" in message] == []
    filters = resumed.model.hyena.backbone.layers[0].mixer.filter_fn
    assert torch.equal(filters.implicit_filter[1].freq, filters.implicit_filter[3].freq)


def test_files_that_hold_shared_frequencies_once_load_strictly(tmp_path: Path) -> None:
    model = HyenaDNAForCausalLM(small())
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    other = HyenaDNAForCausalLM(small())
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    ids = torch.randint(7, 11, (2, 20))
    assert torch.equal(other.eval()(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("task", CLASSES)
def test_lora_reaches_every_linear_and_comes_back_from_disk(tmp_path: Path, task: str) -> None:
    base = CLASSES[task](small(num_labels=2)).double()
    base.save_pretrained(tmp_path / "base")
    inputs = batch(task)
    before = base.eval()(**inputs).logits.detach()
    # peft keeps the head out of "all-linear" by itself for whole sequences alone.
    config = LoraConfig(task_type=task, target_modules="all-linear", exclude_modules=["score"], r=2)
    model = get_peft_model(base, config).double()
    # Rounding may differ: a filter whose linears are adapted is computed layer by layer, not by the fused op.
    assert (model(**inputs).logits - before).abs().max() < 1e-12

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    model(**inputs).loss.backward()
    ups = {name: p.grad for name, p in model.named_parameters() if "lora_B" in name}
    assert sum("filter_fn" in name for name in ups) == 2 * 4
    assert all(grad is not None and grad.any() for grad in ups.values())
    optimizer.step()

    model.eval()
    with torch.no_grad():
        adapted = model(**inputs).logits
        assert (adapted - before).abs().max() > 1e-6
        with model.disable_adapter():
            assert (model(**inputs).logits - before).abs().max() < 1e-12
        assert torch.equal(model(**inputs).logits, adapted)
        model.save_pretrained(tmp_path / "adapter")
        again = CLASSES[task].from_pretrained(tmp_path / "base", dtype=torch.float64)
        again(**inputs)  # fills the cache of the filters, which must not outlive the merge
        loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").double().eval()
        assert (loaded(**inputs).logits - adapted).abs().max() < 1e-12
        merged = loaded.merge_and_unload()
        assert type(merged) is CLASSES[task]
        assert type(merged.hyena.backbone.layers[0].mixer.in_proj) is nn.Linear
        assert (merged(**inputs).logits - adapted).abs().max() < 1e-12


@pytest.mark.parametrize("task", CLASSES)
def test_prompt_tuning_trains_the_prompt_alone(tmp_path: Path, task: str) -> None:
    model = get_peft_model(
        CLASSES[task](small(num_labels=2)), PromptTuningConfig(task_type=task, num_virtual_tokens=5)
    ).train()
    inputs = batch(task)
    if task == "TOKEN_CLS":
        # peft leaves the labels of tokens to the caller, the prompt's included.
        inputs["labels"] = torch.nn.functional.pad(inputs["labels"], (5, 0), value=-100)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "prompt" in name}
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = {name: p.clone() for name, p in model.named_parameters() if name in trained}
    model(**inputs).loss.backward()
    optimizer.step()
    assert trained == {"prompt_encoder.default.embedding.weight"}
    now = dict(model.named_parameters())
    assert all(not torch.equal(now[name], old) for name, old in before.items())
    assert all(torch.equal(now[name], old) for name, old in frozen.items())
    if task == "CAUSAL_LM":
        assert model.eval().generate(input_ids=inputs["input_ids"], max_new_tokens=3, do_sample=False).shape == (2, 23)


@pytest.mark.slow
def test_tokenizer_loads_where_this_package_is_not_installed(tmp_path: Path) -> None:
    DNATokenizer(model_max_length=64).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    script = (
        "import sys; sys.path = [p for p in sys.path if p]; sys.modules['hyenadna'] = None\n"
        "from tokenizers import Tokenizer\n"
        "from transformers import AutoTokenizer\n"
        f"print(Tokenizer.from_file({str(tmp_path / 'tokenizer.json')!r}).encode('acgtnRU').ids)\n"
        f"print(AutoTokenizer.from_pretrained({str(tmp_path)!r})('acgtnRU').input_ids)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == 2 * [str(DNATokenizer()("acgtnRU").input_ids)], done.stderr


def test_the_tokenizer_of_a_pretrained_model_gives_the_numbers_of_score(
    tiny_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    run = pretrain(tiny_config(tmp_path / "run", steps=3), progress=False)
    (tmp_path / "s.fa").write_text(">eight\nACGTTGCA\n")
    config = ScoreConfig(model=run.model, out=tmp_path / "s.tsv", fasta=tmp_path / "s.fa", device="cpu")
    score(config, progress=False)
    [row] = csv.DictReader(config.out.open(), delimiter="\t")
    # Checkpoints of the run and a converted copy have the tokenizer, too.
    copy = convert(run.model, tmp_path / "copy")
    for folder in (run.model, copy, tmp_path / "run" / "step-00000003"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        for tokenizer in (
            AutoTokenizer.from_pretrained(folder),
            DNATokenizer.from_pretrained(folder),
            PreTrainedTokenizerFast.from_pretrained(folder),
        ):
            ids = torch.tensor([tokenizer("ACGTTGCA").input_ids])
            with torch.no_grad():
                assert -model(ids, labels=ids).loss.item() == pytest.approx(float(row["per_base"]), abs=1e-5)


@pytest.mark.slow
def test_the_tokenizer_of_a_finetuned_model_gives_the_numbers_of_predict(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), rng.integers(5, 30))) for _ in range(30)]
    table = tmp_path / "t.tsv"
    table.write_text("sequence\tlabel\n" + "".join(f"{s}\t{'AC'[i % 2]}\n" for i, s in enumerate(sequences)))
    config = FinetuneConfig(
        model=tiny_checkpoint(noise=0.1), data=table, out=tmp_path / "run", epochs=1, batch_size=8, pooling="last",
        device="cpu", lr=1e-2,
    )  # fmt: skip
    finetune(config, progress=False)
    folder = tmp_path / "run" / "model"
    predicted = PredictConfig(model=folder, table=table, out=tmp_path / "p.tsv", device="cpu")
    predict(predicted, progress=False)
    rows = list(csv.DictReader(predicted.out.open(), delimiter="\t"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = AutoTokenizer.from_pretrained(folder)(sequences, padding=True, return_tensors="pt")
    with torch.no_grad():
        shares = model(**batch).logits.softmax(-1)
    for row, share in zip(rows, shares.tolist(), strict=True):
        assert [float(row[name]) for name in "AC"] == pytest.approx(share, abs=1e-5)


def test_the_readme_gives_the_numbers_of_score(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint(noise=0.1)
    (tmp_path / "s.fa").write_text(">eight\nACGTTGCA\n")
    config = ScoreConfig(model=folder, out=tmp_path / "s.tsv", fasta=tmp_path / "s.fa", device="cpu")
    score(config, progress=False)
    [row] = csv.DictReader(config.out.open(), delimiter="\t")
    root = Path(__file__).resolve().parents[3]
    for page in ("README.md", "docs/checkpoints.md"):
        [snippet] = re.findall(r"```python\n((?:(?!```).)*?from_pretrained.*?)```", (root / page).read_text(), re.S)[:1]
        printed: list[Any] = []
        code = snippet.replace('"hyenadna-tiny-1k-seqlen-hf"', repr(str(folder)))
        exec(code, {"print": printed.append})
        assert -printed[-1].item() == pytest.approx(float(row["per_base"]), abs=1e-5), page
