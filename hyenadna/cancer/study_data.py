"""The tables of ``hyenadna mutate`` for the study, with checks of their split by line and patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from hyenadna.common.choices import SPLITS, Split
from hyenadna.common.errors import InputError
from hyenadna.data.dataset import Example, class_names, split_tables
from hyenadna.data.sequences import encode
from hyenadna.data.tables import is_missing, read_table

SPLIT_WORDS: dict[Split, str] = {"train": "training", "valid": "validation", "test": "test"}
"""The splits in messages."""

REFERENCE = "reference"
"""Column with the windows without mutations."""


@dataclass(frozen=True)
class Windows:
    """The windows of one split, in the order of its table. What the table does not hold is None.

    Attributes:
        sequences: token ids, uint8 ``(L,)`` each, with the mutations.
        references: the same windows without mutations.
        labels: int64 ``(n,)``, numbers of the classes.
        names: the lines, sorted.
        lines: int64 ``(n,)``, places in ``names``.
        patients: the patient of each line, "" where unknown.
        contigs: ``(n,)`` text.
        starts: int64 ``(n,)``, 0-based.
        ends: int64 ``(n,)``, behind the last base.
        mutations: int64 ``(n,)``, mutations in each window.
    """

    sequences: list[np.ndarray]
    references: list[np.ndarray] | None
    labels: np.ndarray
    names: list[str]
    lines: np.ndarray
    patients: list[str]
    contigs: np.ndarray | None
    starts: np.ndarray | None
    ends: np.ndarray | None
    mutations: np.ndarray | None

    @property
    def line_labels(self) -> np.ndarray:
        """The class of each line, int64 ``(lines,)``."""
        labels = np.empty(len(self.names), dtype=np.int64)
        labels[self.lines] = self.labels
        return labels


@dataclass(frozen=True)
class StudyData:
    """All splits of a folder of tables.

    Attributes:
        folder: the folder.
        tables: the table of each split.
        classes: names of the classes. A label is a place in it.
        length: bases of the longest window.
        splits: the windows by split.
        notes: lines on what makes the figures doubtful, or what is missing.
        overlaps: for pairs such as "test in train", how many windows of the first share bases with one of the second.
    """

    folder: Path
    tables: dict[Split, Path]
    classes: list[str]
    length: int
    splits: dict[Split, Windows]
    notes: list[str]
    overlaps: dict[str, int]


def read_study(folder: Path) -> StudyData:
    """Read and check the tables of a folder.

    Raises:
        InputError: a table is missing, empty or damaged; a line has two classes, or is in two splits, as may be a
            patient; or a class has no line in a split.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: give a folder of hyenadna mutate, with train.tsv, validation.tsv and test.tsv")
    tables, _ = split_tables(folder)
    for split, word in SPLIT_WORDS.items():
        if split not in tables:
            name = "validation" if split == "valid" else split
            raise InputError(f"{folder}: holds no {word} table {name}.tsv; hyenadna mutate writes one")
    # One split after another: the text of a table takes more memory than its windows.
    classes: list[str] = []
    splits: dict[Split, Windows] = {}
    held: dict[Split, set[str]] = {}
    for split in SPLITS:
        columns = _read_columns(tables[split], SPLIT_WORDS[split])
        if split == "train":
            # As fine-tuning numbers them.
            words = {str(label) for label in columns["label"]}
            classes = class_names([Example("", np.empty(0), word) for word in words], "classification")
        splits[split] = _windows(tables[split], columns, classes)
        held[split] = {*columns}
    _check_apart(folder, splits)
    for split in SPLITS:
        counts = np.bincount(splits[split].line_labels, minlength=len(classes))
        if not counts.all():
            missing = classes[int(counts.argmin())]
            raise InputError(f"{tables[split]}: holds no line of the class {missing!r}: no metric could count it")
    overlaps = _overlaps(splits)
    notes = [*_missing_columns(held), *_overlap_notes(overlaps, splits)]
    length = max(len(ids) for windows in splits.values() for ids in windows.sequences)
    chosen = {split: tables[split] for split in SPLITS}
    return StudyData(folder, chosen, classes, length, splits, notes, overlaps)


_NEEDED = ("sequence", "label", "group")
_OPTIONAL = {
    "patient": "patients on both sides cannot be found",
    "contig": "windows that overlap between the splits cannot be counted, and there is no yardstick of the position",
    "start": "as for contig",
    "end": "as for contig",
    "n_mutations": "there is no yardstick of the number of mutations",
    REFERENCE: "there is no control on unmutated windows; hyenadna mutate --reference true writes the column",
}


def _read_columns(path: Path, word: str) -> dict[str, list[str | None]]:
    found = read_table(path, _NEEDED, may_be_empty=True)
    if not found["label"]:
        hint = "; hold out training lines, see hyenadna mutate --help" if word == "validation" else ""
        raise InputError(f"{path}: the {word} table has no rows{hint}")
    for name in _NEEDED:
        if empty := [row for row, value in enumerate(found[name], start=1) if value is None]:
            raise InputError(f"{path}: row {empty[0]}: column {name!r} is empty there (in {len(empty):,} rows)")
    return {name: found[name] for name in (*_NEEDED, *_OPTIONAL) if name in found}


def _missing_columns(held: Mapping[Split, Container[str]]) -> list[str]:
    notes = []
    for name, effect in _OPTIONAL.items():
        if without := [SPLIT_WORDS[split] for split in SPLITS if name not in held[split]]:
            notes.append(f"no column {name} in the {' and '.join(without)} table: {effect}")
    return notes


