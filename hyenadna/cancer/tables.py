"""The tables that ``hyenadna mutate`` writes: one for each split, a row for each sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, get_type_hints

from hyenadna.common.extras import require
from hyenadna.data.tables import encoded, tsv_line

SPLITS = ("train", "validation", "test", "rest")
"""The splits. ``rest`` holds the lines that are in no other one."""


class Row(NamedTuple):
    """A sequence and where it is from, in the order of the columns.

    Attributes:
        sequence: the mutated bases.
        label: class of the line.
        group: the line.
        patient: patient of the line; "" where it is not known.
        contig: name in the reference.
        start: first base of the window in the reference, from 0.
        end: one past its last base.
        anchor_pos: position of the mutation that the window was drawn for, from 1, as in the input.
        anchor_in_sequence: place in the sequence, from 0, of the first base that this mutation brings; for a deletion,
            of the base behind the gap.
        offset: drawn place of the mutation's Ref in the window, from 0.
        n_mutations: mutations of the line that the sequence shows.
        n_dropped: further ones in the window that it does not show.
        split: one of ``SPLITS``.
        reference: as many bases of the reference.
    """

    sequence: str
    label: str
    group: str
    patient: str
    contig: str
    start: int
    end: int
    anchor_pos: int
    anchor_in_sequence: int
    offset: int
    n_mutations: int
    n_dropped: int
    split: str
    reference: str


def columns(*, reference: bool) -> tuple[str, ...]:
    """Names of the columns."""
    return Row._fields if reference else Row._fields[:-1]


def lines(rows: Sequence[Row], *, reference: bool) -> bytes:
    """Rows as lines of a TSV, with or without the column ``reference``."""
    # Of the bases nothing has to be quoted, and looking at each of them would take most of the time.
    pieces = []
    for row in rows:
        pieces += [row.sequence, "\t", tsv_line(row[1:-1])]
        if reference:
            pieces[-1] = f"{pieces[-1][:-1]}\t{row.reference}\n"
    return encoded("".join(pieces))


@contextmanager
def open_tables(folder: Path, *, reference: bool, parquet: bool) -> Iterator[Mapping[str, BinaryIO]]:
    """Open the table of each split in a folder for lines of TSV. A table without rows has its header.

    Args:
        folder: the folder.
        reference: whether there is the column ``reference``.
        parquet: at the end, turn the tables into Parquet.

    Yields:
        The open file of each split.
    """
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.tsv").open("wb")) for split in SPLITS}
        for file in files.values():
            file.write(encoded(tsv_line(columns(reference=reference))))
        yield files
    if parquet:
        for split in SPLITS:
            _to_parquet(folder / f"{split}.tsv", reference=reference)


def _to_parquet(table: Path, *, reference: bool) -> None:
    """Replace a TSV by a Parquet, block by block."""
    polars = require("polars")
    kinds = get_type_hints(Row)
    schema = {name: polars.Int64 if kinds[name] is int else polars.String for name in columns(reference=reference)}
    frame = polars.scan_csv(table, separator="\t", schema=schema, low_memory=True)
    # An empty field, such as a patient's that is not known, is an empty text there too.
    frame = frame.with_columns(polars.col(polars.String).fill_null(""))
    frame.sink_parquet(table.with_suffix(".parquet"), row_group_size=1 << 10, maintain_order=True)
    table.unlink()
