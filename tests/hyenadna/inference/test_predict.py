from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
)
from hyenadna.common.errors import InputError
from hyenadna.data.sequences import encode
from hyenadna.inference.predict import PredictConfig, predict

SEQUENCES = ["ACGTACGTA", "GATTACA", "GG", "TTTTTTTTTTTTTTTTT"]


@pytest.fixture
def save(tiny_model: Callable[..., Any], config: PredictConfig) -> Callable[..., Any]:
    """Saves a small model as the one of the configuration, and returns it."""

    def make(kind: Any, **fields: Any) -> Any:
        model = tiny_model(kind, max_seq_len=32, **fields)
        model.save_pretrained(config.model)
        return model

    return make


@pytest.fixture
def config(tmp_path: Path) -> PredictConfig:
    table = tmp_path / "t.tsv"
    table.write_text("id\tsequence\n" + "".join(f"{i}\t{s}\n" for i, s in enumerate(SEQUENCES)))
    return PredictConfig(model=tmp_path / "model", out=tmp_path / "o.tsv", table=table, batch_size=3, device="cpu")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_rows_hold_what_the_model_says_of_each_alone(config: PredictConfig, save: Any, problem: str) -> None:
    labels = {0: "low", 1: "high"}
    model = save(HyenaDNAForSequenceClassification, id2label=labels, problem_type=problem)
    assert predict(config, progress=False) == 4
    for row, sequence in zip(rows(config.out), SEQUENCES, strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(encode(sequence, ""))[None]).logits[0]
        if problem == "single_label_classification":
            assert row.pop("class") == labels[int(logits.argmax())]
        change = {"single_label_classification": logits.softmax(0), "regression": logits}
        expected = change.get(problem, logits.sigmoid())
        assert list(row) == ["id", "sequence", "low", "high"]
        assert [float(row["low"]), float(row["high"])] == pytest.approx(expected.tolist(), abs=2e-6)


def test_columns_of_the_table_keep_their_names(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForSequenceClassification, id2label={0: "low", 1: "high"}, label2id={"low": 0, "high": 1})
    assert config.table is not None
    config.table.write_text("class\tsequence\thigh\nx\tACGT\ty\n")
    predict(config, progress=False)
    (row,) = rows(config.out)
    assert list(row) == ["class", "sequence", "high", "hyenadna_class", "low", "hyenadna_high"]
    assert (row["class"], row["high"]) == ("x", "y")
    assert float(row["low"]) + float(row["hyenadna_high"]) == pytest.approx(1, abs=1e-5)


def test_both_strands_give_the_same(config: PredictConfig, save: Any, tmp_path: Path) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2)
    (tmp_path / "f.fa").write_text(">a\nACGGT\n>b\nACCGT\n")
    predict(replace(config, table=None, fasta=tmp_path / "f.fa", reverse_complement=True), progress=False)
    one, two = rows(config.out)
    assert (one.pop("name"), two.pop("name")) == ("a", "b")
    assert one == two


def test_bases_have_a_letter_each(config: PredictConfig, save: Any) -> None:
    model = save(HyenaDNAForTokenClassification, id2label={0: "E", 1: "I"})
    predict(config, progress=False)
    for row, sequence in zip(rows(config.out), SEQUENCES, strict=True):
        with torch.no_grad():
            classes = model(torch.from_numpy(encode(sequence, ""))[None]).logits[0].argmax(1).tolist()
        assert row["tokens"] == "".join("EI"[i] for i in classes)
    with pytest.raises(InputError, match="classes of bases belong to one strand"):
        predict(replace(config, reverse_complement=True), progress=False)


def test_a_checkpoint_without_a_head_is_refused(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForCausalLM)
    with pytest.raises(InputError, match="has no trained head to predict with; make one with hyenadna finetune"):
        predict(config, progress=False)
    assert not config.out.exists()


@pytest.mark.parametrize("kind", ["SEQ_CLS", "TOKEN_CLS"])
@pytest.mark.parametrize("head_in_base", [True, False])
def test_adapters_are_applied(
    config: PredictConfig, tiny_checkpoint: Any, tmp_path: Path, kind: str, head_in_base: bool
) -> None:
    base_kind = HyenaDNAForSequenceClassification if kind == "SEQ_CLS" else HyenaDNAForTokenClassification
    fields = {"max_seq_len": 32, "id2label": {0: "l", 1: "h"}, "noise": 0.1}
    base = tiny_checkpoint(base_kind if head_in_base else HyenaDNAForCausalLM, **fields)
    model = get_peft_model(base_kind.from_pretrained(base), LoraConfig(task_type=kind, target_modules=["fc1"], r=2))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 2 * torch.randn_like(parameter)
    model.save_pretrained(config.model)
    assert predict(config, progress=False) == 4
    for row, sequence in zip(rows(config.out), SEQUENCES, strict=True):
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(encode(sequence, ""))[None]).logits[0]
        if kind == "TOKEN_CLS":
            assert row["tokens"] == "".join("lh"[i] for i in logits.argmax(-1))
        else:
            assert float(row["l"]) == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)
            assert abs(float(row["l"]) - 0.5) > 0.001


