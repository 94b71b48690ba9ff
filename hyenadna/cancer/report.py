"""What ``hyenadna mutate`` counts, as JSON and as a page."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from hyenadna.cancer.checks import Checked
from hyenadna.cancer.config import MEDIAN, MutateConfig
from hyenadna.cancer.lines import Line
from hyenadna.cancer.mutations import Mutations
from hyenadna.cancer.selection import Selection
from hyenadna.cancer.tables import SPLITS
from hyenadna.drawing.mutations import mutations_per_line, mutations_per_sequence
from hyenadna.drawing.report import Command, Image, Table, write_report

NOT_IN_TABLE = "the line is not in the table of lines"
OTHER_CLASS = "the line is of no chosen class"

DROPPED = {
    "overlapping": "overlap a mutation that was put in before",
    "straddling": "pass an edge of the window",
    "cut": "lie in what insertions push out of the sequence",
}
"""Why a sequence lacks mutations of its line, by the key in the report."""


class Counts:
    """Counts of a run.

    Args:
        config: the options.
        found: the mutations of the file.
        checked: those that the reference has a place for.
        models: all lines of the table.
        genome: a line about the reference.

    Attributes:
        usable: mutations of each line of the classes that can become a sequence.
        selection: the lines that are taken; None before they are.
    """

    def __init__(
        self, config: MutateConfig, found: Mutations, checked: Checked, models: Mapping[str, Line], genome: str
    ) -> None:
        self.usable: dict[str, int] = {}
        self.selection: Selection | None = None
        self._config, self._found, self._checked, self._genome = config, found, checked, genome
        self._lines: list[Line] = []
        self._skipped = Counter(found.skipped)
        self._of_line: dict[str, Counter[str]] = defaultdict(Counter)
        for (name, reason), count in checked.skipped.items():
            self._skipped[reason] += count
            self._of_line[name][reason] += count
        self._rows = dict(found.frame.group_by("line").len().iter_rows())
        self._other_lines = Counter[str]()
        for name, count in checked.frame.group_by("line").len().iter_rows():
            line = models.get(name)
            if line is None or line.label not in config.classes:
                reason = NOT_IN_TABLE if line is None else OTHER_CLASS
                self._skipped[reason] += count
                self._other_lines[reason] += 1
        self._mutations: dict[str, Counter[int]] = defaultdict(Counter)
        self._dropped = Counter[str]()
        self._sequences = Counter[tuple[str, str]]()

    def add_line(self, line: Line, usable: int, skipped: Counter[str]) -> None:
        """Count a line of the classes."""
        self._lines.append(line)
        self.usable[line.name] = usable
        self._of_line[line.name].update(skipped)
        self._skipped.update(skipped)

    def add_made(self, line: Line, split: str, mutations: Counter[int], dropped: Counter[str]) -> None:
        """Count sequences: how many show how many mutations, and how many mutations are not shown."""
        self._mutations[line.label].update(mutations)
        self._dropped.update(dropped)
        self._sequences[line.label, split] += mutations.total()

    def report(self) -> dict[str, Any]:
        """All counts as JSON values. Nothing in it depends on the number of workers."""
        config, selection = self._config, self.selection
        assert selection is not None
        splits = {line.name: split for line, split in selection.splits.items()}
        seen = {
            label: [self.usable[line.name] for line in self._lines if line.label == label and self.usable[line.name]]
            for label in config.classes
        }
        classes = {}
        for label in config.classes:
            taken = Counter(split for line, split in selection.splits.items() if line.label == label)
            classes[label] = {
                "mutations_per_line": _spread(seen[label]),
                "lines": {"eligible": taken.total(), **{split: taken[split] for split in SPLITS}},
                "sequences": {split: self._sequences[label, split] for split in SPLITS},
                "mutations_per_sequence": {str(n): self._mutations[label][n] for n in sorted(self._mutations[label])},
            }
        return {
            "mutations": str(config.mutations),
            "models": str(config.models),
            "reference": self._genome,
            "length": config.length,
            "seed": config.seed,
            "rows": {
                "in_file": self._found.rows,
                "compared": self._checked.compared,
                "usable": sum(self.usable.values()),
                "skipped": dict(self._skipped.most_common()),
                "other_kind": self._found.other_kind,
            },
            "other_lines": dict(self._other_lines),
            "more_than": selection.threshold,
            "more_than_is": "the median of the lines" if config.more_than == MEDIAN else "given",
            "per_line": selection.per_line,
            "classes": classes,
            "all_classes": {"mutations_per_line": _spread([count for one in seen.values() for count in one])},
            "not_shown": {reason: self._dropped[reason] for reason in DROPPED},
            "lines": {
                line.name: {
                    "class": line.label,
                    "patient": line.patient,
                    "split": splits.get(line.name),
                    "rows": self._rows.get(line.name, 0),
                    "usable": self.usable[line.name],
                    "sequences": selection.per_line if line.name in splits else 0,
                    "skipped": dict(self._of_line[line.name].most_common()) if line.name in self._of_line else {},
                }
                for line in self._lines
            },
        }


def _spread(counts: Sequence[int]) -> dict[str, float]:
    """Number of lines, and min, max, mean and median of their mutations."""
    if not counts:
        return {"lines": 0}
    spread = {"min": min(counts), "max": max(counts), "mean": mean(counts), "median": float(median(counts))}
    return {"lines": len(counts), **spread}


def write_page(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.html``: the counts as tables, with histograms of mutations per sequence and per line."""
    classes = report["classes"]
    shown = {
        label: {int(number): count for number, count in one["mutations_per_sequence"].items()}
        for label, one in classes.items()
    }
    of_lines = {
        label: [line["usable"] for line in report["lines"].values() if line["class"] == label and line["usable"]]
        for label in classes
    }
    total = sum(sum(one["sequences"].values()) for one in classes.values())
    rows = report["rows"]
    facts = {
        "mutations": f"{report['mutations']}: {rows['in_file']:,} rows",
        "lines": report["models"],
        "reference": report["reference"],
        "bases of a sequence": report["length"],
        "sequences of each line": report["per_line"],
        "lines are taken with": f"more than {report['more_than']:,g} mutations ({report['more_than_is']})",
        "seed": str(report["seed"]),
    }
    spreads = {**{label: one["mutations_per_line"] for label, one in classes.items()}}
    spreads["all"] = report["all_classes"]["mutations_per_line"]
    left_out = [[reason, count] for reason, count in rows["skipped"].items()]
    with tempfile.TemporaryDirectory() as draft:
        images = [
            Image(
                mutations_per_sequence(shown, report["length"], Path(draft) / "sequences.png"),
                "How many mutations a sequence shows, the one that it was drawn for among them.",
            ),
            Image(
                mutations_per_line(of_lines, report["more_than"], Path(draft) / "lines.png"),
                "How many usable mutations a line has.",
            ),
        ]
        write_report(
            folder,
            title="Mutated sequences",
            summary=f"{total:,} sequences of {report['length']:,} bases from {_count_lines(classes):,} lines, "
            f"{report['per_line']:,} of each.",
            facts=facts,
            tables=[
                Table(
                    "Usable mutations of a line",
                    ["class", "lines", "min", "max", "mean", "median"],
                    [
                        [label, one["lines"], *(_number(one.get(key)) for key in ("min", "max", "mean", "median"))]
                        for label, one in spreads.items()
                    ],
                    note="Usable are mutations that can become a sequence. Lines without one do not count.",
                ),
                Table(
                    "Lines and sequences",
                    ["class", "eligible lines", *(f"{split} lines" for split in SPLITS), *SPLITS],
                    [[label, *one["lines"].values(), *one["sequences"].values()] for label, one in classes.items()],
                    note="The four columns on the right count sequences. The lines of a patient stay in one split; "
                    "rest is neither trained nor tested on.",
                ),
                Table(
                    "Rows that are left out",
                    ["reason", "rows"],
                    left_out,
                    note=f"{rows['other_kind']:,} rows have alleles of other lengths than the type beside them says. "
                    "The alleles count.",
                ),
                Table(
                    "Mutations of a line that its windows touch and do not show",
                    ["reason", "mutations"],
                    [[f"they {DROPPED[reason]}", count] for reason, count in report["not_shown"].items()],
                    note="A mutation counts once for each sequence that lacks it.",
                ),
            ],
            images=images,
            commands=[
                Command(
                    "Train classifiers, and compare them with simple yardsticks",
                    "hyenadna cancer --data OUT_DIR --model MODEL --out study",
                ),
            ],
        )


