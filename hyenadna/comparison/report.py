"""``hyenadna report``: the published tables beside what result folders hold, as Markdown and as a page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hyenadna.common.files import atomic_dir
from hyenadna.comparison.config import ReportConfig
from hyenadna.comparison.enbed import study_tables
from hyenadna.comparison.results import Findings, Result, find
from hyenadna.comparison.tables import (
    TITLES,
    Line,
    apart,
    beside,
    differences,
    differences_apart,
    dots,
    grid,
    lines,
    sections,
)
from hyenadna.drawing.comparison import Dots, published_and_ours
from hyenadna.drawing.report import Image, Table, as_markdown, write_report
from hyenadna.published.tables import ROWS

MARKDOWN_FILE = "report.md"
_TITLE = "Published figures and ours"


def report(config: ReportConfig) -> Findings:
    """Write report.md, report.html and their pictures into ``config.out``.

    Returns:
        What was found, and what was ignored.

    Raises:
        InputError: a folder is missing, or holds damaged results, or ``out`` cannot be written.
        ImportError: jinja2 or matplotlib is absent; the message names the extra.
    """
    config.check()
    found = find(config.results)
    with atomic_dir(config.out, merge=True) as draft:
        facts = _facts(config, found)
        studies = study_tables(found.studies, with_ours=bool(found.results or found.studies))
        tables = [*_published(found.results, draft), *studies, *_apart(found.results, draft)]
        if found.ignored:
            tables.append(Table("Ignored folders", ["folder", "why"], [[*map(str, line)] for line in found.ignored]))
        summary = _summary(found)
        text = as_markdown(_TITLE, summary=summary, facts=facts, tables=tables)
        (draft / MARKDOWN_FILE).write_text(text, encoding="utf-8")
        write_report(draft, title=_TITLE, summary=summary, facts=facts, tables=tables, contents=True)
    return found


def describe(config: ReportConfig, found: Findings) -> str:
    """What was found and what was ignored, for the terminal."""
    kept = [
        f"{result.folder}: {_name(result)}, {result.repeated}"
        + (f"; not comparable: {result.apart}" if result.apart else "")
        for result in found.results
    ]
    kept += [f"{study.folder}: {study.title}" for study in found.studies]
    ignored = [f"ignored {folder}: {reason}" for folder, reason in found.ignored]
    return "\n".join([*kept, *ignored, _summary(found), f"report in {config.out / 'report.html'} and {MARKDOWN_FILE}"])


def _name(result: Result) -> str:
    return " ".join([*([TITLES[result.benchmark]] if result.benchmark else []), result.dataset, result.row])


def _summary(found: Findings) -> str:
    count, studies = len(found.results), len(found.studies)
    if not count and not studies:
        return "Nothing was run: the published tables stand alone."
    told = f"{studies} stud{'ies' if studies > 1 else 'y'} of ENBED" if studies else ""
    if not count:
        return f"{told} beside the published tables."
    compared = sum(not result.apart for result in found.results)
    return (
        f"{count} result{'s' if count > 1 else ''}: {compared} beside the published tables, {count - compared} not "
        f"comparable with them{f'; {told}' if told else ''}."
    )


def _facts(config: ReportConfig, found: Findings) -> dict[str, str]:
    facts = {"searched": ", ".join(map(str, config.results)) or "no folder"}
    if twice := [key for key, count in Counter(map(_key, found.results)).items() if count > 1]:
        facts["several folders for one row"] = "; ".join(f"{dataset} {row}" for _, dataset, row, _ in twice)
    return facts


def _key(result: Result) -> tuple[str, ...]:
    return result.benchmark, result.dataset, result.row, result.split if result.apart else ""


def _published(results: list[Result], draft: Path) -> list[Table]:
    """The published tables, each followed by the same with ours, and the differences."""
    if not results:
        return [grid(section) for section in sections()]
    tables = []
    for benchmark in TITLES:
        panels: dict[str, list[Line]] = {}
        for section in (part for part in sections() if part.benchmark == benchmark):
            tables.append(grid(section))
            if found := lines(section, results):
                tables.append(beside(section, found))
                panels[section.title] = found
        # Without ours, the dots would say what the tables say.
        if any(line.ours for found in panels.values() for line in found):
            path = draft / f"{benchmark}.png"
            published_and_ours({title: dots(found) for title, found in panels.items()}, path)
            tables[-1] = tables[-1]._replace(image=Image(path, f"{TITLES[benchmark]}: published and ours"))
    return [*tables, differences(results)]


def _apart(results: list[Result], draft: Path) -> list[Table]:
    """The results that compare with no published figure."""
    rows = list(ROWS)
    own = sorted(
        (result for result in results if result.apart),
        key=lambda result: (result.dataset, result.split, rows.index(result.row) if result.row in rows else len(rows)),
    )
    if not own:
        return []
    panels: dict[str, list[Dots]] = {}
    for result in own:
        values = result.values.get(result.metric, [])
        panels.setdefault(f"test {result.metric}", []).append(Dots(result.dataset, result.row, None, values))
    path = draft / "not_comparable.png"
    published_and_ours(panels, path)
    table = apart(own)._replace(image=Image(path, "Not comparable with published figures"))
    inner = differences_apart(own)
    return [table, inner] if inner.rows else [table]
