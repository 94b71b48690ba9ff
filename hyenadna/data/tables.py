"""Read tables (CSV, TSV, Parquet), and write a TSV row by row."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import atomic_file, partial_place, put, real_place, write_error, write_files
from hyenadna.common.options import check_file
from hyenadna.common.parts import NumberedParts
from hyenadna.common.streams import is_input_stream, is_output_stream, open_output_stream, regular_file
from hyenadna.data.streams import check_text, read_bytes

Row = Sequence[object]
# In lower case, the words that pandas reads as missing.
_WORDS = "na n/a <na> #n/a #na null none nan -nan 1.#ind -1.#ind 1.#qnan -1.#qnan"
_MISSING = frozenset(["", "#n/a n/a", *_WORDS.split(" ")])
# Bytes at the start of a file within which its header ends, and bytes of rows that are written at once.
_HEADER = 1 << 20
_BLOCK = 1 << 16


def read_table(
    path: Path, needed: Sequence[str] = (), *, only: bool = False, may_be_empty: bool = False
) -> dict[str, list[str | None]]:
    """Read a table as columns of text by name. Empty values are None; words such as NA stay, see :func:`is_missing`.

    Args:
        path: ``.parquet``, comma-separated ``.csv``, or else tab-separated. Text may be gzip. The kind of a stream is
            told from its beginning.
        needed: columns that the table must have.
        only: leave out all other columns, which saves their memory.
        may_be_empty: return empty columns if the table has a header and no rows.

    Raises:
        InputError: the file is missing, is not a table, has no rows, lacks a needed column, or has two of one name.
        ImportError: polars is absent; the message names the extra.
    """
    polars = require("polars")
    check_file(path)
    try:
        wanted = needed if only else ()
        frame = _read_parquet(path, wanted) if path.suffix == ".parquet" else _read_text(path, wanted)
    except (polars.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip().splitlines() or ["damaged"])[0]
        if "utf-8" in reason:
            reason += "; save it as UTF-8"
        raise InputError(f"{path}: cannot be read as a table ({reason})") from error
    for name in needed:
        if name not in frame.columns:
            other = "; is it comma-separated? then its name must end in .csv" if "," in frame.columns[0] else ""
            other = "; is it tab-separated? then its name must not end in .csv" if "\t" in frame.columns[0] else other
            raise InputError(f"{path}: has no column {name!r}; it has {', '.join(map(repr, frame.columns))}{other}")
    columns = {name: [value or None for value in frame[name].to_list()] for name in frame.columns}
    rows = frame.height
    while rows and not any(values[rows - 1] for values in columns.values()):
        rows -= 1
    if not rows and not may_be_empty:
        raise InputError(f"{path}: holds a header and no rows")
    # Blank lines at the end of a file are no rows.
    return {name: values[:rows] for name, values in columns.items()}


def is_missing(value: str | None) -> bool:
    """Whether a cell is empty, or holds a word that programs write where a value is missing, such as NA."""
    return value is None or value.strip().lower() in _MISSING


def _read_parquet(source: Path | io.BytesIO, wanted: Sequence[str] = ()) -> Any:
    polars = require("polars")
    source = regular_file(source) if isinstance(source, Path) else source
    chosen = _chosen(wanted, polars.read_parquet_schema(source)) if wanted else None
    if isinstance(source, io.BytesIO):
        source.seek(0)
    frame = polars.read_parquet(source, columns=chosen)
    lists = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.drop(lists).cast(polars.String)


def _chosen(wanted: Sequence[str], columns: Container[str]) -> list[str] | None:
    """The wanted columns; None, for all, if one is missing. The message then lists what is there."""
    return list(dict.fromkeys(wanted)) if all(name in columns for name in wanted) else None


def _read_text(path: Path, wanted: Sequence[str] = ()) -> Any:
    data = b"".join(read_bytes(path))
    if data.startswith(b"PAR1"):
        return _read_parquet(io.BytesIO(data), wanted)
    check_text(path, data)
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    is_csv = path.name.removesuffix(".gz").endswith(".csv")
    if is_input_stream(path):
        # It has no name that tells.
        is_csv = b"\t" not in data.partition(b"\n")[0]
    separator = "," if is_csv else "\t"
    start = io.StringIO(data[:_HEADER].decode("utf-8", "replace"), newline="")
    header = Counter(next(csv.reader(start, delimiter=separator), []))
    if twice := [name for name, count in header.items() if count > 1]:
        raise InputError(f"{path}: several columns are called {twice[0]!r}; rename them")
    chosen = _chosen(wanted, header) if wanted else None
    return require("polars").read_csv(data, separator=separator, infer_schema=False, columns=chosen)


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
    exception (InputError, OSError, KeyboardInterrupt) names it. Without any row nothing stays. To a pipe, a device or
    standard output the rows go at once.

    Yields:
        The function that writes a row.

    Raises:
        InputError: the file cannot be written.
    """
    with ExitStack() as stack:
        try:
            if is_output_stream(path):
                place = draft = None
                file = stack.enter_context(open_output_stream(path))
            else:
                place = real_place(path)
                draft = partial_place(place)
                file = stack.enter_context(draft.open("wb", buffering=0))
        except OSError as error:
            raise write_error(path, error) from error
        rows = _Rows(file)
        try:
            rows.add(header)
            yield rows.add
            rows.flush()
        except BaseException as error:
            kept = rows.keep(is_file=draft is not None) - 1
            where = f"in {draft}" if draft is not None else "written"
            if kept < 1 and draft is not None:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
            text = f"; the {kept:,} rows before that are {where}" if kept >= 1 else ""
            if isinstance(error, OSError):
                raise InputError(f"{write_error(path, error)}{text}") from error
            if isinstance(error, InputError):
                raise InputError(f"{error}{text}") from error
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"{error}{text}".removeprefix("; ")) from error
            raise
        if draft is not None and place is not None:
            try:
                put(draft, place)
            except OSError as error:
                raise InputError(f"{write_error(path, error)}; the finished table is {draft}") from error


