"""Read labelled datasets in the formats of the field, and check them before training starts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.common.choices import SPLITS
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID
from hyenadna.data.genome import Genome, open_genome
from hyenadna.data.sequences import encode
from hyenadna.data.streams import read_chunks
from hyenadna.data.tables import is_missing, read_table

_TABLE_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}
_TABLE_ENDINGS = (".tsv", ".csv", ".parquet", ".tsv.gz", ".csv.gz")
# The published accuracy on species is that of the first ones: the original has them for validation and never looks at
# the second ones. Here the epoch is chosen on the second ones, so that the test is the published one.
SPECIES_TEST = ("1", "3", "12", "13")
SPECIES_VALID = ("5", "7", "9", "10", "11")
_DEEPSEA_FILES = {"train": "train", "valid": "val", "test": "test"}


class Example(NamedTuple):
    """A sequence, its place for messages, and its label: text as in the file, or one number for each output.

    ``padded`` counts the bases at its end that are N because the chromosome ends before.
    """

    where: str
    ids: np.ndarray
    label: str | tuple[float, ...]
    padded: int = 0


@dataclass(frozen=True)
class LabelledDataset:
    """Sequences and labels of one split.

    Attributes:
        sequences: token ids, uint8 ``(L,)`` each.
        labels: int64 ``(n,)`` classes; float32 ``(n, outputs)``; or, for classes of bases, a list of int64 ``(L,)``.
    """

    sequences: list[np.ndarray]
    labels: np.ndarray | list[np.ndarray]

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, rows: Sequence[int] | np.ndarray) -> LabelledDataset:
        """The examples at ``rows``."""
        labels = self.labels
        chosen = [labels[i] for i in rows] if isinstance(labels, list) else labels[np.asarray(rows)]
        return LabelledDataset([self.sequences[i] for i in rows], chosen)


def read_examples(
    data: Path,
    kind: str,
    *,
    sequence_column: str,
    label_columns: Sequence[str],
    split_column: str | None,
    genome: Path | None,
    aliases: Path | None = None,
    length: int | None,
    windows: int,
    seed: int,
) -> dict[str, list[Example]]:
    """Read examples by split: train, valid and test, or all under ``""`` if the data have no splits.

    Args:
        data: file or folder.
        kind: one of the formats in ``hyenadna.common.choices``; "auto" recognises it.
        sequence_column: column of a table that holds the sequence.
        label_columns: columns of a table that hold the label, several for several outputs.
        split_column: column of a table that holds train, valid or test; None if there is none.
        genome: genome of DeepSEA's coordinates.
        aliases: file with other names of the genome's contigs.
        length: bases of a window, for DeepSEA's coordinates and for species; unused otherwise.
        windows: training windows of each species; validation and test take a tenth as many.
        seed: seed of the places of these windows.

    Raises:
        InputError: the data have none of the formats, or are damaged.
    """
    kind = detect_format(data) if kind == "auto" else kind
    if kind == "table":
        return _read_table(data, sequence_column, label_columns, split_column)
    if kind == "tables":
        return _read_tables(data, sequence_column, label_columns)
    if kind == "genomic-benchmarks":
        return _read_folders(data)
    if kind == "fna":
        return {split: list(_read_fna(data / f"{split}.fna")) for split in ("train", "test")}
    if kind == "deepsea":
        if genome is None:
            raise InputError(f"{data}: DeepSEA's coordinates need their `genome` (hg19)")
        with open_genome(genome, aliases) as opened:
            return _read_deepsea(data, opened, length)
    return _read_species(data, length or 1024, windows, seed)


def detect_format(data: Path) -> str:
    """The format of labelled data: one of those in ``hyenadna.common.choices``.

    Raises:
        InputError: there is nothing, or it has no known format.
    """
    if data.is_file():
        return "table"
    if not data.is_dir():
        raise InputError(f"{data}: no such file or folder")
    if (data / "train.fna").is_file():
        return "fna"
    if (data / "train").is_dir():
        return "genomic-benchmarks"
    if _is_tables(data):
        return "tables"
    if _visible(data.glob("*train*.csv")):
        return "deepsea"
    if any(_fastas(folder) for folder in _visible(data.iterdir()) if folder.is_dir()):
        return "species"
    raise InputError(
        f"{data}: has no known format: expected train/CLASS/*.txt and test/CLASS/*.txt (GenomicBenchmarks), "
        "train.fna and test.fna (Nucleotide Transformer), train.tsv and test.tsv (or .csv, .parquet), a *train*.csv "
        "with Chr_No (DeepSEA), a folder of FASTA for each species, or a table as a file"
    )


def split_tables(data: Path) -> tuple[dict[str, Path], list[Path]]:
    """The tables of a folder with one for each split.

    Args:
        data: folder with ``train.*``, ``valid.*`` or ``validation.*``, and ``test.*``: TSV, CSV (plain or gzip) or
            Parquet. ``hyenadna mutate`` writes such a folder.

    Returns:
        The table of each split that has one, and the folder's other tables, which nobody reads.

    Raises:
        InputError: a split has two tables.
    """
    found: dict[str, Path] = {}
    others = []
    for path in _visible(path for path in data.iterdir() if path.is_file() and path.name.endswith(_TABLE_ENDINGS)):
        split = _TABLE_NAMES.get(path.name.partition(".")[0])
        if split is None:
            others.append(path)
        elif split in found:
            raise InputError(f"{data}: holds {found[split].name} and {path.name}, two {split} tables; remove one")
        else:
            found[split] = path
    return found, others


def _is_tables(data: Path) -> bool:
    train = split_tables(data)[0].get("train")
    if train is None or train.suffix != ".csv":
        return train is not None
    # DeepSEA's coordinates may be called train.csv too.
    with train.open("rb") as file:
        return b"Chr_No" not in file.readline()


def _read_tables(data: Path, sequence_column: str, label_columns: Sequence[str]) -> dict[str, list[Example]]:
    tables = split_tables(data)[0]
    if "train" not in tables:
        raise InputError(f"{data}: holds no table train.tsv (or .csv, .parquet)")
    return {
        split: _read_table(path, sequence_column, label_columns, None, may_be_empty=split != "train").get("", [])
        for split, path in tables.items()
    }


def _read_table(
    data: Path,
    sequence_column: str,
    label_columns: Sequence[str],
    split_column: str | None,
    *,
    may_be_empty: bool = False,
) -> dict[str, list[Example]]:
    if not label_columns:
        raise InputError("name the `label_columns` of the table")
    needed = [sequence_column, *label_columns, *([split_column] if split_column else [])]
    columns = read_table(data, needed, only=True, may_be_empty=may_be_empty)
    found: dict[str, list[Example]] = {}
    several = len(label_columns) > 1
    for row, sequence in enumerate(columns[sequence_column]):
        where = f"{data}: row {row + 1}"
        labels = [columns[name][row] for name in label_columns]
        for name, label in zip(label_columns, labels, strict=True):
            if label is None:
                missing = sum(value is None for value in columns[name])
                raise InputError(f"{where}: column {name!r} is empty there (and in {missing - 1:,} more rows)")
        split = columns[split_column][row] if split_column else ""
        if split_column and split not in SPLITS:
            raise InputError(f"{where}: column {split_column!r} holds {split!r}; write {', '.join(SPLITS)}")
        if sequence and is_missing(sequence):
            raise InputError(f"{where}: {sequence!r} stands for a missing sequence; leave the row out")
        value = tuple(_number(label, where) for label in labels) if several else str(labels[0])
        found.setdefault(split or "", []).append(Example(where, encode(sequence, where), value))
    return found


def _read_folders(data: Path) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for split in SPLITS:
        if not (data / split).is_dir():
            continue
        for folder in _visible(path for path in (data / split).iterdir() if path.is_dir()):
            files = _visible(folder.glob("*.txt"))
            if not files:
                raise InputError(f"{folder}: holds no *.txt; remove the folder if there is no such class")
            for file in files:
                text = file.read_text(encoding="utf-8", errors="replace").strip()
                found.setdefault(split, []).append(Example(str(file), encode(text, str(file)), folder.name))
    if not found.get("train"):
        raise InputError(f"{data}: holds no sequence: expected train/CLASS/*.txt")
    return found


def _read_fna(path: Path) -> Iterator[Example]:
    # Headers repeat in these files and end with a label, so the reader of a FASTA would refuse them.
    text = b"".join(read_chunks(path)).decode("utf-8", "backslashreplace")
    for number, record in enumerate(re.split("^>", text, flags=re.MULTILINE)[1:], start=1):
        header, _, body = record.partition("\n")
        where = f"{path}: sequence {number}"
        if "|" not in header:
            raise InputError(f"{where}: its header has no label: expected it after the last '|'")
        yield Example(where, encode("".join(body.split()), where), header.rsplit("|", 1)[1].strip())


def _read_deepsea(data: Path, genome: Genome, length: int | None) -> dict[str, list[Example]]:
    files = {split: _visible(data.glob(f"*{name}*.csv")) for split, name in _DEEPSEA_FILES.items()}
    if data.is_file():
        files = {"": [data]}
    found: dict[str, list[Example]] = {}
    for split, paths in files.items():
        for path in paths[:1]:
            columns = read_table(path, ["Chr_No", "Start", "End"])
            outputs = [name for name in columns if name.startswith("y_")]
            if not outputs:
                raise InputError(f"{path}: has no output: expected columns y_…")
            rows = zip(*(columns[name] for name in ("Chr_No", "Start", "End", *outputs)), strict=True)
            for row, (number, first, last, *labels) in enumerate(rows, start=1):
                where = f"{path}: row {row}"
                chromosome, start, end = (int(_number(text, where)) for text in (number, first, last))
                name = f"chr{chromosome + 1}" if chromosome < 22 else "chrX" if chromosome == 22 else "chrY"
                if length is not None:
                    start = max(0, (start + end - length) // 2)
                    end = min(start + length, genome.contig(name).length)
                values = tuple(_number(label, where) for label in labels)
                found.setdefault(split, []).append(Example(where, np.array(genome.tokens(name, start, end)), values))
    if not found:
        raise InputError(f"{data}: holds no coordinates: expected files *train*.csv, *val*.csv and *test*.csv")
    return found


def _read_species(data: Path, length: int, windows: int, seed: int) -> dict[str, list[Example]]:
    rng = np.random.default_rng(seed)
    found: dict[str, list[Example]] = {split: [] for split in SPLITS}
    folders = _visible(path for path in data.iterdir() if path.is_dir() and _fastas(path))
    for folder in folders:
        contigs: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        short: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for file in _fastas(folder):
            with open_genome(file) as genome:
                for contig in genome.contigs:
                    bare = contig.name.removeprefix("chr")
                    split = "valid" if bare in SPECIES_VALID else "test" if bare in SPECIES_TEST else "train"
                    kept = contigs if contig.length >= length else short
                    kept[split].append(np.array(genome.tokens(contig.name)))
        for split, long in contigs.items():
            # Shorter chromosomes come in where a split has no other, padded with N past their end.
            sequences = long or short[split]
            if not sequences:
                raise InputError(f"{folder}: no chromosome for {split}; {_species_chromosomes(split)}")
            places = np.array([max(1, len(ids) - length + 1) for ids in sequences], dtype=np.float64)
            for _ in range(windows if split == "train" else max(1, windows // 10)):
                ids = sequences[rng.choice(len(sequences), p=places / places.sum())]
                start = int(rng.integers(max(1, len(ids) - length + 1)))
                window = ids[start : start + length]
                padded = length - len(window)
                window = np.pad(window, (0, padded), constant_values=N_ID) if padded else window
                found[split].append(Example(str(folder), window, folder.name, padded))
    if len(folders) < 2:
        raise InputError(f"{data}: holds {len(folders)} species; the task needs at least two")
    return found


def _species_chromosomes(split: str) -> str:
    held = {"valid": SPECIES_VALID, "test": SPECIES_TEST}
    if split in held:
        return f"it takes those called {', '.join(held[split])}, with or without chr"
    return f"it takes all but {', '.join((*SPECIES_TEST, *SPECIES_VALID))}, which validation and test take"


def _fastas(folder: Path) -> list[Path]:
    endings = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz")
    return _visible(path for path in folder.iterdir() if path.name.endswith(endings))


def _visible(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, without those that file managers leave, such as ``._1.txt`` and ``__MACOSX``."""
    return sorted(path for path in paths if not path.name.startswith(".") and path.name != "__MACOSX")


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{where}: {text!r} is not a number")
    return value


