"""``finetune --ablation``: each row is the model that it names, learns, and is refused what it cannot honour."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAForSequenceClassification
from hyenadna.baselines.cnn import CNNConfig, CNNForSequenceClassification
from hyenadna.baselines.gpt import GPTConfig, GPTForCausalLM, GPTForSequenceClassification
from hyenadna.baselines.loading import load_sequence_classifier
from hyenadna.common.errors import InputError
from hyenadna.finetuning import train as finetune_module
from hyenadna.finetuning.config import FinetuneConfig, apply_ablation, apply_preset
from hyenadna.finetuning.data import read_data
from hyenadna.finetuning.train import finetune, predict
from hyenadna.inference.config import EmbedConfig, PredictConfig
from hyenadna.inference.embed import embed
from hyenadna.inference.predict import predict as predict_file
from hyenadna.model.kmers import KmerTokenizer

SMALL: dict[str, Any] = {"d_model": 16, "n_layer": 1, "max_seq_len": 64}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences that are rich in G and C, or not."""
    rng = np.random.default_rng(0)
    lines = ["sequence\tlabel"]
    for i in range(90):
        weights = [0.1, 0.4, 0.4, 0.1] if i % 3 else [0.4, 0.1, 0.1, 0.4]
        lines.append(
            "".join(rng.choice(list("ACGT"), rng.integers(50, 60), p=weights)) + f"\t{'rich' if i % 3 else 'poor'}"
        )
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt") / "model"
    torch.manual_seed(0)
    GPTForCausalLM(GPTConfig(d_model=16, n_head=2, n_layer=1, max_seq_len=64)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure takes longer than a run."""
    monkeypatch.setattr(finetune_module, "draw_curves", lambda curves, summary, out: None)


@pytest.fixture
def config(table: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(data=table, out=tmp_path / "out", epochs=4, batch_size=16, lr=1e-2, device="cpu", threads=1)


HYENA = {"filter_order": 8}


@pytest.mark.parametrize(
    ("row", "options", "kind", "fields"),
    [
        ("scratch", {"model_fields": HYENA}, HyenaDNAForSequenceClassification, {"kmer": None, "bidirectional": False}),
        ("kmer", {"model_fields": HYENA | {"kmer": 3}}, HyenaDNAForSequenceClassification, {"kmer": 3}),
        ("bidirectional", {"model_fields": HYENA}, HyenaDNAForSequenceClassification, {"bidirectional": True}),
        ("bidirectional-published", {"model_fields": HYENA}, HyenaDNAForSequenceClassification,
         {"bidirectional": "published"}),
        ("gpt", {}, GPTForSequenceClassification, {"n_head": 8, "pooling": "mean"}),
        ("cnn", {"d_model": None, "n_layer": None, "epochs": 8}, CNNForSequenceClassification, {"d_model": 100}),
    ],
)  # fmt: skip
def test_a_row_learns_and_leaves_its_model(
    config: FinetuneConfig, row: Any, options: dict[str, Any], kind: Any, fields: dict[str, Any]
) -> None:
    config = replace(config, ablation=row, **SMALL | options)
    summary = finetune(config, progress=False)
    assert (summary["ablation"], summary["method"], summary["model"]) == (row, "scratch", None)
    assert json.loads((config.out / "results.json").read_text())["ablation"] == row
    assert summary["test"]["accuracy"]["mean"] > 0.85
    model = load_sequence_classifier(config.out / "model")
    assert type(model) is kind
    assert fields.items() <= model.config.to_dict().items()
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    test = read_data(config)[0].test
    logits = predict(model, test, config, torch.device("cpu"))
    assert (logits.argmax(1) == test.labels).mean() == pytest.approx(summary["test"]["accuracy"]["mean"])
    if row == "kmer":
        assert KmerTokenizer.from_pretrained(config.out / "model").k == 3


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_a_pretrained_gpt_is_a_row_of_its_own(config: FinetuneConfig, gpt: Path, method: Any) -> None:
    config = replace(config, ablation="gpt", model=gpt, method=method, epochs=1)
    summary = finetune(config, progress=False)
    assert (summary["ablation"], summary["method"]) == ("gpt-pretrained", method)
    before = GPTForCausalLM.from_pretrained(gpt).gpt.state_dict()
    after = load_sequence_classifier(config.out / "model").gpt.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before) == (method == "frozen")


def test_a_classifier_of_words_predicts_both_strands(config: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(
        config,
        ablation="kmer",
        epochs=1,
        reverse_complement=True,
        crop=5,
        # 60 bases are 20 words.
        **SMALL | {"max_seq_len": 20},
        model_fields=HYENA | {"kmer": 3, "kmer_stride": 3},
    )
    finetune(config, progress=False)
    fasta = tmp_path / "s.fa"
    fasta.write_text(">a\nACGTTGCAACGGTTAC\n>b\nGTAACCGTTGCAACGT\n>c\nACG\n")
    predict_file(PredictConfig(config.out / "model", tmp_path / "p.tsv", fasta, reverse_complement=True))
    rows = [line.split("\t")[-2:] for line in (tmp_path / "p.tsv").read_text().splitlines()[1:]]
    # b is the reverse complement of a.
    assert np.allclose(np.array(rows[0], float), np.array(rows[1], float), atol=1e-6)
    fasta.write_text(f">full\n{'ACGTT' * 12}\n")
    predict_file(PredictConfig(config.out / "model", tmp_path / "full.tsv", fasta))
    fasta.write_text(f">long\n{'A' * 61}\n")
    with pytest.raises(InputError, match="61 bases are longer than the 60"):
        predict_file(PredictConfig(config.out / "model", tmp_path / "long.tsv", fasta))
    fasta.write_text(">c\nAC\n")
    with pytest.raises(InputError, match="2 bases are shorter than the words of 3"):
        predict_file(PredictConfig(config.out / "model", tmp_path / "q.tsv", fasta))
    with pytest.raises(InputError, match=r"`pooling` token: .* has no vectors of bases"):
        embed(EmbedConfig(config.out / "model", tmp_path / "e.npz", fasta, pooling="token"))


def test_rows_are_full_of_their_options(config: FinetuneConfig) -> None:
    kmer = apply_ablation(replace(config, ablation="kmer"))
    assert (kmer.method, kmer.model_fields) == ("scratch", {"kmer": 6})
    plain = FinetuneConfig(config.data, config.out, ablation="cnn", preset="gb-ocr")
    cnn = apply_preset(apply_ablation(plain))
    assert (cnn.epochs, cnn.batch_size, cnn.lr, cnn.weight_decay) == (10, 64, 1e-3, 0.0)
    assert apply_preset(apply_ablation(replace(plain, ablation="gpt"))).epochs == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "scratch", "model": "gpt"}, "`method` scratch: leave out `model`"),
        ({"ablation": "kmer", "method": "frozen"}, "starts from random weights: leave out `method`"),
        ({"ablation": "gpt", "method": "lora", "model": "gpt"}, "`method` lora is for a HyenaDNA"),
        ({"ablation": "gpt", "method": "frozen"}, "`method` frozen: needs a `model`"),
        ({"ablation": "gpt", "pack_tokens": 64}, "`pack_tokens` 64: has no effect"),
        ({"ablation": "gpt", "size": "small-32k"}, "`size` small-32k: has no effect"),
        ({"ablation": "cnn", "task": "token"}, "`ablation` cnn: has no classes of bases"),
        ({"ablation": "cnn", "lm_weight": 0.5}, "`ablation` cnn: predicts no next base"),
        ({"ablation": "cnn", "pooling": "last"}, "`pooling` last: has no effect"),
        ({"ablation": "kmer", "lm_weight": 0.5}, "`ablation` kmer: a word holds most bases of the next"),
        ({"ablation": "kmer", "task": "token"}, "`ablation` kmer: words of bases have no classes"),
        ({"ablation": "bidirectional", "model_fields": {"bidirectional": "published"}}, "bidirectional sets True"),
        ({"ablation": "scratch", "model_fields": {"bidirectional": True}}, "scratch sets False"),
        ({"ablation": "kmer", "model_fields": {"kmer": None}}, "kmer sets 6"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    config: FinetuneConfig, gpt: Path, options: dict[str, Any], message: str
) -> None:
    options = options | ({"model": gpt} if "model" in options else {})
    with pytest.raises(InputError, match=message) as caught:
        replace(config, **options).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "none", "model": "gpt"}, "`ablation` gpt goes with a GPT"),
        ({"ablation": "gpt", "model": "hyena"}, "`ablation` gpt goes with a GPT"),
        ({"ablation": "gpt", **SMALL, "max_seq_len": 40}, "longer than the 40 .* larger `max_seq_len`"),
        ({"ablation": "gpt", "model_fields": {"filter_order": 8}}, "a GPT has no field filter_order"),
        ({"ablation": "kmer", "crop": 26}, "has 1 bases after `crop`, fewer than a word of 6"),
        ({"ablation": "bidirectional", "pooling": "last"}, "pooling 'last'"),
        ({"ablation": "bidirectional", "pack_tokens": 64}, "`pack_tokens` 64: a bidirectional model"),
        ({"ablation": "none", "model": "cnn"}, "is a CNN, which fine-tuning always begins anew"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    config: FinetuneConfig, gpt: Path, tiny_checkpoint: Callable[..., Path], options: dict[str, Any], message: str
) -> None:
    if "model" in options:
        if options["model"] == "cnn":
            CNNForSequenceClassification(CNNConfig(64)).save_pretrained(config.out.parent / "cnn")
        models = {"gpt": gpt, "cnn": config.out.parent / "cnn"}
        options = options | {"model": models.get(options["model"]) or tiny_checkpoint()}
    with pytest.raises(InputError, match=message):
        finetune(replace(config, **options), progress=False)
