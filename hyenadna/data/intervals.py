"""Divide a genome into training, validation and test: by a BED, by contig name, or by fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hyenadna.common.choices import SPLITS
from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.options import listed
from hyenadna.data.genome import Genome
from hyenadna.data.streams import read_lines


@dataclass(frozen=True)
class Interval:
    """Positions ``[start, end)`` of a contig, 0-based.

    Attributes:
        contig: name of the contig.
        start: first position.
        end: one past the last position.
        split: train, valid or test; None if it is not known.
        name: fourth column of a BED, unchanged.
        strand: "-" if the reverse complement is meant, "+" otherwise.
    """

    contig: str
    start: int
    end: int
    split: str | None = None
    # Runs are compared by their intervals, and a name makes no difference.
    name: str | None = field(default=None, compare=False, repr=False)
    # Nor does a strand: a run draws windows from both.
    strand: str = field(default="+", compare=False, repr=False)

    def __len__(self) -> int:
        """Number of positions."""
        return self.end - self.start


def read_bed(path: str | Path, genome: Genome, *, stranded: bool = False) -> list[Interval]:
    """Read a BED, plain or gzip: contig, start, end and, optionally, the split as in HyenaDNA's own BED.

    The fourth column is the split if any line has train, valid or test there; then every line needs one. Otherwise it
    is only a name. Further columns, comments, ``track`` and ``browser`` lines are skipped. Columns are separated by
    tabs, or by blanks in lines that have too few tabs. Contigs may have any of their names.

    Args:
        path: the file.
        genome: the genome of its intervals.
        stranded: read the sixth column. It is ``+`` or ``-``; ``.``, an empty and a missing one mean ``+``.

    Returns:
        The intervals in the order of the file, each within its contig, with the genome's own names.

    Raises:
        InputError: the file is missing, damaged or without intervals, or one of its lines is wrong. The message names
            the line. It has fewer than three columns, an unknown contig, coordinates that are not integers, an empty
            interval or one beyond its contig, no split although other lines have one, or another strand.
    """
    path = Path(path)
    rows = []
    for number, line in read_lines(path):
        words = line.split()
        if words and not line.startswith("#") and words[0] not in ("track", "browser"):
            fields = [field.strip() for field in line.split("\t")]
            rows.append((number, fields if len(fields) >= 3 else words))
    if not rows:
        raise InputError(f"{path}: holds no interval; a line of a BED is: contig, start, end")
    if len(rows) > 1:
        genome.check_any((fields[0] for _, fields in rows), path)
    has_split = any(len(fields) > 3 and fields[3] in SPLITS for _, fields in rows)
    return [_parse_row(f"{path}:{number}", fields, genome, has_split, stranded) for number, fields in rows]


def split_bed(intervals: Sequence[Interval]) -> dict[str, list[Interval]]:
    """Group the intervals of `read_bed` by their split.

    Returns:
        Intervals by train, valid and test. The last two may be empty.

    Raises:
        InputError: the intervals have no split, none is for training, or two of different splits share a position.
    """
    if any(interval.split is None for interval in intervals):
        raise InputError(f"the BED has no split column; write {listed(SPLITS)} as the fourth column of every line")
    split: dict[str, list[Interval]] = {name: [i for i in intervals if i.split == name] for name in SPLITS}
    _with_train(split, "no line of the BED has train in its fourth column")
    _check_disjoint(intervals)
    return split


def write_bed(intervals: Sequence[Interval], path: Path) -> None:
    """Write intervals with their split in the fourth column, as `read_bed` reads them.

    Raises:
        InputError: the file cannot be written.
    """
    rows = (f"{i.contig}\t{i.start}\t{i.end}\t{i.split}\n" for i in intervals)
    write_files({path: "".join(rows).encode()})


def split_contigs(genome: Genome, valid: Sequence[str] = (), test: Sequence[str] = ()) -> dict[str, list[Interval]]:
    """Hold out whole contigs by name; the others are for training.

    Returns:
        Whole contigs by train, valid and test, in the order of the genome.

    Raises:
        InputError: a name is unknown, a contig is in both lists, or none is left for training.
    """
    valid, test = ([genome.contig(name).name for name in names] for names in (valid, test))
    if both := sorted(set(valid) & set(test)):
        raise InputError(f"contig {both[0]!r} is both for validation and for test; choose one")
    held_out = dict.fromkeys(valid, "valid") | dict.fromkeys(test, "test")
    split: dict[str, list[Interval]] = {name: [] for name in SPLITS}
    for contig in genome.contigs:
        name = held_out.get(contig.name, "train")
        split[name].append(Interval(contig.name, 0, contig.length, name))
    return _with_train(split, "every contig is held out; leave at least one")


def split_fraction(genome: Genome, valid: float, test: float) -> dict[str, list[Interval]]:
    """Hold out the end of every contig. Of n positions the last ``floor(test·n)`` are for test.

    The ``floor(valid·n)`` positions before them are for validation, and the rest is for training. Windows do not cross
    the borders. Neighbouring blocks share repeats and chromosome ends, so `split_contigs` is the stricter test.

    Returns:
        Intervals by train, valid and test, in the order of the genome.

    Raises:
        InputError: a fraction is below 0, the sum is 1 or more, or a fraction above 0 gives no position.
    """
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise InputError(
            f"held-out fractions {valid:g} (valid) and {test:g} (test) must be >= 0 and sum to less than 1"
        )
    split: dict[str, list[Interval]] = {name: [] for name in SPLITS}
    for contig in genome.contigs:
        valid_end = contig.length - math.floor(test * contig.length)
        train_end = valid_end - math.floor(valid * contig.length)
        for name, start, end in zip(
            SPLITS, (0, train_end, valid_end), (train_end, valid_end, contig.length), strict=True
        ):
            if end > start:
                split[name].append(Interval(contig.name, start, end, name))
    for name, fraction in (("valid", valid), ("test", test)):
        if fraction > 0 and not split[name]:
            raise InputError(f"the {name} fraction {fraction:g} is less than one position of every contig; raise it")
    return split


def _parse_row(where: str, fields: list[str], genome: Genome, has_split: bool, stranded: bool) -> Interval:
    if len(fields) < 3:
        raise InputError(f"{where}: {len(fields)} columns where a BED has at least 3: contig, start, end")
    name = fields[0]
    try:
        contig = genome.contig(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for text in fields[1:3]:
        if not (text.isascii() and text.removeprefix("-").isdigit()):
            raise InputError(f"{where}: {text!r} is not an integer; start and end are positions, 0-based")
    start, end = int(fields[1]), int(fields[2])
    if start < 0:
        raise InputError(f"{where}: start {start} is negative; BED positions are 0-based")
    if start >= end:
        raise InputError(f"{where}: start {start} is not below end {end}")
    if end > contig.length:
        raise InputError(
            f"{where}: end {end} is beyond the end of contig {name!r} ({contig.length}); is it another assembly's BED?"
        )
    label = fields[3] if len(fields) > 3 else None
    strand = (fields[5] if stranded and len(fields) > 5 else "") or "+"
    if strand not in ("+", "-", "."):
        raise InputError(f"{where}: {strand!r} in the sixth column is no strand; write +, - or .")
    strand = strand.replace(".", "+")
    if not has_split:
        return Interval(contig.name, start, end, name=label, strand=strand)
    if len(fields) < 4 or fields[3] not in SPLITS:
        got = repr(fields[3]) if len(fields) > 3 else "nothing"
        raise InputError(f"{where}: {got} in the split column; write {listed(SPLITS)}, as in other lines")
    return Interval(contig.name, start, end, fields[3], name=label, strand=strand)


def _check_disjoint(intervals: Sequence[Interval]) -> None:
    """Raise InputError if a position is in intervals of two splits."""
    furthest: dict[tuple[str, str | None], Interval] = {}
    for interval in sorted(intervals, key=lambda i: (i.contig, i.start)):
        for name in SPLITS:
            # If any interval that starts earlier overlaps, the one that ends last does.
            before = furthest.get((interval.contig, name))
            if before is None:
                continue
            if name != interval.split and before.end > interval.start:
                first, second = (
                    f"{i.contig}:{i.start}-{i.end} ({i.split})"
                    for i in sorted((before, interval), key=lambda i: SPLITS.index(str(i.split)))
                )
                raise InputError(
                    f"intervals {first} and {second} of the BED overlap: a position may be in one split only"
                )
        own = (interval.contig, interval.split)
        if own not in furthest or interval.end > furthest[own].end:
            furthest[own] = interval


def _with_train(split: dict[str, list[Interval]], otherwise: str) -> dict[str, list[Interval]]:
    if not split["train"]:
        raise InputError(f"nothing is left for training: {otherwise}")
    return split
