"""Read a labelled dataset, and divide it into splits or folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hyenadna.common.choices import SPLITS, Split
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import reverse_complement
from hyenadna.data.dataset import (
    Example,
    LabelledDataset,
    check_classes,
    class_names,
    detect_format,
    read_examples,
    split_tables,
    to_dataset,
)
from hyenadna.data.sequences import kept

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig


@dataclass(frozen=True)
class Splits:
    """The splits of one run.

    ``names`` are the columns of the logits: classes, or outputs. ``demonstration`` is True if the test split was drawn
    here from all examples. Nobody else has figures for such a split, so it is not a benchmark. ``valid_drawn`` is True
    if the validation split was drawn here. ``notes`` are lines on what makes the figures of a split doubtful.
    """

    train: LabelledDataset
    valid: LabelledDataset
    test: LabelledDataset
    names: list[str]
    demonstration: bool
    valid_drawn: bool = False
    notes: list[str] = field(default_factory=list)

    def max_length(self) -> int:
        """Length in bases of the longest sequence of all splits."""
        return max(len(ids) for split in (self.train, self.valid, self.test) for ids in split.sequences)


def read_data(config: FinetuneConfig) -> list[Splits]:
    """Read ``config.data``: the splits of each fold, or of the only run without cross-validation.

    Raises:
        InputError: the data are damaged, do not fit the task, or leave a split empty. See
            :mod:`hyenadna.data.dataset`.
    """
    kind = detect_format(config.data) if config.format == "auto" else config.format
    _check_unused(config, kind)
    found = read_examples(
        config.data,
        kind,
        sequence_column=config.sequence_column,
        label_columns=config.label_columns,
        split_column=config.split_column,
        genome=config.genome,
        aliases=config.aliases,
        length=config.length,
        windows=config.species_windows,
        seed=config.split_seed,
    )
    if config.task == "classification":
        check_classes(example for part in found.values() for example in part)
    if config.length is not None:
        found = {split: [_cut(example, config) for example in part] for split, part in found.items()}
    rng = np.random.default_rng(config.split_seed)
    runs = _cross_validation(found, config, rng) if config.folds else [_split(found, config, rng)]
    demonstration = not config.folds and "" in found
    drawn = bool(config.folds) or not found.get("valid")
    notes = list(_left_out(config, found)) if kind == "tables" else []
    return [_make_splits(run, config, demonstration, drawn, notes) for run in runs]


def _left_out(config: FinetuneConfig, found: Mapping[str, list[Example]]) -> Iterator[str]:
    """Lines on what a folder of tables holds and nobody reads, and on rows that are drawn in place of a table."""
    if others := split_tables(config.data)[1]:
        yield f"{config.data}: left out {', '.join(path.name for path in others)}, which are tables of no split"
    if not config.folds and not found.get("valid"):
        share = f"{config.valid_fraction:.0%}"
        yield f"{config.data}: no validation rows; {share} of the training rows are held out, of whatever group"


def _check_unused(config: FinetuneConfig, kind: str) -> None:
    """Raise InputError for options that are for data of another format."""
    if kind != "table":
        config.refuse_unused(("split_column",), "a table as `data`")
    if kind not in ("table", "tables"):
        config.refuse_unused(("sequence_column",), "a table as `data`")
    if kind not in ("table", "tables", "deepsea"):
        # They name the outputs of DeepSEA too.
        config.refuse_unused(("label_columns",), "a table as `data`")
    if kind != "deepsea":
        config.refuse_unused(("genome", "aliases"), "DeepSEA's coordinates as `data`")
    if kind in ("deepsea", "species"):
        config.refuse_unused(("keep",), "sequences of other data, which are cut")
    if kind != "species":
        config.refuse_unused(("species_windows",), "species as `data`")


def _cross_validation(
    found: dict[str, list[Example]], config: FinetuneConfig, rng: np.random.Generator
) -> list[dict[str, list[Example]]]:
    examples = found.get("") or found.get("train", [])
    if config.folds > len(examples):
        raise InputError(f"`folds` {config.folds}: there are {len(examples):,} training examples; take fewer folds")
    # Dealt out like cards, class after class: the folds differ by at most one example of a class.
    order = [row for rows in _strata(examples, config.task, rng) for row in rows]
    parts = [[examples[i] for i in sorted(order[fold :: config.folds])] for fold in range(config.folds)]
    runs = []
    for fold, test in enumerate(parts):
        rest = [example for number, part in enumerate(parts) if number != fold for example in part]
        runs.append(_hold_out(rest, config, rng) | {"test": test})
    return runs


def _split(
    found: dict[str, list[Example]], config: FinetuneConfig, rng: np.random.Generator
) -> dict[str, list[Example]]:
    if "" in found:
        config.refuse_unused(("valid_fraction",), "splits in the data: of a single set, 10% are for validation")
        rest, test = _draw(found[""], 0.2, config.task, rng, keep=2)
        # An eighth of the rest is a tenth of all.
        train, valid = _draw(rest, 0.125, config.task, rng, keep=1)
        return {"train": train, "valid": valid, "test": test}
    if not found.get("train"):
        raise InputError(f"{config.data}: holds no training examples")
    if not found.get("valid"):
        found = found | _hold_out(found["train"], config, rng)
    else:
        config.refuse_unused(("valid_fraction",), "data that have no validation split")
    if not found.get("test"):
        raise InputError(f"{config.data}: holds no test examples: add some, or take `folds`")
    return found


def _hold_out(examples: list[Example], config: FinetuneConfig, rng: np.random.Generator) -> dict[str, list[Example]]:
    train, valid = _draw(examples, config.valid_fraction, config.task, rng, keep=1)
    return {"train": train, "valid": valid}


def _draw(
    examples: Sequence[Example], fraction: float, task: str, rng: np.random.Generator, *, keep: int
) -> tuple[list[Example], list[Example]]:
    """Divide examples at random, so that both parts have the same fraction of every class.

    Args:
        examples: the examples.
        fraction: fraction of the second part.
        task: only classes of whole sequences are strata.
        rng: draws the examples.
        keep: examples of each class that stay in the rest at least. If a class has more, the drawn part gets one.

    Returns:
        The rest, and the drawn part.
    """
    drawn: set[int] = set()
    for rows in _strata(examples, task, rng):
        count = min(max(1, round(fraction * len(rows))), max(0, len(rows) - keep))
        drawn.update(rows[:count])
    return (
        [example for i, example in enumerate(examples) if i not in drawn],
        [example for i, example in enumerate(examples) if i in drawn],
    )


def _strata(examples: Sequence[Example], task: str, rng: np.random.Generator) -> list[list[int]]:
    """The rows of each class in random order. Labels of another kind have one stratum."""
    rows: dict[str, list[int]] = {}
    for i in rng.permutation(len(examples)).tolist():
        rows.setdefault(str(examples[i].label) if task == "classification" else "", []).append(i)
    return [rows[name] for name in sorted(rows)]


def _make_splits(
    run: dict[str, list[Example]],
    config: FinetuneConfig,
    demonstration: bool,
    valid_drawn: bool,
    notes: Sequence[str],
) -> Splits:
    for split in SPLITS:
        if not run[split]:
            raise InputError(f"{config.data}: too few examples of each label, none is left for {split}")
    if config.task in ("classification", "token"):
        names = class_names(run["train"], config.task)
    else:
        first = run["train"][0].label
        width = len(first) if isinstance(first, tuple) else 1
        names = config.label_columns if len(config.label_columns) == width else [f"y{i}" for i in range(width)]
    splits = {split: to_dataset(run[split], config.task, names, split) for split in SPLITS}
    notes = [*notes, *_overlaps(splits), *_conflicts(run), *_absences(splits, config.task, names), *_paddings(run)]
    return Splits(**splits, names=names, demonstration=demonstration, valid_drawn=valid_drawn, notes=notes)


def _overlaps(splits: Mapping[Split, LabelledDataset]) -> Iterator[str]:
    """A line for each split with sequences that an earlier one holds as well."""
    pairs: tuple[tuple[Split, Split], ...] = (("valid", "train"), ("test", "train"), ("test", "valid"))
    for split, other in pairs:
        known = {ids.tobytes() for ids in splits[other].sequences}
        same = turned = 0
        for ids in splits[split].sequences:
            if ids.tobytes() in known:
                same += 1
            elif reverse_complement(ids).tobytes() in known:
                turned += 1
        if same or turned:
            strand = f" ({turned:,} as the reverse complement)" if turned else ""
            yield (
                f"{same + turned:,} of the {len(splits[split]):,} {split} sequences are {_OTHER[other]} too"
                f"{strand}: the {split} figures may be too good"
            )


_OTHER = {"train": "training sequences", "valid": "validation sequences"}


def _conflicts(run: dict[str, list[Example]]) -> Iterator[str]:
    """A line if equal sequences have different labels."""
    labels: dict[bytes, set[str | tuple[float, ...]]] = {}
    for split in SPLITS:
        for example in run[split]:
            labels.setdefault(example.ids.tobytes(), set()).add(example.label)
    if count := sum(len(found) > 1 for found in labels.values()):
        yield f"of the sequences that repeat, {count:,} have different labels: no model can be right on all of these"


def _absences(splits: Mapping[Split, LabelledDataset], task: str, names: list[str]) -> Iterator[str]:
    """A line for each split without an example of some class, or with one value only in an output."""
    parts: tuple[Split, ...] = ("valid", "test")
    for split in parts:
        labels = splits[split].labels
        if task in ("classification", "token"):
            present = np.unique(np.concatenate(labels) if isinstance(labels, list) else labels)
            absent = [name for i, name in enumerate(names) if i not in present]
            if absent:
                yield (
                    f"the {split} split holds no example of {_listed(absent)}: metrics over all classes have no value "
                    "there"
                )
        elif task == "multilabel":
            means = np.asarray(labels).mean(axis=0)
            single = [name for name, mean in zip(names, means, strict=True) if mean in (0.0, 1.0)]
            if single:
                yield (
                    f"the {split} split has one value only of {_listed(single)}: the metrics of several labels leave "
                    "such outputs out"
                )


def _paddings(run: dict[str, list[Example]]) -> Iterator[str]:
    """A line for each split with windows that a chromosome ends in."""
    for split in SPLITS:
        if count := sum(example.padded > 0 for example in run[split]):
            yield (
                f"{count:,} of the {len(run[split]):,} {split} windows end in N, because no chromosome of their "
                "species has the `length`: the figures are in part those of shorter sequences"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _cut(example: Example, config: FinetuneConfig) -> Example:
    """The example in ``config.length``, with the labels of the bases that stay."""
    part = kept(len(example.ids), config.length, config.keep)
    if config.task != "token":
        return example._replace(ids=example.ids[part])
    if len(str(example.label)) != len(example.ids):
        # It is refused as it is, and not cut until it fits.
        return example
    return example._replace(ids=example.ids[part], label=str(example.label)[part])
