"""Read a labelled dataset, and divide it into splits or folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hyenadna.common.choices import SPLITS
from hyenadna.common.errors import InputError
from hyenadna.data.dataset import Example, LabelledDataset, class_names, read_examples, to_dataset

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig


@dataclass(frozen=True)
class Splits:
    """The splits of one run.

    ``names`` are the columns of the logits: classes, or outputs. ``demonstration`` is True if the test split was drawn
    here from all examples. Nobody else has figures for such a split, so it is not a benchmark.
    """

    train: LabelledDataset
    valid: LabelledDataset
    test: LabelledDataset
    names: list[str]
    demonstration: bool

    def max_length(self) -> int:
        """Length in bases of the longest sequence of all splits."""
        return max(len(ids) for split in (self.train, self.valid, self.test) for ids in split.sequences)


def read_data(config: FinetuneConfig) -> list[Splits]:
    """Read ``config.data``: the splits of each fold, or of the only run without cross-validation.

    Raises:
        InputError: the data are damaged, do not fit the task, or leave a split empty. See
            :mod:`hyenadna.data.dataset`.
    """
    found = read_examples(
        config.data,
        config.format,
        sequence_column=config.sequence_column,
        label_columns=config.label_columns,
        split_column=config.split_column,
        genome=config.genome,
        aliases=config.aliases,
        length=config.length,
        windows=config.species_windows,
        seed=config.split_seed,
    )
    if config.length is not None:
        found = {split: [_middle(example, config) for example in part] for split, part in found.items()}
    rng = np.random.default_rng(config.split_seed)
    runs = _cross_validation(found, config, rng) if config.folds else [_split(found, config, rng)]
    demonstration = not config.folds and "" in found
    return [_make_splits(run, config, demonstration) for run in runs]


def _cross_validation(
    found: dict[str, list[Example]], config: FinetuneConfig, rng: np.random.Generator
) -> list[dict[str, list[Example]]]:
    examples = found.get("") or found.get("train", [])
    parts = [[examples[i] for i in rows] for rows in np.array_split(rng.permutation(len(examples)), config.folds)]
    runs = []
    for fold, test in enumerate(parts):
        rest = [example for number, part in enumerate(parts) if number != fold for example in part]
        runs.append(_hold_out(rest, config.valid_fraction) | {"test": test})
    return runs


def _split(
    found: dict[str, list[Example]], config: FinetuneConfig, rng: np.random.Generator
) -> dict[str, list[Example]]:
    if "" in found:
        examples = [found[""][i] for i in rng.permutation(len(found[""]))]
        test_start = round(0.8 * len(examples))
        valid_start = test_start - round(0.1 * len(examples))
        return {
            "train": examples[:valid_start],
            "valid": examples[valid_start:test_start],
            "test": examples[test_start:],
        }
    if not found.get("train"):
        raise InputError(f"{config.data}: holds no training examples")
    if not found.get("valid"):
        train = [found["train"][i] for i in rng.permutation(len(found["train"]))]
        found = found | _hold_out(train, config.valid_fraction)
    if not found.get("test"):
        raise InputError(f"{config.data}: holds no test examples: add some, or take `folds`")
    return found


def _hold_out(examples: list[Example], fraction: float) -> dict[str, list[Example]]:
    cut = max(1, round(fraction * len(examples)))
    return {"train": examples[cut:], "valid": examples[:cut]}


def _make_splits(run: dict[str, list[Example]], config: FinetuneConfig, demonstration: bool) -> Splits:
    for split in SPLITS:
        if not run[split]:
            raise InputError(f"{config.data}: too few examples, none is left for {split}")
    if config.task in ("classification", "token"):
        names = class_names(run["train"], config.task)
    else:
        first = run["train"][0].label
        width = len(first) if isinstance(first, tuple) else 1
        names = config.label_columns if len(config.label_columns) == width else [f"y{i}" for i in range(width)]
    splits = {split: to_dataset(run[split], config.task, names, split) for split in SPLITS}
    return Splits(**splits, names=names, demonstration=demonstration)


def _middle(example: Example, config: FinetuneConfig) -> Example:
    length = config.length or len(example.ids)
    first = max(0, (len(example.ids) - length) // 2)
    label = example.label
    if config.task == "token" and isinstance(label, str):
        label = label[first : first + length]
    return Example(example.where, example.ids[first : first + length], label)
