"""Markdown tables and plots of runs of the suite, and the README's table.

    python -m bench.report                                     # the committed runs, into bench/results/report/
    python -m bench.report bench/results/*/suite*.json --readme README.md
    python -m bench.report my-gpu/suite.json --out my-gpu/report

The same JSON files give the same bytes; for plots, with the same matplotlib. Beyond the length at which attention timed
out, ratios are extrapolated and marked as such.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from bench.common import json_io
from bench.common.format import bytes_text, length_text, ratio_text, seconds_text
from bench.common.machine import ROOT
from bench.common.run_file import (
    ATTENTION,
    CALLS,
    IMPLEMENTATIONS,
    OURS,
    BadRun,
    Record,
    Run,
    is_measured,
    read_run,
)
from bench.report import curves, plots
from bench.report.curves import Comparison, FastestAttention

RESULTS = ROOT / "bench" / "results"
OUT = RESULTS / "report"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_README_LENGTHS = tuple(1 << bits for bits in (10, 12, 14, 15, 16, 18, 20))
"""Lengths of the README's table. The longest measured length is always added."""
_NO_RUNS = "No run of the suite is committed yet."
_STATUS_WORDS = {
    "failed_check": "check failed",
    "skipped": "skipped",
    "timed_out": "timed out",
    "out_of_memory": "out of memory",
}
_NOTHING = "-"
"""Stands in a cell without a figure."""
_MARK = "\\*"
"""Marks an extrapolated figure."""


def committed() -> list[Path]:
    """Files of the committed runs, sorted by name."""
    return sorted(RESULTS.glob("*/suite*.json"))


def _in_order(runs: Iterable[Run]) -> list[Run]:
    """GPUs first: the kernels were made for them."""
    return sorted(runs, key=lambda run: not run.on_gpu)


# Cells ---------------------------------------------------------------------------------------------------------------


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table. The first column is aligned to the left, the others to the right."""
    return [_row(header), "|" + "|".join(["---", *["--:"] * (len(header) - 1)]) + "|", *map(_row, rows)]


def _line(text: object) -> str:
    """Text as one line, with the bars escaped that would end a cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _time(record: Record | None) -> str:
    """A measured time, or the reason for its absence."""
    if record is None:
        return _NOTHING
    if not is_measured(record):
        return _STATUS_WORDS[record["status"]]
    return seconds_text(record["seconds"])


def _ratio(ratio: float | None, *, extrapolated: bool = False) -> str:
    if ratio is None:
        return _NOTHING
    return f"≈ {ratio_text(ratio)}{_MARK}" if extrapolated else ratio_text(ratio)


def _memory(record: Record | None) -> str:
    return _NOTHING if record is None or not record.get("peak_bytes") else bytes_text(record["peak_bytes"])


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.0f}%"


# Headline ------------------------------------------------------------------------------------------------------------


def _attention_cell(found: Comparison, length: int, against: FastestAttention | None) -> str:
    """Time of the fastest attention, or the statuses of all that were tried."""
    if against is None:
        tried = [record for implementation in ATTENTION if (record := found.at(implementation, length)) is not None]
        words = dict.fromkeys(_STATUS_WORDS[record["status"]] for record in tried if record["status"] != "skipped")
        return ", ".join(words) or _NOTHING
    name = IMPLEMENTATIONS[against.implementation]
    time = seconds_text(against.seconds)
    return f"{time}, {name}" if against.fit is None else f"extrapolated ≈ {time}{_MARK}, {name}"


def headline_table(found: Comparison, lengths: Sequence[int] | None = None) -> list[str]:
    """Table of the 2-layer model against the fastest attention and the published operator, with notes on fits."""
    against = curves.ratios(found)
    published = curves.ratios_to(found, "published")
    rows = []
    for length in found.lengths if lengths is None else lengths:
        mine = found.at(OURS, length)
        ratio, each = against.get(length, (None, None))
        fastest = each or curves.fastest_attention(found, length)
        rows.append(
            [
                length_text(length),
                _time(mine),
                _attention_cell(found, length, fastest),
                _ratio(ratio, extrapolated=each is not None and each.fit is not None),
                _time(found.at("published", length)),
                _ratio(published.get(length)),
                _memory(mine),
                _memory(None if fastest is None else fastest.record),
                _memory(found.at("published", length)),
            ]
        )
    header = ["L", "hyena_kernels", "Transformer, fastest attention", "ratio", "published Hyena", "ratio"]
    lines = _table([*header, "memory: ours", "Transformer's", "published"], rows)
    return [*lines, *_extrapolation_notes(found, lengths)]


