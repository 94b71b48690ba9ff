"""Other labels for the lines of training and validation: a control in which nothing can be learnt about the test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from hyenadna.cancer.study_data import REFERENCE, SPLIT_WORDS, StudyData
from hyenadna.common.choices import Split
from hyenadna.common.extras import require
from hyenadna.common.files import atomic_dir
from hyenadna.data.tables import read_table

SHUFFLED: tuple[Split, ...] = ("train", "valid")
"""Splits whose lines get other labels."""


def shuffled_labels(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New labels of lines that say nothing about the true ones.

    The lines of each class get the new labels in the shares that these have among all lines. A plain permutation would
    keep more or fewer than that by chance: with 20 lines of two classes often 12 or 8. Such a remainder can be learnt,
    and a strong signal then gives a test accuracy far above or below chance.

    Args:
        labels: int64 ``(lines,)``, the true classes.
        rng: chooses which lines get which label.

    Returns:
        int64 ``(lines,)``.
    """
    found = np.empty_like(labels)
    shares = np.bincount(labels) / len(labels)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        # Each class gets the whole part of its share, and the largest remainders get one more.
        exact = shares * len(rows)
        counts = np.floor(exact).astype(np.int64)
        # Half of two lines each is no reason for the first class to come first, so equal remainders are drawn.
        remainders = np.round(exact - counts, 9) + 1e-12 * rng.random(len(exact))
        counts[np.argsort(-remainders)[: len(rows) - int(counts.sum())]] += 1
        found[rows] = np.repeat(np.arange(len(shares)), counts)
    return found


def shuffle(data: StudyData, seed: int, folder: Path) -> tuple[StudyData, dict[str, str]]:
    """The study with shuffled labels in training and validation, and its tables in ``folder`` for `hyenadna finetune`.

    Args:
        data: the tables as they are.
        seed: seed of the new labels.
        folder: where the new tables are written, as Parquet. If it is there, it is of a stopped run with equal options,
            and stays.

    Returns:
        The study, and the new class of each line.
    """
    rng = np.random.default_rng(seed)
    splits = dict(data.splits)
    given: dict[str, str] = {}
    for split in SHUFFLED:
        windows = splits[split]
        labels = shuffled_labels(windows.line_labels, rng)
        splits[split] = dataclasses.replace(windows, labels=labels[windows.lines])
        given |= {name: data.classes[label] for name, label in zip(windows.names, labels.tolist(), strict=True)}
    tables = {split: folder / f"{split}.parquet" for split in data.splits}
    if not folder.exists():
        with atomic_dir(folder) as draft:
            for split, windows in splits.items():
                names = ["sequence", *([REFERENCE] if windows.references is not None else [])]
                columns = read_table(data.tables[split], names, only=True)
                columns["label"] = [data.classes[label] for label in windows.labels.tolist()]
                require("polars").DataFrame(columns).write_parquet(draft / tables[split].name)
    words = " and ".join(SPLIT_WORDS[split] for split in SHUFFLED)
    notes = [
        f"the labels of the {words} lines are shuffled: a control, which must be near chance, above or below it",
        *data.notes,
    ]
    return dataclasses.replace(data, folder=folder, tables=tables, splits=splits, notes=notes), given
