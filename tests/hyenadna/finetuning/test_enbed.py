"""``finetune --architecture enbed``: a head on the encoder of an ENBED, which reads bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.auto import AutoTokenizer
from transformers.models.longt5 import LongT5Config, LongT5ForConditionalGeneration

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.baselines.loading import load_sequence_classifier, load_token_classifier
from hyenadna.common.choices import METRICS
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID
from hyenadna.data.genome import prepare
from hyenadna.data.sequences import to_tensor
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification, ENBEDForTokenClassification
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.evaluation.evaluate import evaluate
from hyenadna.finetuning import train as finetune_module
from hyenadna.finetuning.config import FinetuneConfig, apply_architecture, apply_preset
from hyenadna.finetuning.data import read_data
from hyenadna.finetuning.train import finetune, predict
from hyenadna.finetuning.unfreezing import Unfreezing
from hyenadna.inference.config import EmbedConfig, GenerateConfig, PredictConfig, ScoreConfig
from hyenadna.inference.embed import embed
from hyenadna.inference.generate import generate
from hyenadna.inference.logits import batch_logits
from hyenadna.inference.predict import predict as predict_file
from hyenadna.inference.score import score
from hyenadna.model.words import words_of

CPU = torch.device("cpu")

# Two radii, and a global token for each four bases.
FIELDS: dict[str, Any] = {
    "num_decoder_layers": 1, "d_model": 16, "num_heads": 2, "d_kv": 8, "d_ff": 32, "global_block_size": 4,
    "first_local_radius": 3, "first_local_layers": 1, "local_radius": 5, "max_seq_len": 64,
}  # fmt: skip
SCRATCH: dict[str, Any] = {
    "method": "scratch", "model": None, "size": "enbed-tiny", "d_model": 16, "n_layer": 2, "max_seq_len": 64,
    "model_fields": {
        name: FIELDS[name] for name in FIELDS if name not in ("d_model", "max_seq_len", "num_decoder_layers")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model such as ``hyenadna enbed pretrain`` leaves, of two layers with one radius each."""
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    torch.manual_seed(0)
    ENBEDForConditionalGeneration(ENBEDConfig(num_layers=2, **FIELDS)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences that are rich in G and C, or not, with labels for each task."""
    rng = np.random.default_rng(0)
    lines = ["seq\tkind\trich\tpoor\tshare\ttokens"]
    for i in range(90):
        rich = i % 3 != 0
        letters = rng.choice(
            list("ACGT"), rng.integers(20, 40), p=[0.1, 0.4, 0.4, 0.1] if rich else [0.4, 0.1, 0.1, 0.4]
        )
        tokens = "".join("S" if base in "GC" else "W" for base in letters)
        share = f"{np.isin(letters, ['G', 'C']).mean():.4f}"
        lines.append(
            "\t".join(["".join(letters), "rich" if rich else "poor", str(int(rich)), str(int(not rich)), share, tokens])
        )
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure takes longer than a run."""
    monkeypatch.setattr(finetune_module, "draw_curves", lambda curves, summary, out: None)


@pytest.fixture
def config(table: Path, pretrained: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=table, out=tmp_path / "out", architecture="enbed", model=pretrained, sequence_column="seq",
        label_columns=["kind"], epochs=5, batch_size=16, lr=1e-2, device="cpu", threads=1,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "scratch"])