def _fraction(labels: Sequence[str]) -> str | None:
    """The first label that is not an integer, if all labels are numbers; None otherwise."""
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return None
    if not np.isfinite(values).all():
        return None
    return next((label for label, value in zip(labels, values, strict=True) if not value.is_integer()), None)


def check_classes(examples: Iterable[Example]) -> None:
    """Raise InputError if a class is a word for a missing value, or two classes are one that is written in two ways."""
    counts: Counter[str] = Counter()
    first: dict[str, Example] = {}
    for example in examples:
        counts[str(example.label)] += 1
        first.setdefault(str(example.label), example)
    alike: dict[str, str] = {}
    for name in first:
        if is_missing(name):
            raise InputError(
                f"{first[name].where}: the label {name!r} stands for a missing value (and in {counts[name] - 1:,} more "
                "examples): leave these out; or, if it is a class, write its name in another way"
            )
        other = alike.setdefault(_plain(name), name)
        if other != name:
            raise InputError(
                f"{first[name].where}: the class {name!r} ({counts[name]:,} times) differs from {other!r} "
                f"({counts[other]:,} times) only in case, blanks or the way to write a number: write both alike, or "
                "give one another name"
            )


def _plain(name: str) -> str:
    try:
        return str(float(name))
    except ValueError:
        return " ".join(name.casefold().split())


