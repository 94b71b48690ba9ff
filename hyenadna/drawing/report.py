"""The report of a run: one HTML page that needs no other file, for reading and printing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import write_files

REPORT_FILE = "report.html"

# A jinja2 template.
_PAGE = Path(__file__).with_name("report.html")


class Image(NamedTuple):
    """A PNG of the report and its caption, which is also the text that replaces the image."""

    path: str | Path
    caption: str


class Table(NamedTuple):
    """A table of the report.

    ``highlight`` is the index of the row to set off, ``note`` a line below the table, ``image`` a picture below that.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    highlight: int | None = None
    note: str = ""
    image: Image | None = None


class Command(NamedTuple):
    """A command line for the next step, and its purpose."""

    purpose: str
    line: str


def write_report(
    out_dir: str | Path,
    *,
    title: str,
    summary: str = "",
    facts: Mapping[str, Any],
    tables: Iterable[Table] = (),
    images: Iterable[Image] = (),
    commands: Iterable[Command] = (),
    contents: bool = False,
) -> Path:
    """Write ``out_dir/report.html`` and return its path.

    Every value is escaped. Integers get thousands separators and floats four decimals; pass a string to choose another
    form. Images are embedded, so that the page can be moved or mailed alone.

    Args:
        out_dir: an existing folder.
        title: title of the page.
        summary: the result in a sentence.
        facts: facts about the run, shown in this order.
        tables: tables of results, such as the model and its baselines.
        images: PNG files.
        commands: next steps.
        contents: begin with a list of links to the tables, and leave more room for wide ones.

    Raises:
        InputError: an image cannot be read, a row does not fit its columns, or the folder cannot be written to.
        ImportError: jinja2 is absent; the message names the extra.
    """
    jinja2 = require("jinja2")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["shown"] = _shown
    page = environment.from_string(_PAGE.read_text(encoding="utf-8")).render(
        title=title,
        summary=summary,
        facts=facts,
        tables=[(table, _numeric_columns(table), table.image and _base64(table.image)) for table in tables],
        images=[(image, _base64(image)) for image in images],
        commands=list(commands),
        contents=contents,
    )
    path = Path(out_dir) / REPORT_FILE
    write_files({path: (page + "\n").encode()})
    return path


def as_markdown(title: str, *, summary: str = "", facts: Mapping[str, Any], tables: Iterable[Table] = ()) -> str:
    """The same report as Markdown, with the tables' images as links to the files beside it."""
    parts = [f"# {title}", summary, "\n".join(f"- {name}: {_shown(value)}" for name, value in facts.items())]
    parts = [part for part in parts if part]
    return "\n\n".join([*parts, *(f"## {table.title}\n\n{markdown_table(table)}" for table in tables)]) + "\n"


def markdown_table(table: Table) -> str:
    """A table as Markdown, without its title."""
    lines = [table.columns, ["--:" if number else "---" for number in _numeric_columns(table)], *table.rows]
    cells = [[_shown(value).replace("|", r"\|") for value in line] for line in lines]
    if table.highlight is not None:
        place = table.highlight + 2
        cells[place] = [f"**{value}**" if value else "" for value in cells[place]]
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in cells)]
    parts += [table.note] if table.note else []
    parts += [f"![{table.image.caption}]({Path(table.image.path).name})"] if table.image else []
    return "\n\n".join(parts)


def _numeric_columns(table: Table) -> list[bool]:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise InputError(f"report table {table.title!r}: {len(table.columns)} columns, but a row of {len(row)}")
    return [
        bool(table.rows) and all(_is_number(row[column]) for row in table.rows) for column in range(len(table.columns))
    ]


def _base64(image: Image) -> str:
    try:
        return base64.b64encode(Path(image.path).read_bytes()).decode("ascii")
    except OSError as error:
        raise InputError(f"{image.path}: cannot be read ({error.strerror}); make the plot before the report") from error


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4f}"
    return str(value)


def _is_number(value: Any) -> bool:
    try:
        float(str(value).replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return not isinstance(value, bool)
