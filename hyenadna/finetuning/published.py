"""How a fine-tuning differs from the published one of its preset, and whether their figures can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyenadna.finetuning.presets import Preset, preset
from hyenadna.model.sizes import PUBLISHED_NAMES, PUBLISHED_SIZES

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig
    from hyenadna.finetuning.data import Splits

_CNN_OPTIONS = ("epochs", "patience", "batch_size", "lr", "weight_decay")
_SHAPE = ("d_model", "n_layer", "max_seq_len")


def against_published(config: FinetuneConfig, folds: list[Splits], shape: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of results.json on the preset, the weights and the published figure.

    Args:
        config: the options, with those of the preset.
        folds: the splits of each fold, or of the only run without cross-validation.
        shape: the configuration of the trained model.

    Returns:
        ``preset`` (None without one); ``deviations``, of each option the value used and the preset's; ``weights``, see
        :func:`weights`; ``epoch_chosen_on``; and with a preset ``published`` and ``published_row``, the values of its
        row of the published tables and that row, and ``not_comparable``, the reasons why they are of something else.
    """
    drawn = any(data.valid_drawn for data in folds)
    found: dict[str, Any] = {
        "preset": config.preset,
        "deviations": {},
        "weights": weights(config.model, shape),
        "epoch_chosen_on": "drawn from the training examples" if drawn else "validation split of the data",
    }
    if config.preset is None:
        return found
    wanted = preset(config.preset)
    row = _row(config, wanted)
    published = wanted.published_of(row) or wanted.published
    found["published_row"] = row if wanted.published_of(row) else wanted.row
    found["deviations"] = _deviations(config, wanted, row, shape)
    found["published"] = published
    found["not_comparable"] = list(_differences(config, wanted, row, folds, found)) if published else []
    return found


def weights(model: Path | None, shape: Mapping[str, Any]) -> str:
    """Where training began: ``"none"``, ``"published"`` or ``"other"``.

    A checkpoint counts as published if it has the name of a published one, such as ``hyenadna-tiny-1k-seqlen-hf``, and
    its shape. Its numbers are not looked at.
    """
    if model is None:
        return "none"
    name = re.fullmatch(r"hyenadna-(.+?)(-hf)?", Path(model).name)
    size = PUBLISHED_NAMES.get(name[1]) if name else None
    same = size is not None and all(shape.get(key) == value for key, value in PUBLISHED_SIZES[size].items())
    return "published" if same else "other"


def _row(config: FinetuneConfig, wanted: Preset) -> str:
    """The row of the published tables that the run belongs to: an ablation's, or the preset's."""
    ablation: str = config.ablation
    if config.architecture == "enbed":
        return "enbed" if config.method == "scratch" else "enbed-pretrained"
    if ablation == "none":
        return "scratch" if config.method == "scratch" else wanted.row
    if ablation == "gpt" and config.model is not None:
        return "gpt-pretrained"
    return ablation.removesuffix("-published")


def _deviations(config: FinetuneConfig, wanted: Preset, row: str, shape: Mapping[str, Any]) -> dict[str, list[Any]]:
    options = {"method": "full", "metric": wanted.metric, **wanted.options}
    if row != wanted.row and wanted.published_of(row):
        # The tables have a row for it.
        del options["method"]
    found = {
        name: [used, value]
        for name, value in options.items()
        if name not in config.runtime and (used := getattr(config, name)) != value
    }
    if row == "cnn":
        # Its own paper trains it in another way.
        found = {name: pair for name, pair in found.items() if name not in _CNN_OPTIONS}
    if row in ("cnn", "gpt", "gpt-pretrained", "enbed", "enbed-pretrained"):
        return found
    size = {**PUBLISHED_SIZES[wanted.size], **wanted.shape}
    if any(shape.get(name) != size[name] for name in _SHAPE):
        found["size"] = [_described(shape), _described(size)]
    return found


def _described(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shape.get(name)}" for name in _SHAPE)


def _differences(
    config: FinetuneConfig, wanted: Preset, row: str, folds: list[Splits], found: Mapping[str, Any]
) -> Iterator[str]:
    """What the published figure has and this result does not, one reason after another."""
    deviations = found["deviations"]
    if config.folds:
        yield "it is a cross-validation, and the published figure is of one split"
    elif folds[0].demonstration:
        yield "the test was drawn from all examples"
    if "method" in deviations and config.architecture == "hyena":
        yield "the published figure is of method {1}, and this is {0}".format(*deviations["method"])
    elif not wanted.published_of(row):
        yield f"no figure is published of the row {row}, and this is that of the row {wanted.row}"
    if config.ablation == "bidirectional":
        yield "the published filter is delayed by half the length, as `ablation` bidirectional-published is"
    if "size" in deviations:
        yield "the model has {}, the published one {}".format(*deviations["size"])
    if found["weights"] == "other":
        yield "training began from other weights than the published ones"
    longest = max(data.max_length() for data in folds)
    if wanted.bases is not None and longest != wanted.bases:
        yield f"the longest sequence has {longest:,} bases, the published ones {wanted.bases:,}"
    others = [name for name in deviations if name not in ("method", "size")]
    if others:
        yield f"other options than the preset's: {', '.join(others)}"