def class_names(examples: Sequence[Example], task: str) -> list[str]:
    """The classes of the training examples, sorted as numbers if all are, otherwise as text.

    Raises:
        InputError: there are fewer than two classes, or the labels are values.
    """
    labels = [str(example.label) for example in examples]
    names = set("".join(labels)) if task == "token" else set(labels)
    if task == "classification" and (value := _fraction(labels)):
        raise InputError(f"the labels are numbers such as {value} and not classes: choose `task` regression")
    if len(names) < 2:
        raise InputError(f"the training examples hold one class only, {names.pop()!r}: classification needs two")
    is_numeric = all(name.lstrip("-").isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if is_numeric else (0, name))


def to_dataset(examples: Sequence[Example], task: str, classes: Sequence[str], split: str) -> LabelledDataset:
    """Turn the labels of examples into numbers.

    Args:
        examples: the examples of a split.
        task: the task.
        classes: names of the classes, as `class_names` gives them.
        split: name of the split, for messages.

    Raises:
        InputError: a class is not among the training examples; a label is not a number, or not 0 or 1 although outputs
            are labels; or there is not one token label for each base.
    """
    sequences = [example.ids for example in examples]
    number = {name: i for i, name in enumerate(classes)}
    if task in ("classification", "token"):
        unseen = Counter(
            name
            for example in examples
            for name in (str(example.label) if task == "token" else [str(example.label)])
            if name not in number
        )
        if unseen:
            name, count = unseen.most_common(1)[0]
            raise InputError(
                f"the {split} examples hold the class {name!r} ({count:,} times), which the training examples do not"
            )
    if task == "classification":
        return LabelledDataset(sequences, np.array([number[str(example.label)] for example in examples]))
    if task == "token":
        labels = []
        for example in examples:
            if len(str(example.label)) != len(example.ids):
                found, needed = len(str(example.label)), len(example.ids)
                raise InputError(f"{example.where}: {found} token labels for a sequence of {needed}: one letter each")
            labels.append(np.array([number[letter] for letter in str(example.label)]))
        return LabelledDataset(sequences, labels)
    values = [
        example.label if isinstance(example.label, tuple) else (_number(example.label, example.where),)
        for example in examples
    ]
    array = np.array(values, dtype=np.float32)
    if task == "multilabel" and not np.isin(array, (0.0, 1.0)).all():
        row = int(np.flatnonzero(~np.isin(array, (0.0, 1.0)).all(axis=1))[0])
        raise InputError(
            f"{examples[row].where}: outputs of several labels are 0 or 1; for values choose `task` regression"
        )
    return LabelledDataset(sequences, array)