def test_every_method_learns_and_leaves_a_model(config: FinetuneConfig, pretrained: Path, method: Any) -> None:
    changes: dict[str, Any] = {"method": method} | (SCRATCH if method == "scratch" else {})
    changes |= {"lr": 0.05, "epochs": 8} if method == "frozen" else {}
    summary = finetune(replace(config, **changes), progress=False)
    assert summary["test"]["accuracy"]["mean"] > 0.8
    assert (summary["architecture"], summary["method"]) == ("enbed", method)
    model = load_sequence_classifier(config.out / "model")
    assert type(model) is ENBEDForSequenceClassification
    assert model.config.id2label == {0: "poor", 1: "rich"}
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    test = read_data(config)[0].test
    logits = predict(model, test, config, CPU)
    assert (logits.argmax(1) == test.labels).mean() == pytest.approx(summary["test"]["accuracy"]["mean"])

    before = ENBEDForConditionalGeneration.from_pretrained(pretrained).encoder.state_dict()
    changed = {key for key, value in model.encoder.state_dict().items() if not torch.equal(value, before[key])}
    layers = {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    if method == "frozen":
        assert not changed
    elif method == "lora":
        assert changed == {key for key in before if key.split(".")[-2] in layers}
    else:
        assert "embed_tokens.weight" in changed


def test_the_folder_has_the_tokenizer_of_bytes(config: FinetuneConfig) -> None:
    finetune(replace(config, epochs=1), progress=False)
    tokenizer = AutoTokenizer.from_pretrained(config.out / "model")
    assert type(tokenizer).__name__ == "ByT5Tokenizer"
    assert tokenizer("ACGTN", add_special_tokens=False)["input_ids"] == [68, 70, 74, 87, 81]


def test_models_read_bytes_and_n_is_a_letter(config: FinetuneConfig) -> None:
    model = ENBEDForSequenceClassification.from_pretrained(config.model, num_labels=2).eval()
    rows = [BYTE_TO_ID[np.frombuffer(text, np.uint8)] for text in (b"ACGTN", b"NAc")]
    ids = to_tensor(rows, CPU, words=words_of(model.config))
    assert ids.tolist() == [[68, 70, 74, 87, 81], [81, 68, 70, 0, 0]]
    a, b = batch_logits(model, rows, CPU, both_strands=False)
    assert torch.allclose(a, batch_logits(model, rows[:1], CPU, both_strands=False)[0], atol=1e-6)
    assert torch.allclose(b, batch_logits(model, rows[1:], CPU, both_strands=False)[0], atol=1e-6)
    without_n = batch_logits(model, [rows[1][1:]], CPU, both_strands=False)[0]
    assert not torch.allclose(b, without_n, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "columns", "metric", "least"),
    [
        ("multilabel", ["rich", "poor"], "auroc", 0.85),
        ("regression", ["share"], "pearson", 0.6),
        ("token", ["tokens"], "accuracy", 0.9),
    ],
)
def test_other_tasks(config: FinetuneConfig, task: Any, columns: list[str], metric: str, least: float) -> None:
    summary = finetune(replace(config, task=task, label_columns=columns, epochs=8), progress=False)
    assert summary["test"][metric]["mean"] > least
    assert {name for name in METRICS[task] if name not in _OF_DEEPSEA} == set(summary["test"])
    load = load_token_classifier if task == "token" else load_sequence_classifier
    model = load(config.out / "model")
    assert type(model) is (ENBEDForTokenClassification if task == "token" else ENBEDForSequenceClassification)
    assert model.config.num_labels == (1 if task == "regression" else 2)


# Families of the 919 outputs, which no other table has.
_OF_DEEPSEA = {name for name in METRICS["multilabel"] if name.startswith("auroc_")}


def _genomic_benchmarks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in "pq":
            (folder / split / kind).mkdir(parents=True)
            for i in range(8):
                (folder / split / kind / f"{i}.txt").write_text("".join(rng.choice(list("ACGT"), 20)))


def _tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = ("".join(rng.choice(list("ACGT"), 20)) + f"\t{'pq'[i % 2]}\n" for i in range(12))
        (folder / f"{split}.tsv").write_text("sequence\tlabel\n" + "".join(lines))


def _nucleotide_transformer(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split in ("train", "test"):
        lines = (f">s{i}|{i % 2}\n{''.join(rng.choice(list('ACGT'), 20))}\n" for i in range(16))
        (folder / f"{split}.fna").write_text("".join(lines))


def _deepsea(folder: Path) -> None:
    folder.mkdir()
    for i, split in enumerate(("train", "val", "test")):
        rows = "".join(f"0,{60 * i + 8 * j},{60 * i + 8 * j + 30},{j % 2},{j // 2 % 2}\n" for j in range(8))
        (folder / f"{split}.csv").write_text(f"Chr_No,Start,End,y_0,y_1\n{rows}")
    bases = np.random.default_rng(0).choice(list("ACGT"), 400)
    # Windows that reach over the end of the contig are filled with N.
    (folder.parent / "hg.fa").write_text(f">chr1\n{''.join(bases)}\n")


def _species(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("fly", "worm"):
        (folder / name).mkdir(parents=True)
        text = "".join(f">chr{number}\n{''.join(rng.choice(list('ACGT'), 60))}\n" for number in (1, 2, 5))
        (folder / name / "g.fa").write_text(text)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (_genomic_benchmarks, {}),
        (_tables, {}),
        (_nucleotide_transformer, {}),
        (_deepsea, {"task": "multilabel", "length": 40}),
        (_species, {"length": 30, "species_windows": 20}),
    ],
)
def test_every_format(config: FinetuneConfig, tmp_path: Path, make: Any, options: dict[str, Any]) -> None:
    make(tmp_path / "data")
    if make is _deepsea:
        options = options | {"genome": tmp_path / "hg.fa"}
    config = replace(
        config, data=tmp_path / "data", sequence_column="sequence", label_columns=["label"], epochs=1, **options
    )
    summary = finetune(config, progress=False)
    assert summary["test"]
    assert type(load_sequence_classifier(config.out / "model")) is ENBEDForSequenceClassification


