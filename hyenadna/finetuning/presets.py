"""Published downstream tasks: hyperparameters, lengths, metrics and figures.

Sources: the configurations ``genomic_benchmark``, ``nucleotide_transformer``, ``chromatin_profile`` and ``species`` of
the HyenaDNA repository (AdamW, 100 epochs, 1% warm-up, cosine to a tenth, weight decay 0.1), and the tables of Nguyen
et al., "HyenaDNA", 2023 (arXiv 2306.15794). The first two benchmarks have no validation split. Here one is drawn from
the training examples, and the test examples are used once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hyenadna.common.errors import InputError


@dataclass(frozen=True)
class Preset:
    """A published task.

    Attributes:
        metric: the metric of ``hyenadna.evaluation.metrics`` that decides on the best epoch.
        published: values that the published weights reached, from 0 to 1, by metric.
        options: fields of ``FinetuneConfig``.
    """

    metric: str
    published: dict[str, float]
    options: dict[str, Any]


_COMMON = {"epochs": 100, "lr": 6e-4, "weight_decay": 0.1, "lr_warmup": 0.01, "min_lr_factor": 0.1, "batch_size": 128}


def _presets() -> dict[str, Preset]:
    found: dict[str, Preset] = {}
    for name, accuracy in (
        ("mouse-enhancers", 85.1),
        ("coding-vs-intergenomic", 91.3),
        ("human-vs-worm", 96.6),
        ("enhancers-cohn", 74.2),
        ("enhancers-ensembl", 89.2),
        ("regulatory", 93.8),
        ("nontata-promoters", 96.6),
        ("ocr", 80.9),
    ):
        found[f"gb-{name}"] = Preset("accuracy", {"accuracy": round(accuracy / 100, 4)}, _COMMON)
    for name, metric, value in (
        ("enhancer", "mcc", 62.6),
        ("enhancer-types", "mcc", 55.7),
        ("H3", "mcc", 81.7),
        ("H3K4me1", "mcc", 57.1),
        ("H3K4me2", "mcc", 53.9),
        ("H3K4me3", "mcc", 61.2),
        ("H3K9ac", "mcc", 65.1),
        ("H3K14ac", "mcc", 66.3),
        ("H3K36me3", "mcc", 65.3),
        ("H3K79me3", "mcc", 71.6),
        ("H4", "mcc", 79.6),
        ("H4ac", "mcc", 63.7),
        ("promoter-all", "f1_macro", 96.5),
        ("promoter-non-tata", "f1_macro", 96.6),
        ("promoter-tata", "f1_macro", 96.7),
        ("splice-acceptor", "f1_macro", 96.6),
        ("splice-donor", "f1_macro", 97.3),
        ("splice-all", "f1_macro", 97.9),
    ):
        found[f"nt-{name}"] = Preset(metric, {metric: round(value / 100, 4)}, _COMMON)
    for name, length, values in (("1k", 1000, (0.964, 0.930, 0.863)), ("8k", 8000, (0.955, 0.917, 0.893))):
        deepsea = {"task": "multilabel", "length": length, "batch_size": 1000}
        groups = dict(zip(("auroc_tf", "auroc_dhs", "auroc_hm"), values, strict=True))
        found[f"deepsea-{name}"] = Preset("auroc", groups, _COMMON | deepsea)
    for name, length, accuracy in (
        ("1k", 1024, 61.1),
        ("32k", 32_768, 93.4),
        ("250k", 250_000, 97.9),
        ("450k", 450_000, 99.4),
        ("1m", 1_000_000, 99.5),
    ):
        options = {"length": length, "lr": 6e-5, "batch_size": 256}
        found[f"species-{name}"] = Preset("accuracy", {"accuracy": round(accuracy / 100, 4)}, _COMMON | options)
    return found | _cancer()


def _cancer() -> dict[str, Preset]:
    """Tables 3.4 and 3.5 of the thesis "Foundation models for cancer genomics with HyenaDNA"."""
    common = {
        "epochs": 20, "patience": 20, "lr": 6e-4, "weight_decay": 0.1, "clip": 1.0, "lr_warmup_steps": 250,
        "lr_steps": 25_000, "min_lr_factor": 5.99e-5 / 6e-4,
    }  # fmt: skip
    long = common | {"batch_size": 2}
    return {
        "cancer-1k": Preset("accuracy", {"accuracy": 0.5268}, common | {"batch_size": 8}),
        "cancer-32k": Preset("accuracy", {"accuracy": 0.5462}, long),
        "cancer-32k-scratch": Preset("accuracy", {"accuracy": 0.5}, long | {"method": "scratch", "size": "small-32k"}),
        # Its loss exploded, so that there is no figure.
        "cancer-32k-frozen": Preset("accuracy", {}, long | {"method": "frozen"}),
    }


PRESETS = _presets()


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none. The message lists the presets.
    """
    if name not in PRESETS:
        raise InputError(f"`preset` {name}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
