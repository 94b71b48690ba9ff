"""A run told on one page: ``report.html``, complete in itself, made for reading and printing."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files

REPORT_FILE = "report.html"

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff;
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.summary { font-size: 1.1rem; margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
th { font-weight: 600; }
.number { text-align: right; }
.highlight td { font-weight: 600; background: #e8f1f8; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #444; font-size: .9rem; }
pre { padding: .6rem .8rem; background: #f5f5f5; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; }
  figure, table, pre { break-inside: avoid; }
  h2 { break-after: avoid; }
}
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


class Table(NamedTuple):
    """A table of the report. ``highlight`` is the index of the row to set off; ``note`` stands below the table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    highlight: int | None = None
    note: str = ""


class Image(NamedTuple):
    """A PNG of the report and its caption, which is also its text for those who cannot see it."""

    path: str | Path
    caption: str


class Command(NamedTuple):
    """A command line to go on with, and what it does."""

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
) -> Path:
    """Writes ``out_dir/report.html`` and returns its path.

    Every value is escaped. Integers get thousands separators and floats four decimals; what should look otherwise
    comes as a string. Images are embedded, so the file can be moved or mailed alone.

    Args:
        out_dir: an existing folder.
        title: of the page.
        summary: the result in a sentence.
        facts: what was trained, on what, how long, whether the checkpoint came back the same; in this order.
        tables: for example the model beside its yardsticks.
        images: PNG files.
        commands: how to go on.

    Raises:
        InputError: an image that cannot be read, a row that does not fit its columns, or a folder that cannot be
            written to.
    """
    parts = [f'<p class="summary">{_escape(summary)}</p>'] if summary else []
    if facts:
        parts += ["<h2>The run</h2>", "<table>"]
        parts += [
            f'<tr><th scope="row">{_escape(key)}</th><td>{_escape(value)}</td></tr>' for key, value in facts.items()
        ]
        parts.append("</table>")
    parts += [_table(table) for table in tables]
    parts += [_figure(image) for image in images]
    steps = [f"<p>{_escape(command.purpose)}</p>\n<pre>{_escape(command.line)}</pre>" for command in commands]
    if steps:
        parts += ["<h2>How to go on</h2>", *steps]
    path = Path(out_dir) / REPORT_FILE
    write_files({path: _PAGE.substitute(title=_escape(title), body="\n".join(parts)).encode()})
    return path


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise InputError(f"report table {table.title!r}: {len(table.columns)} columns, but a row of {len(row)}")
    numeric = [
        bool(table.rows) and all(_is_number(row[column]) for row in table.rows) for column in range(len(table.columns))
    ]
    classes = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(
        f'<th scope="col"{css}>{_escape(name)}</th>' for name, css in zip(table.columns, classes, strict=True)
    )
    lines = [f"<h2>{_escape(table.title)}</h2>", "<table>", f"<tr>{head}</tr>"]
    for index, row in enumerate(table.rows):
        cells = "".join(f"<td{css}>{_escape(value)}</td>" for value, css in zip(row, classes, strict=True))
        lines.append(f'<tr class="highlight">{cells}</tr>' if index == table.highlight else f"<tr>{cells}</tr>")
    lines.append("</table>")
    if table.note:
        lines.append(f'<p class="note">{_escape(table.note)}</p>')
    return "\n".join(lines)


def _figure(image: Image) -> str:
    try:
        data = base64.b64encode(Path(image.path).read_bytes()).decode("ascii")
    except OSError as error:
        raise InputError(f"{image.path}: cannot be read ({error.strerror}); make the plot before the report") from error
    caption = _escape(image.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">\n<figcaption>{caption}</figcaption></figure>'
    )


def _escape(value: Any) -> str:
    match value:
        case bool():
            text = "yes" if value else "no"
        case int():
            text = f"{value:,}"
        case float():
            text = f"{value:,.4f}"
        case _:
            text = str(value)
    return html.escape(text)


def _is_number(value: Any) -> bool:
    try:
        float(str(value).replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return not isinstance(value, bool)