class _Rows:
    """Writes rows in blocks, and knows how many of them have reached the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pending: list[bytes] = []
        self._size = self._written = self._offset = 0
        self._flushed = time.monotonic()
        self._failed = False

    def add(self, row: Row) -> None:
        """Write a row, at the latest with the first one that comes a second later."""
        self._pending.append(encoded(tsv_line(row)))
        self._size += len(self._pending[-1])
        if self._size >= _BLOCK or time.monotonic() - self._flushed >= 1:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        self._failed = True
        rest = memoryview(b"".join(self._pending))
        while rest:
            rest = rest[self._file.write(rest) :]
        self._file.flush()
        self._offset += self._size
        self._written += len(self._pending)
        self._pending, self._size, self._flushed, self._failed = [], 0, time.monotonic(), False

    def keep(self, *, is_file: bool) -> int:
        """Number of rows that are in the file after a failure. A row that a full disk cut is removed from it."""
        with suppress(OSError):
            if is_file:
                # A write that failed may have written a part of it.
                self._file.seek(self._offset)
            if is_file or not self._failed:
                self.flush()
        if is_file and self._pending:
            size = os.fstat(self._file.fileno()).st_size
            for line in self._pending:
                if self._offset + len(line) > size:
                    break
                self._offset += len(line)
                self._written += 1
            self._file.truncate(self._offset)
        return self._written


class TableParts(NumberedParts):
    """The parts of a table. Each holds the lines of some inputs, and has a file of counts beside it.

    Args:
        out: the table.
        settings: see :class:`NumberedParts`.
        resume: resume from the parts in the folder.

    Raises:
        InputError: as :class:`NumberedParts`.
    """

    def __init__(self, out: Path, settings: dict[str, Any], *, resume: bool) -> None:
        super().__init__(out, settings, ending=".txt", resume=resume)

    def counts(self) -> list[dict[str, Any]]:
        """The counts of each finished part."""
        return [json.loads(file.with_suffix(".json").read_text(encoding="utf-8")) for file in self.files()]

    def add(self, number: int, inputs: int, text: str, counts: Mapping[str, Any]) -> None:
        """Write a part: the lines of this many inputs, and counts as JSON values."""
        self.begin()
        path = self.place(number, inputs)
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