def describe(report: Mapping[str, Any], folder: Path) -> str:
    """The lines that the command prints."""
    classes, rows = report["classes"], report["rows"]
    total = sum(sum(one["sequences"].values()) for one in classes.values())
    told = [
        f"{total:,} sequences of {report['length']:,} bases from {_count_lines(classes):,} lines, "
        f"{report['per_line']:,} of each; tables and report.html in {folder}"
    ]
    for label, one in classes.items():
        counts = ", ".join(f"{one['lines'][split]:,} {split}" for split in SPLITS)
        told.append(
            f"{label}: {one['lines']['eligible']:,} of {one['mutations_per_line']['lines']:,} lines have more than "
            f"{report['more_than']:g} mutations: {counts}"
        )
    told += [f"{count:,} rows left out: {reason}" for reason, count in rows["skipped"].items()]
    if rows["other_kind"]:
        told.append(
            f"{rows['other_kind']:,} rows have alleles of other lengths than their type says; the alleles count"
        )
    if not any(line["patient"] for line in report["lines"].values()):
        told.append("no line has a patient, so lines of one patient may be on both sides")
    return "\n".join(told)


def _count_lines(classes: Mapping[str, Any]) -> int:
    return sum(one["lines"]["eligible"] for one in classes.values())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}".removesuffix(".0")