def _windows(path: Path, columns: Mapping[str, list[str | None]], classes: list[str]) -> Windows:
    number = {name: i for i, name in enumerate(classes)}
    labels = [str(label) for label in columns["label"]]
    for row, label in enumerate(labels, start=1):
        if label not in number:
            raise InputError(f"{path}: row {row}: no training line has the class {label!r}")
    groups = np.array([str(group) for group in columns["group"]])
    names, lines = np.unique(groups, return_inverse=True)
    patients = [""] * len(names)
    own: dict[str, str] = {}
    for row, (line, label) in enumerate(zip(groups.tolist(), labels, strict=True)):
        if own.setdefault(line, label) != label:
            raise InputError(f"{path}: the line {line} has two classes, {own[line]!r} and {label!r}; a line has one")
        patient = columns["patient"][row] if "patient" in columns else None
        if patient is None or is_missing(patient):
            continue
        known = patients[lines[row]] or patient
        if known != patient:
            raise InputError(f"{path}: the line {line} has two patients, {known!r} and {patient!r}; a line has one")
        patients[lines[row]] = patient
    contigs = columns.get("contig")
    return Windows(
        sequences=_encoded(path, columns["sequence"]),
        references=_encoded(path, columns[REFERENCE]) if REFERENCE in columns else None,
        labels=np.array([number[label] for label in labels]),
        names=names.tolist(),
        lines=lines,
        patients=patients,
        contigs=None if contigs is None else np.array([contig or "" for contig in contigs]),
        starts=_integers(path, "start", columns),
        ends=_integers(path, "end", columns),
        mutations=_integers(path, "n_mutations", columns),
    )


def _encoded(path: Path, texts: list[str | None]) -> list[np.ndarray]:
    return [encode(text or "", f"{path}: row {row}") for row, text in enumerate(texts, start=1)]


def _integers(path: Path, name: str, columns: Mapping[str, list[str | None]]) -> np.ndarray | None:
    if name not in columns:
        return None
    try:
        return np.array([int(value or "") for value in columns[name]], dtype=np.int64)
    except ValueError as error:
        raise InputError(f"{path}: column {name!r} holds a value that is no whole number ({error})") from error


def _check_apart(folder: Path, splits: Mapping[Split, Windows]) -> None:
    """Raise InputError if a line, or a patient, is in two splits."""
    for one, other in combinations(SPLITS, 2):
        sides = f"in the {SPLIT_WORDS[one]} and the {SPLIT_WORDS[other]} table"
        if both := sorted({*splits[one].names} & {*splits[other].names}):
            raise InputError(f"{folder}: the line {both[0]} is {sides} (as are {len(both) - 1:,} more): split by line")
        first, second = (
            dict(zip(windows.patients, windows.names, strict=True)) for windows in (splits[one], splits[other])
        )
        if both := sorted(({*first} & {*second}) - {""}):
            patient = both[0]
            raise InputError(
                f"{folder}: the patient {patient} is {sides}, by the lines {first[patient]} and {second[patient]} (as "
                f"are {len(both) - 1:,} more): lines of one patient belong on one side"
            )


def _overlaps(splits: Mapping[Split, Windows]) -> dict[str, int]:
    """For each pair of splits how many windows of the later one share a base with one of the earlier."""
    found = {}
    for known, split in combinations(SPLITS, 2):
        if (count := overlap_count(splits[split], splits[known])) is not None:
            found[f"{split} in {known}"] = count
    return found


def overlap_count(windows: Windows, others: Windows) -> int | None:
    """How many of ``windows`` share at least one base with one of ``others``; None if places are unknown."""
    places = [(part.contigs, part.starts, part.ends) for part in (windows, others)]
    if any(column is None for part in places for column in part):
        return None
    (contigs, starts, ends), (known_contigs, known_starts, known_ends) = (map(np.asarray, part) for part in places)
    count = 0
    for contig in np.unique(contigs):
        rows, known = contigs == contig, known_contigs == contig
        # Of the others that begin before a window's end, those that end at or before its start do not reach it.
        begun = np.searchsorted(np.sort(known_starts[known]), ends[rows], side="left")
        ended = np.searchsorted(np.sort(known_ends[known]), starts[rows], side="right")
        count += int((begun > ended).sum())
    return count


def _overlap_notes(overlaps: Mapping[str, int], splits: Mapping[Split, Windows]) -> list[str]:
    if not any(overlaps.values()):
        return []
    parts = [
        f"{overlaps[f'{split} in train']:,} of {len(splits[split].labels):,} {SPLIT_WORDS[split]} windows"
        for split in SPLITS[1:]
    ]
    return [
        f"position leak: {' and '.join(parts)} overlap a training window in the genome, and "
        f"{overlaps['test in valid']:,} test windows overlap one of validation: what is learnt of a position counts "
        "there, see the unmutated rows"
    ]


def counts(data: StudyData) -> dict[str, dict[str, dict[str, int]]]:
    """Lines and sequences of each class, by split."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for split, windows in data.splits.items():
        lines, sequences = Counter(windows.line_labels.tolist()), Counter(windows.labels.tolist())
        found[SPLIT_WORDS[split]] = {
            "lines": {name: lines[i] for i, name in enumerate(data.classes)},
            "sequences": {name: sequences[i] for i, name in enumerate(data.classes)},
        }
    return found
