"""Sequences from a FASTA, from a table, or from the intervals of a BED: one reader for every verb."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.progress import bar
from hyenadna.common.vocab import reverse_complement
from hyenadna.common.world import world
from hyenadna.data.contig_names import some
from hyenadna.data.fasta import read_pieces, read_records
from hyenadna.data.genome import Genome, open_genome
from hyenadna.data.intervals import read_bed
from hyenadna.data.sequences import encode
from hyenadna.data.tables import is_missing, read_table


class Record(NamedTuple):
    """A sequence.

    Attributes:
        name: contig of a FASTA, ``contig:start-end`` of a BED, with ``(-)`` after it on the reverse strand, row of a
            table counted from 1.
        where: the file and the place in it, for messages.
        ids: token ids, uint8 ``(L,)``. On the reverse strand they are the reverse complement. L is 0 for a record of a
            FASTA that has no sequence.
        fields: values by column: all columns of a table, otherwise the name alone.
        contig: contig; "" for a table without columns of positions.
        start: first position in the contig, 0-based; 0 for such a table.
        label: fourth column of a BED, or the label column of a table; "" where there is none.
        strand: "+" or "-".
        stop: one past the last position, where a table tells it. With insertions or deletions the interval has
            another length than the sequence.
    """

    name: str
    where: str
    ids: np.ndarray
    fields: Mapping[str, str | None]
    contig: str = ""
    start: int = 0
    label: str = ""
    strand: str = "+"
    stop: int | None = None

    @property
    def positions(self) -> np.ndarray:
        """The position in the contig of each base, int64 ``(L,)``. It falls on the reverse strand."""
        forward = self.start + np.arange(len(self.ids))
        return forward[::-1] if self.strand == "-" else forward

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + len(self.ids) if self.stop is None else self.stop


@dataclass(frozen=True)
class Sequences:
    """The sequences of a source that has been checked as a whole.

    Attributes:
        columns: names of the fields of every record.
        total: number of records.
        read: reads the records from the start.
        empty: names of the records that have no sequence.
    """

    columns: list[str]
    total: int
    read: Callable[[], Iterator[Record]]
    empty: Sequence[str] = ()

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Record]:
        return self.read()


@contextmanager
def open_sequences(
    *,
    fasta: Path | None = None,
    table: Path | None = None,
    bed: Path | None = None,
    genome: Path | None = None,
    aliases: Path | None = None,
    sequence_column: str = "sequence",
    label_column: str | None = None,
    position_columns: Sequence[str] = (),
    progress: bool = True,
) -> Iterator[Sequences]:
    """Open one of a FASTA, a table, and a BED with its genome.

    Every sequence is checked here, so that a long run does not fail in the middle. A FASTA is streamed twice for it.
    Names in a FASTA may repeat. A record without a sequence is read as such, and told of on standard error.

    Args:
        fasta: plain, gzip or bgzip.
        table: CSV, TSV or Parquet.
        bed: intervals of ``genome``.
        genome: prepared genome or FASTA; a FASTA is tokenised into a temporary folder.
        aliases: file with other names of the genome's contigs.
        sequence_column: column of the table that holds the sequence.
        label_column: column of the table that holds a label.
        position_columns: columns of the table that hold the contig, the start (0-based) and the end (exclusive) of the
            sequence, or none.
        progress: show a progress bar while a FASTA is checked.

    Raises:
        InputError: a file is missing or damaged, a sequence is not DNA, a row of a table has none or no position, or no
            record of a FASTA has one.
        ImportError: a table is given and polars is absent; the message names the extra.
    """
    if table is not None:
        yield _open_table(table, sequence_column, label_column, position_columns)
    elif bed is not None:
        assert genome is not None
        with open_genome(genome, aliases, progress=progress) as opened:
            yield _open_bed(bed, opened)
    else:
        assert fasta is not None
        yield _open_fasta(fasta, progress)


def _open_fasta(fasta: Path, progress: bool) -> Sequences:
    size = fasta.stat().st_size if fasta.is_file() else None
    with bar(f"check {fasta.name}", size, "B", progress=progress, unit_scale=True) as shown:
        total, empty = 0, []
        for piece in read_pieces(fasta, shown.update, is_genome=False):
            total = piece.record + 1
            if not piece.ids:
                empty.append(piece.contig)
    if len(empty) == total:
        raise InputError(f"{fasta}: none of its {total:,} records has a sequence")
    if empty and world().is_first:
        text = f"{fasta}: {len(empty):,} of {total:,} records have no sequence and get no result: {some(empty)}"
        print(f"note: {text}", file=sys.stderr)
    return Sequences(
        ["name"],
        total,
        lambda: (Record(name, f"{fasta}: {name}", ids, {"name": name}, name) for name, ids in read_records(fasta)),
        empty,
    )


def _open_table(
    table: Path, sequence_column: str, label_column: str | None, position_columns: Sequence[str]
) -> Sequences:
    found = read_table(table, [sequence_column, *([label_column] if label_column else []), *position_columns])

    def read() -> Iterator[Record]:
        for row, values in enumerate(zip(*found.values(), strict=True), start=1):
            fields = dict(zip(found, values, strict=True))
            where = f"{table}: row {row}"
            label = (fields[label_column] or "") if label_column else ""
            text = fields[sequence_column]
            if text and is_missing(text):
                # As DNA, NA and NaN would be two and three ambiguous bases.
                raise InputError(f"{where}: {text!r} stands for a missing sequence; leave the row out")
            place = _position([fields[name] for name in position_columns], where) if position_columns else {}
            yield Record(str(row), where, encode(text, where), fields, label=label, **place)

    return Sequences(list(found), sum(1 for _ in read()), read)


def _position(values: Sequence[str | None], where: str) -> dict[str, Any]:
    """Contig, start and end of a row as fields of a record."""
    contig, first, last = values
    start, stop = (int(value) if value and value.isdecimal() else -1 for value in (first, last))
    if is_missing(contig) or not 0 <= start < stop:
        told = ", ".join(repr(value or "") for value in values)
        raise InputError(f"{where}: {told} is no position: expected a contig, and a start (from 0) below an end")
    return {"contig": contig, "start": start, "stop": stop}


def _open_bed(bed: Path, genome: Genome) -> Sequences:
    intervals = read_bed(bed, genome, stranded=True)

    def read() -> Iterator[Record]:
        for i in intervals:
            name = f"{i.contig}:{i.start}-{i.end}{'(-)' if i.strand == '-' else ''}"
            ids = genome.tokens(i.contig, i.start, i.end)
            if i.strand == "-":
                ids = reverse_complement(ids)
            yield Record(name, f"{bed}: {name}", ids, {"name": name}, i.contig, i.start, i.name or "", i.strand)

    return Sequences(["name"], len(intervals), read)