def test_options_of_training_go_with_bytes(config: FinetuneConfig) -> None:
    """Strands, crops, lengths, folds and averages. A run with micro-batches has the gradients of one without."""
    config = replace(config, epochs=2, reverse_complement=True, crop=3, warmup_length=12, balanced=True, baseline=True)
    summary = finetune(replace(config, folds=2, ema_decay=0.5, out=config.out.with_name("folds")), progress=False)
    assert len(summary["runs"]) == 2
    whole, parts = (
        finetune(
            replace(config, **SCRATCH | {"model_fields": SCRATCH["model_fields"] | {"dropout_rate": 0.0}},
                    accumulate=number, out=config.out.with_name(f"in{number}")), progress=False,
        )
        for number in (1, 3)
    )  # fmt: skip
    losses = [
        [json.loads(line)["loss"] for line in (config.out.with_name(f"in{number}") / "metrics.jsonl").open()]
        for number in (1, 3)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert whole["parameters"] == parts["parameters"]


def test_neither_padding_nor_the_batch_changes_predictions(config: FinetuneConfig) -> None:
    for task, columns in (("classification", ["kind"]), ("token", ["tokens"])):
        one = replace(config, task=task, label_columns=columns, epochs=1, out=config.out.with_name(task))
        finetune(one, progress=False)
        load: Any = load_token_classifier if task == "token" else load_sequence_classifier
        model, test = load(one.out / "model"), read_data(one)[0].test
        found = [predict(model, test, replace(one, batch_size=size), CPU) for size in (1, 5, 18)]
        assert all(np.allclose(found[0], other, atol=2e-6) for other in found[1:])


def test_predict_reads_the_folder(config: FinetuneConfig, tmp_path: Path) -> None:
    finetune(replace(config, epochs=1, reverse_complement=True, length=30), progress=False)
    fasta, csv = tmp_path / "s.fa", tmp_path / "s.csv"
    fasta.write_text(">a\nACGTTGCAACGGTTAC\n>b\nGTAACCGTTGCAACGT\n>long\n" + "ACGTN" * 8 + "\n")
    csv.write_text("name,sequence\na,ACGTTGCAACGGTTAC\n")
    model = config.out / "model"
    rows = []
    place = tmp_path / "p.tsv"
    for fasta_or_none, table in ((fasta, None), (None, csv)):
        predict_file(PredictConfig(model, place, fasta_or_none, table, reverse_complement=True), progress=False)
        rows.append([line.split("\t") for line in place.read_text().splitlines()])
    assert rows[0][0][-3:] == ["class", "poor", "rich"]
    # b is the reverse complement of a, and the table holds a.
    values = np.array([row[-2:] for row in [*rows[0][1:], rows[1][1]]], float)
    assert np.allclose(values[0], values[1:2], atol=1e-6)
    assert np.allclose(values[0], values[3], atol=1e-6)
    # The long one is cut as in training.
    middle = ("ACGTN" * 8)[5:35]
    loaded = load_sequence_classifier(model)
    ids = BYTE_TO_ID[np.frombuffer(middle.encode(), np.uint8)]
    assert np.allclose(batch_logits(loaded, [ids], CPU, both_strands=True).softmax(-1)[0].numpy(), values[2], atol=1e-6)


def test_predict_gives_classes_of_bases(config: FinetuneConfig, tmp_path: Path) -> None:
    finetune(replace(config, task="token", label_columns=["tokens"], epochs=8), progress=False)
    fasta = tmp_path / "s.fa"
    fasta.write_text(f">a\nACGTTGCAACGGTTAC\n>long\n{'A' * 65}\n")
    with pytest.raises(InputError, match=r"long.*65 bases are longer than the 64"):
        predict_file(PredictConfig(config.out / "model", tmp_path / "p.tsv", fasta), progress=False)
    fasta.write_text(">a\nACGTTGCAACGGTTAC\n>b\nGC\n")
    predict_file(PredictConfig(config.out / "model", tmp_path / "p.tsv", fasta), progress=False)
    tokens = [line.split("\t")[-1] for line in (tmp_path / "p.tsv").read_text().splitlines()[1:]]
    assert tokens == ["WSSWWSSWWSSSWWWS", "SS"]


def longt5(vocab_size: int) -> Any:
    torch.manual_seed(0)
    shape = {name: FIELDS[name] for name in ("d_model", "num_heads", "d_kv", "d_ff", "local_radius")}
    return LongT5ForConditionalGeneration(
        LongT5Config(
            vocab_size=vocab_size,
            num_layers=2,
            num_decoder_layers=1,
            encoder_attention_type="transient-global",
            **shape,
        )
    )


def test_a_longt5_of_other_tokens_is_refused(config: FinetuneConfig, tmp_path: Path) -> None:
    longt5(1000).save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match="has a vocabulary of 1,000, and that of bytes has 384"):
        finetune(replace(config, model=tmp_path / "words"), progress=False)