def test_an_adapter_without_a_head_is_refused(config: PredictConfig, tiny_checkpoint: Any) -> None:
    base = HyenaDNAForCausalLM.from_pretrained(tiny_checkpoint(max_seq_len=32))
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["fc1"])).save_pretrained(config.model)
    with pytest.raises(InputError, match="has no trained head to predict with"):
        predict(config, progress=False)


def test_damaged_weights_are_refused(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2)
    (config.model / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors file"):
        predict(config, progress=False)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": None}, "give one of `fasta` and `table` to predict"),
        ({"fasta": Path("x")}, "give one of `fasta` and `table` to predict"),
        ({"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        ({"sequence_column": "seq"}, "has no column 'seq'"),
        ({"model": Path("absent")}, "no checkpoint at absent"),
        ({"table": None, "fasta": Path("absent.fa")}, "absent.fa: no such file"),
        (
            {"table": None, "fasta": Path("absent.fa"), "sequence_column": "seq"},
            "`sequence_column` seq: has no effect without a `table`",
        ),
    ],
)
def test_bad_input_is_refused(config: PredictConfig, save: Any, change: dict[str, Any], message: str) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2)
    with pytest.raises(InputError, match=message):
        predict(replace(config, **change), progress=False)
    assert not config.out.exists()


def test_a_sequence_may_fill_the_model_exactly(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2)
    config.table.write_text(config.table.read_text() + f"4\t{'ACGT' * 8}\n")
    assert predict(config, progress=False) == 5


def test_rows_before_a_failure_are_kept_apart(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2)
    config.table.write_text(config.table.read_text() + f"4\t{'A' * 33}\n")
    message = r"row 5: 33 bases are .* windows of at most 32, such as those of seqkit sliding -g -W 32 -s 16"
    with pytest.raises(InputError, match=message + r".*; the [34] rows before that are in .*o\.tsv\.partial"):
        predict(config, progress=False)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("last", "message"),
    [("", "row 5: the sequence is empty$"), ("ACE", "row 5: 'E' at position 3 is not a nucleotide code")],
)
def test_every_sequence_is_checked_before_the_first_is_predicted(
    config: PredictConfig, save: Any, last: str, message: str
) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2)
    config.table.write_text(config.table.read_text() + f"4\t{last}\n")
    with pytest.raises(InputError, match=message):
        predict(config, progress=False)
    assert sorted(path.name for path in config.out.parent.iterdir()) == ["model", "t.tsv"]


def test_classes_of_bases_are_single_letters(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForTokenClassification, id2label={0: "a", 1: "bc"})
    with pytest.raises(InputError, match="classes of bases must be single letters, and these are a, bc"):
        predict(config, progress=False)
    assert not config.out.exists()


def test_a_record_without_bases_has_a_row_without_values(config: PredictConfig, save: Any) -> None:
    save(HyenaDNAForSequenceClassification, num_labels=2, noise=0.3)
    expected = {}
    for name, bases in (("one", "GATTACA"), ("two", "CCGG")):
        config.out.with_name("f.fa").write_text(f">{name}\n{bases}\n")
        predict(replace(config, table=None, fasta=config.out.with_name("f.fa")), progress=False)
        (expected[name],) = rows(config.out)
    config.out.with_name("f.fa").write_text(">one\nGATTACA\n>none\n>two\nCCGG\n>last\n")
    predict(replace(config, table=None, fasta=config.out.with_name("f.fa")), progress=False)
    one, none, two, last = rows(config.out)
    for row, name in ((one, "one"), (two, "two")):
        assert row.keys() == expected[name].keys()
        assert float(row["LABEL_1"]) == pytest.approx(float(expected[name]["LABEL_1"]), abs=1e-6)
    assert float(one["LABEL_1"]) != pytest.approx(float(two["LABEL_1"]), abs=1e-4)
    assert {row["LABEL_1"] for row in (none, last)} == {""}
