"""The published tasks against their sources: figures, hyperparameters, models, and what a run says of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.data.dataset import LabelledDataset
from hyenadna.finetuning import config as config_module
from hyenadna.finetuning.config import FinetuneConfig, apply_preset
from hyenadna.finetuning.data import Splits
from hyenadna.finetuning.presets import MICRO_BATCH, PRESETS, micro_batches
from hyenadna.finetuning.published import against_published, weights
from hyenadna.finetuning.results import describe
from hyenadna.model.sizes import PUBLISHED_SIZES

COMMON: dict[str, Any] = {
    "epochs": 100, "patience": 100, "lr": 6e-4, "weight_decay": 0.1, "lr_warmup": 0.01, "min_lr_factor": 0.1,
    "batch_size": 128, "clip": 1.0,
}  # fmt: skip
CHROMATIN: dict[str, Any] = COMMON | {"task": "multilabel", "batch_size": 64, "epochs": 50, "patience": 50}
CANCER: dict[str, Any] = {
    "epochs": 20, "patience": 20, "lr": 6e-4, "weight_decay": 0.1, "clip": 1.0, "lr_warmup_steps": 250,
    "lr_steps": 25_000, "min_lr_factor": 5.99e-5 / 6e-4,
}  # fmt: skip
SPECIES: dict[str, Any] = COMMON | {"epochs": 200, "patience": 200}
SOFT: dict[str, Any] = {
    "method": "soft-prompt", "lr": 1e-3, "weight_decay": 0.0, "batch_size": 16, "accumulate": 8, "prompt_dropout": 0.1,
    "prompt_tokens": 32, "epochs": 20, "patience": 2, "lr_schedule": "plateau", "lr_warmup": 0.0, "min_lr_factor": 0.0,
    "reverse_complement": True, "ema_decay": 0.9, "clip": 1.0,
}  # fmt: skip
FEW: dict[str, Any] = {
    "method": "few-shot", "lr": 1e-4, "weight_decay": 0.0, "batch_size": 2, "epochs": 1, "train_examples": 256,
    "shots": 2, "eval_shots": [0, 2, 16, 32], "lr_warmup": 0.0, "min_lr_factor": 1.0, "clip": 1.0,
}  # fmt: skip

BENCHMARKS = {
    "gb": ("accuracy", "tiny-1k", "coding-vs-intergenomic 91.3 human-vs-worm 96.6 enhancers-cohn 74.2 "
           "enhancers-ensembl 89.2 regulatory 93.8 nontata-promoters 96.6 ocr 80.9"),
    "nt": ("mcc", "tiny-1k-d256", "enhancer 62.6 enhancer-types 55.7 H3 81.7 H3K4me1 57.1 H3K4me2 53.9 H3K4me3 61.2 "
           "H3K9ac 65.1 H3K14ac 66.3 H3K36me3 65.3 H3K79me3 71.6 H4 79.6 H4ac 63.7"),
    "nt ": ("f1_macro", "tiny-1k-d256", "promoter-all 96.5 promoter-non-tata 96.6 promoter-tata 96.7 "
            "splice-acceptor 96.6 splice-donor 97.3 splice-all 97.9"),
}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    # The model to take, the options, and the published figures.
    "gb-mouse-enhancers": ("tiny-16k", COMMON | {"accumulate": 5}, {"accuracy": 0.851}),
    "deepsea-1k": ("tiny-1k-d256", CHROMATIN | {"length": 1000},
                   {"auroc_tf": 0.964, "auroc_dhs": 0.930, "auroc_hm": 0.863}),
    "deepsea-8k": ("small-32k", CHROMATIN | {"length": 8000, "pooling": "last", "accumulate": 4},
                   {"auroc_tf": 0.955, "auroc_dhs": 0.917, "auroc_hm": 0.893}),
    "species-1k": ("tiny-1k", SPECIES | {"length": 1024, "lr": 6e-5, "batch_size": 256, "accumulate": 2},
                   {"accuracy": 0.611}),
    "species-32k": ("small-32k", SPECIES | {"length": 32_768, "lr": 3e-4, "batch_size": 256, "accumulate": 64},
                    {"accuracy": 0.934}),
    "species-250k": ("medium-450k", SPECIES | {"length": 250_000, "lr": 6e-5, "pooling": "last", "accumulate": 128},
                     {"accuracy": 0.979}),
    "species-450k": ("medium-450k", SPECIES | {"length": 450_000, "lr": 6e-4, "pooling": "last", "accumulate": 128,
                                           "warmup_length": 1024},
                     {"accuracy": 0.994}),
    "species-1m": ("large-1m", SPECIES | {"length": 1_000_000, "lr": 6e-5, "pooling": "last", "accumulate": 128},
                   {"accuracy": 0.995}),
    "cancer-1k": ("tiny-1k", CANCER | {"batch_size": 8}, {"accuracy": 0.5268}),
    "cancer-32k": ("small-32k", CANCER | {"batch_size": 2}, {"accuracy": 0.5462}),
    "cancer-32k-scratch": ("small-32k", CANCER | {"batch_size": 2, "method": "scratch"}, {"accuracy": 0.5}),
    "cancer-32k-frozen": ("small-32k", CANCER | {"batch_size": 2, "method": "frozen"}, {}),
    "soft-prompt": ("medium-160k", SOFT | {"letters": "AN"}, {}),
    "soft-prompt-3": ("medium-160k", SOFT | {"letters": "AGN"}, {}),
    "few-shot": ("medium-160k", FEW | {"letters": "AN"}, {}),
    "few-shot-3": ("medium-160k", FEW | {"letters": "AGN"}, {}),
}  # fmt: skip


def test_presets_have_the_published_figures_and_hyperparameters() -> None:
    expected = dict(OTHERS)
    metrics = {"deepsea": "auroc"}
    for prefix, (metric, size, text) in BENCHMARKS.items():
        words = text.split()
        for name, percent in zip(words[::2], words[1::2], strict=True):
            expected[f"{prefix.strip()}-{name}"] = (size, COMMON, {metric: round(float(percent) / 100, 3)})
            metrics[f"{prefix.strip()}-{name}"] = metric
    assert expected == {name: (found.size, found.options, found.published) for name, found in PRESETS.items()}
    for name, found in PRESETS.items():
        assert found.metric == metrics.get(name, metrics.get(name.split("-")[0], "accuracy"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_tells_its_sources_and_fits_its_model(name: str, tmp_path: Path) -> None:
    found = PRESETS[name]
    assert found.source
    assert all(note.split(":")[0] in ("choice", "not followed", "no figure") or len(note) > 20 for note in found.notes)
    assert "`data` is" in found.data
    assert PUBLISHED_SIZES[found.size]["max_seq_len"] >= (found.bases or 0)
    model = None if found.options.get("method") == "scratch" else tmp_path / "m"
    applied = apply_preset(FinetuneConfig(tmp_path / "d", tmp_path / "out", model=model, preset=name))
    applied.check_values()
    applied._check_together()
    for option, value in {"metric": found.metric, **found.options}.items():
        assert getattr(applied, option) == value
    bases = found.bases or 1024
    most = -(-applied.batch_size // applied.accumulate)
    assert most == 1 or most * bases <= MICRO_BATCH


def test_micro_batches_are_as_few_as_fit() -> None:
    assert [micro_batches(8, bases) for bases in (1, MICRO_BATCH // 8, MICRO_BATCH // 8 + 1, 10 * MICRO_BATCH)] == [
        1, 1, 2, 8,
    ]  # fmt: skip


def made(preset: str, **changes: Any) -> FinetuneConfig:
    return apply_preset(FinetuneConfig(Path("d"), Path("o"), preset=preset, **changes))


def test_options_that_are_given_win_over_the_preset() -> None:
    given = made("nt-H3", lr=1e-3, epochs=20)
    # Equal to the default, 20 counts as not given.
    assert (given.metric, given.batch_size, given.epochs, given.lr) == ("mcc", 128, 100, 1e-3)
    assert made("cancer-1k").lr_warmup_steps == 250
    assert made("cancer-1k", lr_warmup=0.1).lr_warmup_steps == 0
    assert made("cancer-1k", lr_schedule="plateau").lr_steps == 0
    assert made("species-32k", pack_tokens=32_768).accumulate == 1
    assert made("species-32k", batch_size=8).accumulate == 8
    assert made("species-250k", method="few-shot").pooling == "mean"
    scratch = made("deepsea-1k", method="scratch")
    assert (scratch.size, scratch.n_layer) == ("tiny-1k-d256", 8)
    assert made("deepsea-1k").size == "tiny-1k"
    assert config_module.changes(FinetuneConfig(Path("d"), Path("o"), lr=1e-3), given) == (
        "preset nt-H3, epochs 100, patience 100, metric mcc, batch_size 128, lr_warmup 0.01"
    )
    with pytest.raises(InputError, match="`preset` x: choose one of gb-mouse-enhancers"):
        made("x")


@pytest.mark.parametrize(
    ("preset", "data", "message"),
    [
        ("gb-ocr", "absent", "absent: no such file or folder; the data of --preset gb-ocr are GenomicBenchmarks: pip "),
        ("cancer-1k", ".", ".: has no known format: expected train/CLASS/*.txt and test/CLASS/*.txt (GenomicBench"),
    ],
)
def test_without_its_data_a_preset_says_where_they_are(
    preset: str, data: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["finetune", "--data", data, "--model", "m", "--out", "o", "--preset", preset])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert f"the data of --preset {preset} are" in line
    assert line.endswith(PRESETS[preset].data.replace("`data`", "--data"))


# Results


def splits(length: int = 1024, *, demonstration: bool = False, valid_drawn: bool = False) -> Splits:
    part = LabelledDataset([np.full(length, 7, dtype=np.uint8)], np.array([0]))
    return Splits(part, part, part, ["a", "b"], demonstration, valid_drawn)


def told(config: FinetuneConfig, *folds: Splits, size: str = "tiny-1k", **shape: int) -> dict[str, Any]:
    return against_published(config, list(folds or (splits(),)), PUBLISHED_SIZES[size] | shape)


def printed(found: dict[str, Any]) -> list[str]:
    """The lines of the table for the terminal."""
    rest = {"test": {}, "method": "full", "ablation": "none", "demonstration_split": False}
    return describe({**rest, "runs": [{"undefined": {}}], **found}).splitlines()


TINY = Path("hyenadna-tiny-1k-seqlen-hf")


def test_a_run_as_published_deviates_in_nothing() -> None:
    assert told(made("species-1k", model=TINY), splits(valid_drawn=True)) == {
        "preset": "species-1k", "deviations": {}, "weights": "published", "published": {"accuracy": 0.611},
        "published_row": "pretrained",
        "epoch_chosen_on": "drawn from the training examples", "not_comparable": [],
    }  # fmt: skip
    assert told(FinetuneConfig(Path("d"), Path("o"))) == {
        "preset": None, "deviations": {}, "weights": "none", "epoch_chosen_on": "validation split of the data",
    }  # fmt: skip


def test_without_a_figure_the_table_says_so() -> None:
    found = told(
        made("cancer-32k-frozen", model=Path("hyenadna-small-32k-seqlen-hf")), splits(32_768), size="small-32k"
    )
    assert (found["published"], found["not_comparable"], found["deviations"]) == ({}, [], {})
    assert printed(found)[1:] == ["no figure is published for the preset cancer-32k-frozen"]


def test_a_run_from_random_weights_is_beside_its_own_row() -> None:
    found = told(made("species-1k", method="scratch"))
    assert (found["published"], found["deviations"], found["not_comparable"]) == ({"accuracy": 0.539}, {}, [])
    assert printed(found)[1].split() == ["published", "scratch,", "accuracy", "0.5390"]
    # The tables have no such row for chromatin.
    found = told(made("deepsea-1k", method="scratch"), splits(1000), size="tiny-1k-d256", n_layer=8)
    assert found["published"]["auroc_tf"] == 0.964
    assert found["deviations"] == {"method": ["scratch", "full"]}
    assert found["not_comparable"] == ["the published figure is of method full, and this is scratch"]


@pytest.mark.parametrize(
    ("ablation", "model", "accuracy", "reasons"),
    [
        ("kmer", None, 0.818, []),
        ("gpt", None, 0.793, []),
        ("gpt", Path("run/gpt"), 0.793, ["training began from other weights than the published ones"]),
        ("cnn", None, 0.690, []),
        ("bidirectional-published", None, 0.806, []),
        ("bidirectional", None, 0.806, ["the published filter is delayed by half the length, as `ablation` "
                                        "bidirectional-published is"]),
        ("none", None, 0.847, []),
    ],
)  # fmt: skip
def test_an_ablation_is_beside_its_own_row(
    ablation: Any, model: Path | None, accuracy: float, reasons: list[str]
) -> None:
    method: Any = "full" if model else "scratch"
    given = FinetuneConfig(
        Path("d"), Path("o"), preset="gb-mouse-enhancers", method=method, model=model, ablation=ablation
    )
    config = apply_preset(given)
    is_hyena = ablation not in ("gpt", "cnn")
    assert config.size == ("tiny-16k" if is_hyena else "tiny-1k")
    found = told(config, splits(2000), **(PUBLISHED_SIZES["tiny-16k"] if is_hyena else {"d_model": 1}))
    assert (found["published"], found["deviations"], found["not_comparable"]) == ({"accuracy": accuracy}, {}, reasons)


@pytest.mark.parametrize(
    ("changes", "data", "shape", "deviations", "reasons"),
    [
        ({"lr": 1e-2}, {}, {}, {"lr": [1e-2, 6e-5]}, ["other options than the preset's: lr"]),
        ({"method": "lora"}, {}, {}, {"method": ["lora", "full"]}, ["the published figure is of method full"]),
        ({"length": 512}, {"length": 512}, {}, {"length": [512, 1024]},
         ["the longest sequence has 512 bases, the published ones 1,024", "other options than the preset's: length"]),
        ({}, {"demonstration": True}, {}, {}, ["the test was drawn from all examples"]),
        ({"folds": 3}, {}, {}, {}, ["it is a cross-validation"]),
        ({"model": Path("run/model")}, {}, {}, {}, ["training began from other weights than the published ones"]),
        ({}, {}, {"d_model": 16}, {"size": ["d_model 16, n_layer 2, max_seq_len 1026",
                                            "d_model 128, n_layer 2, max_seq_len 1026"]},
         ["the model has d_model 16, n_layer 2, max_seq_len 1026, the published one d_model 128",
          "training began from other weights"]),
    ],
)  # fmt: skip
def test_a_result_says_why_it_cannot_be_compared(
    changes: dict[str, Any], data: Any, shape: Any, deviations: dict[str, Any], reasons: list[str]
) -> None:
    found = told(made("species-1k", **{"model": TINY, **changes}), splits(**data), **shape)
    assert found["deviations"] == deviations
    assert len(found["not_comparable"]) == len(reasons)
    for line, reason in zip(found["not_comparable"], reasons, strict=True):
        assert line.startswith(reason)
    lines = printed(found)
    assert f"not comparable with the published figure: {found['not_comparable'][0]}" in lines
    assert [line for line in lines if line.startswith("deviations from the preset: ")] == (
        ["deviations from the preset: " + ", ".join(f"{name} {used} (preset {wanted})"
                                                    for name, (used, wanted) in deviations.items())]
        if deviations else []
    )  # fmt: skip
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (None, "tiny-1k", "none"),
        ("LongSafari/hyenadna-tiny-1k-seqlen-hf", "tiny-1k", "published"),
        ("x/hyenadna-small-32k-seqlen", "small-32k", "published"),
        ("x/hyenadna-small-32k-seqlen", "tiny-1k", "other"),
        ("tiny-1k", "tiny-1k", "other"),
        ("hyenadna-huge", "tiny-1k", "other"),
    ],
)
def test_weights_are_told_by_name_and_shape(model: str | None, size: str, expected: str) -> None:
    assert weights(Path(model) if model else None, PUBLISHED_SIZES[size]) == expected


def test_every_option_of_a_preset_is_one_of_finetune() -> None:
    names = {field.name for field in dataclasses.fields(cast(Any, FinetuneConfig))}
    assert {name for found in PRESETS.values() for name in (*found.options, *found.shape)} <= names