def _extrapolation_notes(found: Comparison, lengths: Sequence[int] | None = None) -> list[str]:
    """One line per fit behind a marked figure."""
    fits = {}
    for length in found.lengths if lengths is None else lengths:
        against = curves.fastest_attention(found, length)
        if against is not None and against.fit is not None:
            fits[against.implementation] = against.fit
    lines = []
    for implementation, fit in fits.items():
        steep = f", of which {fit.used:.2f} is used" if f"{fit.used:.2f}" != f"{fit.exponent:.2f}" else ""
        lines.append(
            f"{_MARK} Extrapolated, not measured: {IMPLEMENTATIONS[implementation]} was stopped by its time budget "
            f"above L = {length_text(fit.lengths[-1])}; from there its time is taken to grow as L to the power "
            f"{fit.exponent:.2f}{steep}, fitted to L = {', '.join(map(length_text, fit.lengths))}."
        )
    return ["", *lines] if lines else []


def _failed_check_lines(found: Comparison) -> list[str]:
    """One sentence with the errors of the published implementation, if its check failed."""
    records = [record for length in found.lengths if (record := found.at("published", length)) is not None]
    wrong = [record for record in records if record["status"] == "failed_check" and record.get("error_budget")]
    if not wrong:
        return []
    errors = [record["error"] for record in wrong]
    span = " to ".join(dict.fromkeys(f"{error:.2f}" for error in (min(errors), max(errors))))
    allowed = max(record["error_budget"] for record in wrong)
    return ["", f"Published Hyena failed its check: its logits are off by {span}, {allowed:.2f} is allowed."]


def _launch_line(run: Run, found: Comparison) -> str:
    """How both sides of a headline table were launched, and which attention its ratios are against."""
    sentences = ["Both sides replay one CUDA graph of forward and backward."]
    if found.launch == CALLS:
        sentences = ["Both sides are called from Python, kernel by kernel."]
    sentences.append("Each ratio is against the attention that is named in its row, the fastest there.")
    if run.on_gpu and found.launch == CALLS and curves.graphed(run, found) is None:
        sentences.append("CUDA graphs were not measured.")
    return " ".join(sentences)


def _crossover_line(found: Comparison) -> str:
    against = {length: ratio for length, (ratio, each) in curves.ratios(found).items() if each.fit is None}
    if not against:
        return "No attention was measured at a length at which hyena_kernels was."
    place = curves.crossover(found)
    if place is not None:
        return f"hyena_kernels is faster than the fastest attention from L ≈ {float(f'{place:.2g}'):,.0f} on."
    first, last = min(against), max(against)
    if all(ratio >= 1 for ratio in against.values()):
        return f"hyena_kernels is faster than the fastest attention at every measured length, {length_text(first)} on."
    return f"At L = {length_text(last)}, the longest at which it was measured, attention is faster than hyena_kernels."


# Sections ------------------------------------------------------------------------------------------------------------


def _facts(run: Run) -> list[str]:
    facts = [("machine", run.name), ("commit", run.commit), ("started", run.started)]
    ended = run.finished or f"cut off: what follows are the {len(run.records)} records that it had written"
    facts.append(("finished", ended))
    facts += [
        (name, value) for name, value in run.machine.items() if name not in ("name", "commit") and value is not None
    ]
    facts += [(name, value) for name, value in run.settings.items() if value is not None]
    units = {"copy_bytes_per_s": ("copy, measured", 1e9, "GB/s")}
    units |= {f"{kind}_flops_per_s": (f"{kind} products, measured", 1e12, "TFLOP/s") for kind in ("matmul", "float32")}
    for name, value in run.peak_rates.items():
        label, unit, sign = units.get(name, (name, 1.0, ""))
        if value is not None:
            facts.append((label, f"{value / unit:.4g} {sign}".strip()))
    return ["| fact | value |", "|---|---|", *(_row([_line(name), _line(value)]) for name, value in facts)]


def _times(found: Comparison) -> list[str]:
    """Table of the times of a comparison, with the ratio of each to ours."""
    entries = [each for each, of_length in found.found.items() if any(map(_has_place, of_length.values()))]
    rows = []
    for length in found.lengths:
        best = found.at(OURS, length)
        cells = [length_text(length)]
        for entry in entries:
            record = found.found[entry].get(length)
            text = _time(record)
            if record is not None and is_measured(record):
                spread = record.get("seconds_iqr")
                text += "" if spread is None else f" ± {100 * spread / 2 / record['seconds']:.0f}%"
                if entry[0] != OURS and best is not None and is_measured(best):
                    text += f" ({ratio_text(curves.ratio(found, record, best))})"
            cells.append(text)
        cells += _own_cells(found, length)
        rows.append(cells)
    header = ["L", *map(found.label, entries), "memory: ours", "published"]
    return _table(header, rows)


def _has_place(record: Record) -> bool:
    """Whether a record deserves a column. Implementations that were always skipped are named once, below."""
    return bool(record["status"] != "skipped")