def test_a_plain_longt5_is_taken(config: FinetuneConfig, tmp_path: Path) -> None:
    plain = longt5(384)
    plain.save_pretrained(tmp_path / "longt5")
    assert json.loads((tmp_path / "longt5" / "config.json").read_text())["model_type"] == "longt5"
    finetune(replace(config, model=tmp_path / "longt5", method="frozen", epochs=1), progress=False)
    after = load_sequence_classifier(config.out / "model")
    before: Any = plain.encoder.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.encoder.state_dict().items())


def test_a_classifier_is_trained_further_with_other_classes(config: FinetuneConfig) -> None:
    finetune(replace(config, epochs=1), progress=False)
    again = replace(config, model=config.out / "model", task="token", label_columns=["tokens"], epochs=1)
    again.out = config.out.with_name("again")
    finetune(again, progress=False)
    assert load_token_classifier(again.out / "model").config.id2label == {0: "S", 1: "W"}


def test_each_stage_trains_the_head_and_the_last_layers(config: FinetuneConfig) -> None:
    model = ENBEDForSequenceClassification(ENBEDConfig(num_layers=3, **FIELDS))
    unfreezing = Unfreezing(replace(config, unfreeze_every=1, epochs=5), model)
    found = []
    for epoch in range(1, 6):
        unfreezing.begin(epoch)
        found.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})
        modes = [all(part.training for part in block.modules()) for block in model.encoder.block]
        assert modes == [layer >= 4 - epoch for layer in range(3)]
    names = {name for name, _ in model.named_parameters()}
    head = {"score.weight", "score.bias"}
    for first, stage in zip((3, 2, 1, 0), found[:4], strict=True):
        blocks = tuple(f"encoder.block.{i}." for i in range(first, 3))
        assert stage == head | {name for name in names if name.startswith(blocks or ("\0",))}
    assert found[4] == names
    assert names - found[3] == {"shared.weight", "encoder.final_layer_norm.weight"}


def test_layers_are_unfrozen_in_a_run(config: FinetuneConfig, pretrained: Path) -> None:
    config = replace(config, unfreeze_every=1, unfreeze_layers=1, epochs=2)
    finetune(config, progress=False)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == [0, 1]
    before = ENBEDForConditionalGeneration.from_pretrained(pretrained).encoder.state_dict()
    after = load_sequence_classifier(config.out / "model").encoder.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert all(key.startswith("block.1.") for key in changed)


def test_the_encoder_embeds(config: FinetuneConfig, pretrained: Path, tmp_path: Path) -> None:
    fasta = tmp_path / "s.fa"
    fasta.write_text(">a\nACGTTGNAACGGTTAC\n>b\nGTAAC\n")
    for model in (pretrained, config.out / "model"):
        if model != pretrained:
            finetune(replace(config, epochs=1), progress=False)
        found = {}
        for pooling in ("mean", "token"):
            embed(EmbedConfig(model, tmp_path / f"{pooling}.npz", fasta, pooling=pooling), progress=False)
            found[pooling] = np.load(tmp_path / f"{pooling}.npz")["embedding"]
        encoder = ENBEDForSequenceClassification.from_pretrained(model, num_labels=2).eval().encoder
        with torch.no_grad():
            ids = torch.tensor([[byte + 3 for byte in b"ACGTTGNAACGGTTAC"]])
            states = encoder(ids).last_hidden_state[0].numpy()
        assert np.allclose(found["token"][:16], states, atol=1e-5)
        assert np.allclose(found["mean"][0], states.mean(0), atol=1e-5)
        assert found["token"].shape == (21, 16)
    for options, message in (({"pooling": "last"}, "is bidirectional"), ({"pack_tokens": 64}, "no packed rows")):
        with pytest.raises(InputError, match=message):
            embed(EmbedConfig(pretrained, tmp_path / "no.npz", fasta, **options), progress=False)


