"""Sequences from a FASTA, from a table, or from the intervals of a BED: one reader for every verb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.common.progress import bar
from hyenadna.data.fasta import read_contigs, read_pieces
from hyenadna.data.genome import Genome, open_genome
from hyenadna.data.intervals import read_bed
from hyenadna.data.sequences import encode
from hyenadna.data.tables import read_table


class Record(NamedTuple):
    """A sequence.

    Attributes:
        name: contig of a FASTA, ``contig:start-end`` of a BED, row of a table counted from 1.
        where: the file and the place in it, for messages.
        ids: token ids, uint8 ``(L,)``.
        fields: values by column: all columns of a table, otherwise the name alone.
        contig: contig; "" for a table.
        start: first position in the contig, 0-based; 0 for a table.
        label: fourth column of a BED, or the label column of a table; "" where there is none.
    """

    name: str
    where: str
    ids: np.ndarray
    fields: Mapping[str, str | None]
    contig: str = ""
    start: int = 0
    label: str = ""

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + len(self.ids)


@dataclass(frozen=True)
class Sequences:
    """The sequences of a source that has been checked as a whole.

    Attributes:
        columns: names of the fields of every record.
        total: number of records.
        read: reads the records from the start.
    """

    columns: list[str]
    total: int
    read: Callable[[], Iterator[Record]]

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
    progress: bool = True,
) -> Iterator[Sequences]:
    """Open one of a FASTA, a table, and a BED with its genome.

    Every sequence is checked here, so that a long run does not fail in the middle. A FASTA is streamed twice for it.

    Args:
        fasta: plain, gzip or bgzip.
        table: CSV, TSV or Parquet.
        bed: intervals of ``genome``.
        genome: prepared genome or FASTA; a FASTA is tokenised into a temporary folder.
        aliases: file with other names of the genome's contigs.
        sequence_column: column of the table that holds the sequence.
        label_column: column of the table that holds a label.
        progress: show a progress bar while a FASTA is checked.

    Raises:
        InputError: a file is missing or damaged, or a sequence is empty or not DNA.
        ImportError: a table is given and polars is absent; the message names the extra.
    """
    if table is not None:
        yield _open_table(table, sequence_column, label_column)
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
        total = len({piece.contig for piece in read_pieces(fasta, shown.update)})
    return Sequences(
        ["name"],
        total,
        lambda: (Record(name, f"{fasta}: {name}", ids, {"name": name}, name) for name, ids in read_contigs(fasta)),
    )


def _open_table(table: Path, sequence_column: str, label_column: str | None) -> Sequences:
    found = read_table(table, [sequence_column, *([label_column] if label_column else [])])

    def read() -> Iterator[Record]:
        for row, values in enumerate(zip(*found.values(), strict=True), start=1):
            fields = dict(zip(found, values, strict=True))
            where = f"{table}: row {row}"
            label = (fields[label_column] or "") if label_column else ""
            yield Record(str(row), where, encode(fields[sequence_column], where), fields, label=label)

    return Sequences(list(found), sum(1 for _ in read()), read)


def _open_bed(bed: Path, genome: Genome) -> Sequences:
    intervals = read_bed(bed, genome)

    def read() -> Iterator[Record]:
        for i in intervals:
            name = f"{i.contig}:{i.start}-{i.end}"
            ids = genome.tokens(i.contig, i.start, i.end)
            yield Record(name, f"{bed}: {name}", ids, {"name": name}, i.contig, i.start, i.name or "")

    return Sequences(["name"], len(intervals), read)