def _own_cells(found: Comparison, length: int) -> list[str]:
    return [_memory(found.at(implementation, length)) for implementation in (OURS, "published")]


def _kernel_table(run: Run) -> list[str]:
    rows = []
    for found, entry, measured in curves.ours(run):
        if found.workload not in curves.KERNELS:
            continue
        for record in measured:
            fraction = curves.fraction_of_copy(run, record)
            if fraction is None:
                continue
            rate = record["bytes"] / record["seconds"] / 1e9
            moved = record["bytes"] / 1e9
            flops = f"{record['flops'] / record['seconds'] / 1e9:.4g}" if record.get("flops") else _NOTHING
            what = f"{found.title}, {entry[1]}" if entry[1] else found.title
            cells = [what, length_text(record["length"]), seconds_text(record["seconds"])]
            rows.append([*cells, f"{moved:.4g}", f"{rate:.4g}", _percent(fraction), flops])
    return _table(["kernel", "L", "time", "GB counted", "GB/s", "of a copy", "GFLOP/s"], rows) if rows else []


def _predicted_table(run: Run) -> list[str]:
    rows = []
    for found, entry, measured in curves.ours(run):
        for record in measured:
            factor = curves.over_predicted(record)
            if factor is not None:
                what = f"{found.title}, {entry[1]}" if entry[1] else found.title
                predicted = seconds_text(record["predicted_seconds"])
                times = [seconds_text(record["seconds"]), predicted]
                rows.append([what, length_text(record["length"]), *times, f"{factor:.2f}"])
    return _table(["workload", "L", "measured", "predicted", "measured / predicted"], rows) if rows else []


def _not_measured(run: Run) -> list[str]:
    """One line per implementation, status and reason, with the lengths and comparisons below it."""
    groups: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for found in curves.comparisons(run):
        for entry, of_length in found.found.items():
            here: dict[tuple[str, str, str], list[int]] = {}
            for length, record in sorted(of_length.items()):
                if not is_measured(record):
                    reason = _line(record.get("reason") or "no reason was given")
                    here.setdefault((IMPLEMENTATIONS[entry[0]], record["status"], reason), []).append(length)
            for key, lengths in here.items():
                where = "all lengths" if lengths == found.lengths else f"L = {_runs(lengths, found.lengths)}"
                groups.setdefault(key, {}).setdefault(where, []).append(found.title)
    lines = []
    for (implementation, status, reason), places in groups.items():
        lines += [f"- {implementation}, **{_STATUS_WORDS[status]}**: {reason}"]
        lines += [f"  - {where}: {'; '.join(dict.fromkeys(titles))}" for where, titles in places.items()]
    return lines


def _runs(lengths: Sequence[int], among: Sequence[int]) -> str:
    """Lengths by name. Three or more neighbours are written as ``1K to 4K``."""
    parts: list[list[int]] = []
    for length in lengths:
        if parts and among.index(length) == among.index(parts[-1][-1]) + 1:
            parts[-1].append(length)
        else:
            parts.append([length])
    names = [list(map(length_text, part)) for part in parts]
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(part) for part in names)


def _checks(run: Run) -> list[str]:
    """Table of the largest error over budget, per comparison and implementation."""
    rows = []
    for found in curves.comparisons(run):
        for entry, of_length in found.found.items():
            checked = [
                record
                for record in of_length.values()
                if record.get("error") is not None and record.get("error_budget")
            ]
            if checked:
                worst = max(checked, key=lambda record: record["error"] / record["error_budget"])
                figures = [f"{worst['error']:.2e}", f"{worst['error_budget']:.2e}", length_text(worst["length"])]
                rows.append([found.title, found.label(entry), *figures])
    return _table(["workload", "implementation", "error", "budget", "at L"], rows) if rows else []


def section(run: Run, drawn: Iterable[str]) -> str:
    """Markdown section of a run.

    Args:
        run: the run.
        drawn: kinds of figures that exist as ``<key>-<kind>.svg`` beside the Markdown.
    """
    kinds = set(drawn)

    def figure(kind: str, text: str) -> list[str]:
        return ["", f"![{text}]({run.key}-{kind}.svg)"] if kind in kinds else []

    found = curves.headline(run)
    parts = [f"## {run.key}", "", *_facts(run)]
    if found is not None:
        graphed = curves.graphed(run, found)
        parts += ["", f"### The 2-layer model: {found.title}", "", _launch_line(run, found), ""]
        parts += [*headline_table(found), *_failed_check_lines(found), "", _crossover_line(found)]
        parts += figure("headline", "time and speed-up against length") + figure("memory", "memory against length")
        if graphed is not None:
            parts += ["", f"### The 2-layer model: {graphed.title}", "", _launch_line(run, graphed), ""]
            parts += [*headline_table(graphed), "", _crossover_line(graphed)]
    parts += ["", "### Times", "", "Medians ± half of the interquartile range; in brackets the time over ours."]
    for each in curves.comparisons(run):
        if any(is_measured(record) for of_length in each.found.values() for record in of_length.values()):
            parts += ["", f"#### {each.title}", "", *_times(each)]
    tables = [
        ("Share of the copy bandwidth", _kernel_table(run), figure("share", "share of the copy bandwidth")),
        ("Measured over predicted", _predicted_table(run), figure("predicted", "measured over predicted time")),
        ("Not measured", _not_measured(run), []),
        ("Checks before the clock", _checks(run), []),
    ]
    for title, lines, figures in tables:
        if lines:
            parts += ["", f"### {title}", *figures, "", *lines]
    return "\n".join(parts) + "\n"


