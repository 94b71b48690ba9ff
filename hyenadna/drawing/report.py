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

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
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
<h1>{{ title }}</h1>
{% if summary %}
<p class="summary">{{ summary }}</p>
{% endif %}
{% if facts %}
<h2>The run</h2>
<table>
{% for key, value in facts.items() %}
<tr><th scope="row">{{ key|shown }}</th><td>{{ value|shown }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% set number = ' class="number"'|safe %}
{% for table, numeric in tables %}
<h2>{{ table.title }}</h2>
<table>
<tr>
{%- for name in table.columns %}<th scope="col"{{ number if numeric[loop.index0] }}>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr{% if loop.index0 == table.highlight %} class="highlight"{% endif %}>
{%- for value in row %}<td{{ number if numeric[loop.index0] }}>{{ value|shown }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% if table.note %}
<p class="note">{{ table.note }}</p>
{% endif %}
{% endfor %}
{% for image, data in images %}
<figure><img src="data:image/png;base64,{{ data }}" alt="{{ image.caption }}">
<figcaption>{{ image.caption }}</figcaption></figure>
{% endfor %}
{% if commands %}
<h2>Next steps</h2>
{% for command in commands %}
<p>{{ command.purpose }}</p>
<pre>{{ command.line }}</pre>
{% endfor %}
{% endif %}
</body>
</html>
"""


class Table(NamedTuple):
    """A table of the report. ``highlight`` is the index of the row to set off, ``note`` a line below the table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    highlight: int | None = None
    note: str = ""


class Image(NamedTuple):
    """A PNG of the report and its caption, which is also the text that replaces the image."""

    path: str | Path
    caption: str


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

    Raises:
        InputError: an image cannot be read, a row does not fit its columns, or the folder cannot be written to.
        ImportError: jinja2 is absent; the message names the extra.
    """
    jinja2 = require("jinja2")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["shown"] = _shown
    page = environment.from_string(_PAGE).render(
        title=title,
        summary=summary,
        facts=facts,
        tables=[(table, _numeric_columns(table)) for table in tables],
        images=[(image, _base64(image)) for image in images],
        commands=list(commands),
    )
    path = Path(out_dir) / REPORT_FILE
    write_files({path: (page + "\n").encode()})
    return path


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
