"""Read tables (CSV, TSV, Parquet), and write a TSV row by row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import write_error
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


@contextmanager
def partial_table(path: Path, header: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """Write a TSV row by row. It is called ``NAME.partial`` until the block ends well.

    Floats get six decimals, and None is an empty field. If the block fails, the finished rows stay in the partial file,
    and the exception (InputError, OSError, KeyboardInterrupt) names it. Without any row nothing stays.

    Yields:
        The function that writes a row.

    Raises:
        InputError: the file cannot be written.
    """
    draft = path.with_name(f"{path.name}.partial")
    rows = 0
    try:
        file = draft.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise write_error(path, error) from error
    writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)

    def write(row: Row) -> None:
        nonlocal rows
        writer.writerow([_text(value) for value in row])
        rows += 1

    try:
        with file:
            writer.writerow(header)
            yield write
        draft.replace(path)
    except BaseException as error:
        if not rows:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        kept = f"the {rows:,} rows before that are in {draft}"
        if isinstance(error, OSError):
            raise InputError(f"{write_error(path, error)}; {kept}") from error
        if isinstance(error, InputError):
            raise InputError(f"{error}; {kept}") from error
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{error}; {kept}" if str(error) else kept) from error
        raise


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)
