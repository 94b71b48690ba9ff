"""Read tables (CSV, TSV, Parquet), and write a TSV row by row."""

from __future__ import annotations

import bisect
import csv
import io
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import PartialFolder, atomic_file, write_error, write_files
from hyenadna.common.options import check_file

Row = Sequence[object]


def read_table(path: Path, needed: Sequence[str] = ()) -> dict[str, list[str | None]]:
    """Read a table as columns of text by name. Empty and missing values are None.

    Args:
        path: ``.parquet``, comma-separated ``.csv``, or else tab-separated. Text may be gzip.
        needed: columns that the table must have.

    Raises:
        InputError: the file is missing, is not a table, has no rows, or lacks a needed column.
        ImportError: polars is absent; the message names the extra.
    """
    polars = require("polars")
    check_file(path)
    try:
        if path.suffix == ".parquet":
            frame = polars.read_parquet(path)
            lists = [name for name, kind in frame.schema.items() if kind.is_nested()]
            frame = frame.drop(lists).cast(polars.String)
        else:
            comma = path.name.removesuffix(".gz").endswith(".csv")
            frame = polars.read_csv(path, separator="," if comma else "\t", infer_schema=False)
    except (polars.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip().splitlines() or ["damaged"])[0]
        raise InputError(f"{path}: cannot be read as a table ({reason})") from error
    for name in needed:
        if name not in frame.columns:
            raise InputError(f"{path}: has no column {name!r}; it has {', '.join(map(repr, frame.columns))}")
    if not frame.height:
        raise InputError(f"{path}: holds a header and no rows")
    return {name: [value or None for value in frame[name].to_list()] for name in frame.columns}


def added_columns(own: Sequence[str], added: Sequence[str]) -> list[str]:
    """Names of columns that are added to a table's own. One that the table has already gets ``hyenadna_`` before it."""
    names = []
    for name in added:
        while name in own or name in names:
            name = f"hyenadna_{name}"
        names.append(name)
    return names


def tsv_line(row: Row, *, quoted: bool = True) -> str:
    """A row as a line of a TSV. Floats get six decimals, and None is an empty field.

    Args:
        row: the values.
        quoted: write a field with a tab, a quote or a line end in quotes, with its own quotes doubled. Otherwise
            fields stay as they are, as VCF has them.
    """
    fields = [_text(value) for value in row]
    if not quoted:
        return "\t".join(fields) + "\n"
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL).writerow(fields)
    return line.getvalue()


@contextmanager
def partial_table(path: Path, header: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """Write a TSV row by row. It is called ``NAME.partial`` until the block ends well.

    Rows are those of `tsv_line`. If the block fails, the rows that reached the disk stay in the partial file, and the
    exception (InputError, OSError, KeyboardInterrupt) names it. Without any row nothing stays.

    Yields:
        The function that writes a row.

    Raises:
        InputError: the file cannot be written.
    """
    draft = path.with_name(f"{path.name}.partial")
    first = tsv_line(header).encode()
    ends = array("q", [len(first)])
    try:
        file = draft.open("wb")
    except OSError as error:
        raise write_error(path, error) from error

    def write(row: Row) -> None:
        line = tsv_line(row).encode()
        file.write(line)
        ends.append(ends[-1] + len(line))

    try:
        with file:
            file.write(first)
            yield write
        draft.replace(path)
    except BaseException as error:
        if not (rows := _complete_rows(draft, ends)):
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise write_error(path, error) from error
            raise
        kept = f"the {rows:,} rows before that are in {draft}"
        if isinstance(error, OSError):
            raise InputError(f"{write_error(path, error)}; {kept}") from error
        if isinstance(error, InputError):
            raise InputError(f"{error}; {kept}") from error
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{error}; {kept}" if str(error) else kept) from error
        raise


def _complete_rows(draft: Path, ends: array[int]) -> int:
    """Number of rows that reached the disk, when row i ends at byte ``ends[i]``. What follows them is cut off."""
    with suppress(OSError):
        rows = bisect.bisect_right(ends, draft.stat().st_size) - 1
        if rows > 0:
            os.truncate(draft, ends[rows])
            return rows
    return 0


class TableParts(PartialFolder):
    """A folder ``OUT.partial`` with the finished parts of a table, which are joined into ``OUT`` after the last one.

    Each part holds the lines of some inputs, and has a file of counts beside it.

    Args:
        out: the table.
        settings: see :class:`PartialFolder`.
        resume: resume from the parts in the folder.

    Raises:
        InputError: the folder of ``out`` does not exist; or as :class:`PartialFolder`.
    """

    def __init__(self, out: Path, settings: dict[str, Any], *, resume: bool) -> None:
        if not out.absolute().parent.is_dir():
            raise InputError(f"{out}: cannot be written (no folder {out.parent}); choose another place")
        super().__init__(out, settings, resume=resume)

    def files(self) -> list[Path]:
        """The finished parts, in order."""
        return sorted(self.folder.glob("part-*.txt"))

    def done(self) -> int:
        """Number of inputs in the finished parts."""
        return sum(int(file.stem.split("-")[2]) for file in self.files())

    def counts(self) -> list[dict[str, Any]]:
        """The counts of each finished part."""
        return [json.loads(file.with_suffix(".json").read_text(encoding="utf-8")) for file in self.files()]

    def add(self, inputs: int, text: str, counts: Mapping[str, Any]) -> None:
        """Write a part: the lines of this many inputs, and counts as JSON values."""
        self.begin()
        path = self.folder / f"part-{len(self.files()):08}-{inputs}.txt"
        # The lines come last: a part without counts is none.
        write_files({path.with_suffix(".json"): json.dumps(counts).encode(), path: encoded(text)})

    def finish(self, header: str, compressed: Callable[[Path], Any] | None = None) -> None:
        """Join header and parts into the file, and remove them.

        Args:
            header: the lines before the first part.
            compressed: opens a file for writing bytes, which it compresses; None for plain text.
        """
        with atomic_file(self.out) as draft, compressed(draft) if compressed else draft.open("wb") as file:
            file.write(encoded(header))
            for part in self.files():
                file.write(part.read_bytes())
        self.remove()


def encoded(text: str) -> bytes:
    """UTF-8. Bytes that were none when they were read come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)