def test_verbs_that_need_the_next_base_refuse(pretrained: Path, tmp_path: Path) -> None:
    fasta = tmp_path / "s.fa"
    fasta.write_text("".join(f">{name}\n{'ACGTTGNAACGGTTAC' * 4}\n" for name in "ab"))
    prepare(fasta, tmp_path / "genome", progress=False)
    calls: list[Any] = [
        lambda: score(ScoreConfig(pretrained, tmp_path / "o.tsv", fasta), progress=False),
        lambda: generate(GenerateConfig(pretrained, tmp_path / "o.fa", prompt="ACG"), progress=False),
        lambda: evaluate(EvaluateConfig(pretrained, tmp_path / "genome", contigs=["a"], length=8), progress=False),
    ]
    for call in calls:
        with pytest.raises(
            InputError, match=r"is a model of type enbed, which predicts no next base; give a HyenaDNA"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_default_size_is_small(config: FinetuneConfig) -> None:
    scratch = replace(config, method="scratch", model=None)
    assert apply_architecture(scratch).size == "enbed-small"
    assert apply_architecture(replace(scratch, size="enbed-tiny")).size == "enbed-tiny"
    assert apply_architecture(config).size == "tiny-1k"
    # A preset sets the training, and not the shape of a HyenaDNA.
    by_preset = apply_preset(apply_architecture(replace(scratch, preset="nt-H3", epochs=20)))
    assert (by_preset.size, by_preset.d_model, by_preset.metric) == ("enbed-small", None, "mcc")


def test_a_preset_is_a_row_of_its_own(config: FinetuneConfig, tmp_path: Path) -> None:
    _genomic_benchmarks(tmp_path / "data")
    config = replace(
        config, data=tmp_path / "data", preset="gb-ocr", sequence_column="sequence", label_columns=["label"],
        epochs=1, **SCRATCH,
    )  # fmt: skip
    summary = finetune(config, progress=False)
    assert summary["preset"] == "gb-ocr"
    assert "size" not in summary["deviations"]
    assert any("no figure is published of the row enbed" in reason for reason in summary["not_comparable"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "cnn"}, "`ablation` cnn: is of HyenaDNA, and `architecture` is enbed"),
        ({"ablation": "gpt"}, "`ablation` gpt: is of HyenaDNA"),
        ({"method": "few-shot"}, "`method` few-shot: needs a model that predicts the next base"),
        ({"method": "soft-prompt"}, "`method` soft-prompt: needs a model that predicts the next base"),
        ({"pack_tokens": 64}, r"`pack_tokens` 64: has no effect without a HyenaDNA \(`architecture` hyena\)"),
        ({"lm_weight": 0.5}, r"`lm_weight` 0.5: has no effect without a HyenaDNA"),
        ({"autocast": "float16"}, "`autocast` float16: has no number as low"),
        ({"size": "enbed-tiny"}, "`size` enbed-tiny: has no effect without `method` scratch"),
        (SCRATCH | {"size": "tiny-16k"}, "`size` tiny-16k: no ENBED has this size; choose one of enbed-tiny, "),
        (SCRATCH | {"architecture": "hyena"}, "`size` enbed-tiny: is a size of ENBED; add `architecture` enbed"),
        (SCRATCH | {"model_fields": {"filter_order": 8}}, "`model_fields`: ENBEDConfig has no field filter_order"),
        (SCRATCH | {"model_fields": {"pooling": "last"}}, "`model_fields`: pooling has an option of its own"),
        (SCRATCH | {"model_fields": {"num_layers": 3}}, "`model_fields`: num_layers has an option of its own"),
        (SCRATCH | {"model_fields": {"local_radius": 0}}, "local_radius must be an integer of at least 1"),
        (SCRATCH | {"model_fields": {"d_ff": "wide"}}, "d_ff"),
        (SCRATCH | {"max_seq_len": 16}, "39 bases is longer than the 16 .* train one with a larger `max_seq_len`"),
        ({"architecture": "hyena"}, "is of type enbed, and `architecture` is hyena"),
        ({"unfreeze_every": 2}, "`unfreeze_every` 2: the last of 4 stages begins with epoch 7, and `epochs` is 5"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config: FinetuneConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        finetune(replace(config, **options), progress=False)
    assert "\n" not in str(caught.value)


def test_a_hyenadna_is_no_enbed(config: FinetuneConfig, tmp_path: Path) -> None:
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=64)).save_pretrained(tmp_path / "lm")
    with pytest.raises(InputError, match="is of type hyenadna, and `architecture` is enbed"):
        finetune(replace(config, model=tmp_path / "lm"), progress=False)
