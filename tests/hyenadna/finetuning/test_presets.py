"""The published tasks: figures of the paper's tables in percent, hyperparameters of the repository's configurations."""

from __future__ import annotations

from typing import Any

import pytest

from hyenadna.finetuning.presets import PRESETS, Preset

COMMON: dict[str, Any] = {
    "epochs": 100, "lr": 6e-4, "weight_decay": 0.1, "lr_warmup": 0.01, "min_lr_factor": 0.1, "batch_size": 128,
}  # fmt: skip

BENCHMARKS = {
    "gb": ("accuracy", "mouse-enhancers 85.1 coding-vs-intergenomic 91.3 human-vs-worm 96.6 enhancers-cohn 74.2 "
           "enhancers-ensembl 89.2 regulatory 93.8 nontata-promoters 96.6 ocr 80.9"),
    "nt": ("mcc", "enhancer 62.6 enhancer-types 55.7 H3 81.7 H3K4me1 57.1 H3K4me2 53.9 H3K4me3 61.2 H3K9ac 65.1 "
           "H3K14ac 66.3 H3K36me3 65.3 H3K79me3 71.6 H4 79.6 H4ac 63.7"),
    "nt ": ("f1_macro", "promoter-all 96.5 promoter-non-tata 96.6 promoter-tata 96.7 splice-acceptor 96.6 "
            "splice-donor 97.3 splice-all 97.9"),
}  # fmt: skip
DEEPSEA = {
    "1k": (1000, {"auroc_tf": 0.964, "auroc_dhs": 0.930, "auroc_hm": 0.863}),
    "8k": (8000, {"auroc_tf": 0.955, "auroc_dhs": 0.917, "auroc_hm": 0.893}),
}
SPECIES = {"1k": (1024, 0.611), "32k": (32_768, 0.934), "250k": (250_000, 0.979), "450k": (450_000, 0.994),
           "1m": (1_000_000, 0.995)}  # fmt: skip


def test_presets_have_the_published_figures_and_hyperparameters() -> None:
    expected: dict[str, Preset] = {}
    for prefix, (metric, text) in BENCHMARKS.items():
        words = text.split()
        for name, percent in zip(words[::2], words[1::2], strict=True):
            expected[f"{prefix.strip()}-{name}"] = Preset(metric, {metric: round(float(percent) / 100, 3)}, COMMON)
    for name, (length, figures) in DEEPSEA.items():
        options = {"task": "multilabel", "length": length, "batch_size": 1000}
        expected[f"deepsea-{name}"] = Preset("auroc", figures, COMMON | options)
    for name, (length, accuracy) in SPECIES.items():
        options = {"length": length, "lr": 6e-5, "batch_size": 256}
        expected[f"species-{name}"] = Preset("accuracy", {"accuracy": accuracy}, COMMON | options)
    assert expected == {name: found for name, found in PRESETS.items() if not name.startswith("cancer-")}


CANCER: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "1k": ({"accuracy": 0.5268}, {"batch_size": 8}),
    "32k": ({"accuracy": 0.5462}, {"batch_size": 2}),
    "32k-scratch": ({"accuracy": 0.5}, {"batch_size": 2, "method": "scratch", "size": "small-32k"}),
    "32k-frozen": ({}, {"batch_size": 2, "method": "frozen"}),
}


@pytest.mark.parametrize("name", CANCER)
def test_presets_of_cancer_types_have_the_figures_and_the_schedule_of_the_thesis(name: str) -> None:
    published, own = CANCER[name]
    found = PRESETS[f"cancer-{name}"]
    assert (found.metric, found.published) == ("accuracy", published)
    common = {"epochs": 20, "lr": 6e-4, "weight_decay": 0.1, "clip": 1.0, "lr_warmup_steps": 250, "lr_steps": 25_000}
    assert {key: value for key, value in found.options.items() if key not in ("min_lr_factor", "patience")} == (
        common | own
    )
    assert found.options["lr"] * found.options["min_lr_factor"] == pytest.approx(5.99e-5)
