"""What a study says for people: the table for the terminal, lines.tsv, the figures and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyenadna.cancer.intervals import METRICS
from hyenadna.data.tables import encoded, tsv_line
from hyenadna.drawing.cancer import Bar, confusions, forest, line_histograms
from hyenadna.drawing.report import Image, Table, write_report
from hyenadna.published.tables import figures

LINES_FILE = "lines.tsv"
LEVELS = {"sequence": "per sequence", "line": "per line, by mean log-odds", "vote": "per line, by majority vote"}
"""Headings of the levels of the figures in results.json."""

_TOP = {figure.dataset: figure.value for figure in figures("cancer")}
PUBLISHED_NOTE = (
    f"The published top accuracies are {_TOP['1k']:.4f} for 1K, {_TOP['32k']:.4f} for 32K and {_TOP['32k-scratch']:g} "
    "from random weights. The frozen backbone has none: its loss exploded. They are near chance, so a figure near "
    "chance here is the published result and no fault. They are those of the best epoch on the test. Here validation "
    "lines choose the epoch, and the test is used once."
)
"""What the published figures are, for the terminal and the page."""


def describe(results: dict[str, Any]) -> str:
    """The table of the results, for the terminal."""
    lines = []
    for data in results["data"]:
        lines.append(f"{data['folder']}: windows of {data['length']:,} bases, test of {_sizes(data['test'])}")
        lines.append(f"{'':<34} {'accuracy per sequence':<24} {'accuracy per line':<24} AUROC per line")
        for row in _rows(results, data):
            cells = [_cell(row, "sequence", "accuracy"), _cell(row, "line", "accuracy"), _cell(row, "line", "auroc")]
            note = row["note"] if row["sequence"] is None else ""
            lines.append(f"{_name(row):<34} {cells[0]:<24} {cells[1]:<24} {cells[2]}{note}".rstrip())
        lines += [f"note: {note}" for note in data["notes"]]
    published = {row["name"]: row["published"]["accuracy"] for row in results["rows"] if row.get("published")}
    lines += [f"{'published, ' + name:<34} {value:.4f}" for name, value in published.items()]
    interval = results["interval"]
    lines.append(
        f"95% intervals of {interval['resamples']:,} resamples of the test lines within their class (seed "
        f"{interval['seed']})"
    )
    lines.append(PUBLISHED_NOTE)
    return "\n".join(lines)


def write_files(results: dict[str, Any], folder: Path) -> None:
    """Write lines.tsv, the figures and report.html into a folder.

    Args:
        results: see :func:`hyenadna.cancer.study.study`.
        folder: an existing folder.
    """
    (folder / LINES_FILE).write_bytes(encoded("".join(map(tsv_line, _line_rows(results)))))
    classes = results["data"][0]["classes"]
    images, tables = [], []
    for data in results["data"]:
        end = f"-{data['length']}" if len(results["data"]) > 1 else ""
        words = f"windows of {data['length']:,} bases"
        rows = _rows(results, data)
        filled = [row for row in rows if row["sequence"] is not None]
        models = [row for row in filled if row["kind"] == "model"]
        tables += [_table(f"{words}: {heading}", rows, level) for level, heading in LEVELS.items()]
        if gains := [row for row in models if "gain" in row]:
            tables.append(_gain_table(f"{words}: mutated less unmutated", gains))
        tables.append(_training_table(f"{words}: training", models))
        bars = [
            Bar(
                _name(row),
                row["kind"] == "model",
                [row[level] and row[level]["accuracy"] for level in ("sequence", "line")],
                row.get("published", {}).get("accuracy"),
            )
            for row in rows
        ]
        forest(bars, ["per sequence", "per line"], folder / f"accuracy{end}.png", chance=1 / len(classes))
        images.append(
            Image(
                folder / f"accuracy{end}.png",
                f"Test accuracy on {words}, with 95% intervals over lines. Circles are models, squares yardsticks, "
                "diamonds published figures. The dashed line is a guess.",
            )
        )
        shown = {_name(row): row for row in filled if row["inputs"] != "none"}
        confusions({name: row["confusion"]["line"] for name, row in shown.items()}, classes,
                   folder / f"confusion{end}.png")  # fmt: skip
        images.append(Image(folder / f"confusion{end}.png", f"Lines by true and predicted class, {words}."))
        spread = {
            name: {
                label: [line["log_odds"][classes[-1]] for line in row["lines"].values() if line["label"] == label]
                for label in classes
            }
            for name, row in shown.items()
        }
        line_histograms(spread, folder / f"lines{end}.png", of=classes[-1])
        images.append(Image(folder / f"lines{end}.png", f"Mean log-odds of {classes[-1]} of each test line, {words}."))
    write_report(
        folder,
        title="Cancer types from mutated sequence",
        summary=_summary(results),
        facts=_facts(results),
        tables=tables,
        images=images,
    )


def _rows(results: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["data"] == data["folder"]]


def _name(row: dict[str, Any]) -> str:
    return row["name"] if row["inputs"] == "none" else f"{row['name']}, {row['inputs']}"


def _cell(row: dict[str, Any], level: str, metric: str) -> str:
    """A metric with its interval, or nothing."""
    if row[level] is None or row[level][metric][0] is None:
        return ""
    value, low, high = row[level][metric]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _sizes(split: dict[str, dict[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in split["lines"].items()) + (
        f" lines with {sum(split['sequences'].values()):,} sequences"
    )


def _table(title: str, rows: Sequence[dict[str, Any]], level: str) -> Table:
    columns = ["", "windows", "accuracy", "MCC", "AUROC", "published", "note"]
    found = []
    for row in rows:
        published = row.get("published", {}).get("accuracy", "")
        cells = [_cell(row, level, metric) for metric in METRICS]
        shown = f"{published:.4f}" if published != "" else ""
        found.append([row["name"], row["inputs"], *cells, shown, row["note"]])
    note = "Value and 95% interval of each metric."
    if level != "sequence":
        exact = {
            f"{row[level]['exact'][0]:.3f} to {row[level]['exact'][1]:.3f}"
            for row in rows
            if row[level] is not None and row[level]["accuracy"][0] == 1.0
        }
        if exact:
            note += (
                f" Where every line is right, the resamples have no spread; the exact binomial interval is "
                f"{', '.join(sorted(exact))}."
            )
    return Table(title, columns, found, None, note)


def _gain_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    def cell(row: dict[str, Any], level: str) -> str:
        value, low, high = row["gain"][level]["accuracy"]
        return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"

    found = [[row["name"], *(cell(row, level) for level in LEVELS)] for row in rows]
    note = (
        "Accuracy on mutated windows less that on the same windows without mutations, in the same resamples. The "
        "second knows the positions alone. An interval that holds 0 shows no use of the mutations."
    )
    return Table(title, ["", *LEVELS.values()], found, None, note)


def _training_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    columns = ["", "windows", "weights", "seed", "best epoch", "validation", "test, mean of seeds", "folder"]
    found = []
    for row in rows:
        mean = row["over_seeds"]["accuracy"]
        spread = "" if mean["deviation"] is None else f" ± {mean['deviation']:.4f} ({mean['runs']} seeds)"
        (validation,) = row["validation"].items()
        found.append([
            row["name"], row["inputs"], row["weights"], str(row["seed"]), str(row["best_epoch"]),
            f"{validation[0]} {validation[1]:.4f}", f"{mean['mean']:.4f}{spread}", row["folder"],
        ])  # fmt: skip
    note = (
        "Weights are those that training began from. The seed is the one with the best validation; intervals and lines "
        "are its own. The mean of the seeds is their accuracy per sequence, with its standard deviation."
    )
    return Table(title, columns, found, None, note)


def _summary(results: dict[str, Any]) -> str:
    models = [row for row in results["rows"] if row["kind"] == "model" and row["line"] is not None]
    others = [row for row in results["rows"] if row["kind"] == "yardstick" and row["line"] is not None]
    best, yardstick = (max(rows, key=lambda row: row["sequence"]["accuracy"][0]) for rows in (models, others))
    shuffled = "The labels of training and validation are shuffled. " if results["shuffled_labels"] else ""
    return (
        f"{shuffled}The best model per sequence is {_name(best)}: {_cell(best, 'sequence', 'accuracy')} per sequence, "
        f"{_cell(best, 'line', 'accuracy')} per line. The best yardstick is {_name(yardstick)}: "
        f"{_cell(yardstick, 'sequence', 'accuracy')} and {_cell(yardstick, 'line', 'accuracy')}."
    )


def _facts(results: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for data in results["data"]:
        for split in ("training", "validation", "test"):
            facts[f"{split}, {data['length']:,} bases"] = _sizes(data[split])
        for i, note in enumerate(data["notes"], start=1):
            facts[f"note {i}, {data['length']:,} bases"] = note
    settings = results["settings"]
    facts["options of fine-tuning"] = ", ".join(f"{key} {value}" for key, value in settings["options"].items()) or "own"
    facts["seeds"] = ", ".join(map(str, settings["seeds"]))
    interval = results["interval"]
    facts["intervals"] = f"95%, {interval['resamples']:,} resamples, seed {interval['seed']}. {interval['why']}"
    facts["published"] = PUBLISHED_NOTE
    return facts


def _line_rows(results: dict[str, Any]) -> Iterator[list[object]]:
    """The rows of lines.tsv, the header first: each test line by each row of the study."""
    classes = results["data"][0]["classes"]
    odds = [f"log_odds_{name}" for name in classes]
    yield ["data", "row", "windows", "line", "patient", "label", "predicted", "voted", "sequences", "right", *odds]
    for row in results["rows"]:
        for name, line in (row["lines"] or {}).items():
            places = [row["data"], row["name"], row["inputs"], name, line["patient"], line["label"]]
            found = [line["predicted"], line["voted"], line["sequences"], line["right"]]
            yield [*places, *found, *(line["log_odds"][label] for label in classes)]
