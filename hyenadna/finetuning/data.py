"""The labelled sequences of one fine-tuning, in its splits or folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.data.dataset import Example, LabelledDataset, class_names, read_examples, to_dataset

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig


@dataclass(frozen=True)
class Data:
    """The splits of one run, the names of the columns of the logits, and whether the test was drawn from all examples.

    A test set that we draw ourselves makes a demonstration, no benchmark: nobody else's figures are of it.
    """

    train: LabelledDataset
    valid: LabelledDataset
    test: LabelledDataset
    names: list[str]
    demonstration: bool


def read_data(config: FinetuneConfig) -> list[Data]:
    """The splits, one for each fold.

    Raises:
        InputError: data that do not fit the task: see :mod:`hyenadna.data.dataset`.
    """
    found = read_examples(
        config.data,
        config.format,
        sequence_column=config.sequence_column,
        label_columns=config.label_columns,
        split_column=config.split_column,
        genome=config.genome,
        length=config.length,
        windows=config.species_windows,
        seed=config.split_seed,
    )
    if config.length is not None:
        found = {split: [_middle(example, config) for example in part] for split, part in found.items()}
    rng = np.random.default_rng(config.split_seed)
    if config.folds:
        everything = found.get("") or found.get("train", [])
        order = rng.permutation(len(everything))
        parts = [everything[:0]] + [[everything[i] for i in rows] for rows in np.array_split(order, config.folds)]
        runs = []
        for fold in range(1, config.folds + 1):
            rest = [e for number, part in enumerate(parts) if number != fold for e in part]
            cut = max(1, round(config.valid_fraction * len(rest)))
            runs.append({"train": rest[cut:], "valid": rest[:cut], "test": parts[fold]})
    else:
        runs = [_split(found, config, rng)]
    demonstration = not config.folds and "" in found
    return [_as_data(run, config, demonstration) for run in runs]


def _split(
    found: dict[str, list[Example]], config: FinetuneConfig, rng: np.random.Generator
) -> dict[str, list[Example]]:
    if "" in found:
        everything = [found[""][i] for i in rng.permutation(len(found[""]))]
        cut = round(0.8 * len(everything))
        held = round(0.1 * len(everything))
        return {"train": everything[: cut - held], "valid": everything[cut - held : cut], "test": everything[cut:]}
    if not found.get("train"):
        raise InputError(f"{config.data}: holds no training examples")
    if not found.get("valid"):
        train = [found["train"][i] for i in rng.permutation(len(found["train"]))]
        cut = max(1, round(config.valid_fraction * len(train)))
        found = found | {"train": train[cut:], "valid": train[:cut]}
    if not found.get("test"):
        raise InputError(f"{config.data}: holds no test examples: add some, or take --folds")
    return found


def _as_data(run: dict[str, list[Example]], config: FinetuneConfig, demonstration: bool) -> Data:
    for split in ("train", "valid", "test"):
        if not run[split]:
            raise InputError(f"{config.data}: too few examples: none is left for {split}")
    if config.task in ("classification", "token"):
        names = class_names(run["train"], config.task)
    else:
        first = run["train"][0].label
        width = len(first) if isinstance(first, tuple) else 1
        names = config.label_columns if len(config.label_columns) == width else [f"y{i}" for i in range(width)]
    splits = {split: to_dataset(run[split], config.task, names, split) for split in ("train", "valid", "test")}
    return Data(**splits, names=names, demonstration=demonstration)


def _middle(example: Example, config: FinetuneConfig) -> Example:
    length = config.length or len(example.ids)
    first = max(0, (len(example.ids) - length) // 2)
    label = example.label
    if config.task == "token" and isinstance(label, str):
        label = label[first : first + length]
    return Example(example.where, example.ids[first : first + length], label)