def report(runs: Sequence[Run]) -> dict[str, str]:
    """Contents of the files of a report by name: ``report.md`` and its SVGs.

    Raises:
        BadRun: two runs would write the same file names.
    """
    files: dict[str, str] = {}
    sections = []
    seen: dict[str, Path] = {}
    for run in _in_order(runs):
        if run.key in seen:
            raise BadRun(
                f"{run.path} and {seen[run.key]} would both be {run.key} in the report: give the files other names"
            )
        seen[run.key] = run.path
        drawn = plots.all_of(run)
        files |= {f"{run.key}-{kind}.svg": svg for kind, svg in drawn.items()}
        sections.append(section(run, drawn))
    head = (
        "# Benchmarks\n\nWritten by `python -m bench.report` from the JSON files of the runs; `docs/benchmarks.md` "
        "says how they were made and how to read this.\n"
    )
    files["report.md"] = "\n".join([head, *sections])
    return files


# README --------------------------------------------------------------------------------------------------------------


def readme_block(runs: Sequence[Run], figures: str) -> str:
    """The block between the marks in the README.

    Args:
        runs: runs whose headline tables are shown.
        figures: folder of the report, relative to the README.
    """
    parts = []
    for run in _in_order(runs):
        found = curves.headline(run)
        if found is None:
            continue
        lengths = [length for length in found.lengths if length in _README_LENGTHS]
        lengths = sorted({*lengths, max(found.measured(OURS))})
        cut = "" if run.finished else ", a run that was cut off"
        graphed = curves.graphed(run, found)
        parts += [
            f"**{run.name}**, {found.title}, commit `{run.commit[:10]}`, {run.started[:10]}{cut}:",
            "",
            *headline_table(found, lengths),
            *_failed_check_lines(found),
            "",
            f"{_launch_line(run, found)} {_crossover_line(found)}",
            "",
        ]
        if graphed is not None:
            parts += ["The same as CUDA graphs:", "", *headline_table(graphed, lengths), ""]
            parts += [f"{_launch_line(run, graphed)} {_crossover_line(graphed)}", ""]
    if not parts:
        return _NO_RUNS
    return (
        "\n".join(parts)
        + f"\nEvery figure, and what was not measured and why: [{figures}/report.md]({figures}/report.md)."
    )


def filled(readme: str, block: str) -> str:
    """The README with ``block`` between its marks.

    Raises:
        BadRun: the README does not have both marks once, in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise BadRun(f"the README needs the lines {BEGIN} and {END}, once each: the text between them is replaced")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


# Command line --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="JSON", help="files of runs (default: the committed runs)"
    )
    parser.add_argument("--out", type=Path, help="folder for report.md and its plots (default: bench/results/report)")
    parser.add_argument("--readme", type=Path, help="fill the marked block of this file with the headline tables")
    options = parser.parse_args(arguments)
    out = (options.out or OUT).resolve()
    try:
        runs = [read_run(path) for path in options.runs or committed()]
        if not runs:
            raise BadRun(f"there is no run: give the JSON of one, or put it into {RESULTS}/<machine>/suite.json")
        files = report(runs)
        if options.readme is not None:
            try:
                text = options.readme.read_text(encoding="utf-8")
            except OSError as error:
                raise BadRun(f"{options.readme}: cannot be read: {error.strerror or error}") from None
            figures = quote(Path(os.path.relpath(out, options.readme.resolve().parent)).as_posix())
            text = filled(text, readme_block(runs, figures))
        try:
            for name, content in files.items():
                json_io.write(out / name, content)
            if options.readme is not None:
                json_io.write(options.readme, text)
        except OSError as error:
            raise BadRun(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    except BadRun as error:
        print(f"python -m bench.report: {error}", file=sys.stderr)
        return 2
    print(f"{out / 'report.md'}: {len(runs)} run(s), {len(files) - 1} plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
