"""The tables of the report: published figures beside results, and differences of like with like.

The rules: a result stands beside a published figure only if its test split may be the published one. Nothing is filled
in from elsewhere. Figures of two published tables never meet in one difference. A model from random weights is compared
with models from random weights. Where two folders fit one row, both are listed, and no difference chooses one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from hyenadna.comparison.results import Result
from hyenadna.drawing.comparison import Dots
from hyenadna.drawing.report import Table
from hyenadna.published import enbed
from hyenadna.published.figure import Figure
from hyenadna.published.tables import ABLATION_TABLE, FIGURES, MISSING, figures

TITLES = {
    "genomic-benchmarks": "GenomicBenchmarks",
    "nucleotide-transformer": "Nucleotide Transformer",
    "chromatin": "Chromatin profiles (DeepSEA)",
    "species": "Species",
    "biotypes": "Biotypes",
    "cancer": "Cancer types",
    enbed.BENCHMARKS["genomic-benchmarks"]: "ENBED on GenomicBenchmarks",
    enbed.BENCHMARKS["nucleotide-transformer"]: "ENBED on Nucleotide Transformer",
}
"""The benchmarks in the order of the report."""

CAVEATS = {
    "genomic-benchmarks": "The test accuracy of the best epoch on the test split itself, of one run.",
    "nucleotide-transformer": (
        "The test value of the best epoch on the test split itself, of one run. The paper drew its own 90:10 splits, "
        "which are not public. It says F1 without its kind; here it is the mean over the classes."
    ),
    "chromatin": "The median AUROC over the outputs of a group, of one run.",
    "species": "Accuracy on windows drawn at random from held-out chromosomes, of one run.",
    "biotypes": "Gradient-boosted trees on embeddings of frozen weights, of one run. The split is not published.",
    "cancer": (
        "The best accuracy on the test sequences, of one run. The thesis does not name its cell lines. Chance is 0.5."
    ),
    **enbed.FINE_TUNING_NOTES,
}
"""What a reader must know of the published figures."""

TRAINABLE = (
    *("pretrained", "scratch", "gpt", "gpt-pretrained", "kmer", "bidirectional", "cnn", "frozen", "transformer"),
    *("enbed", "enbed-pretrained"),
)
"""Published rows that this package can fill. The others are models of other groups."""

PAIRS = (
    ("pretraining of HyenaDNA", "pretrained", "scratch"),
    ("pretraining of GPT", "gpt-pretrained", "gpt"),
    ("both directions, from random weights", "bidirectional", "scratch"),
    ("6-mers, from random weights", "kmer", "scratch"),
    ("GPT for HyenaDNA, from random weights", "gpt", "scratch"),
    ("GPT for HyenaDNA, pretrained", "gpt-pretrained", "pretrained"),
    ("CNN for HyenaDNA, from random weights", "cnn", "scratch"),
    ("pretraining of ENBED", "enbed-pretrained", "enbed"),
)
"""What a difference shows, and its two rows, which are alike in everything else."""

# The rows of results beside a published row. The published model of both directions is `bidirectional-published`.
_OURS = {"bidirectional": ("bidirectional", "bidirectional-published"), "transformer": ("gpt-pretrained",)}
_ANOTHER_OPERATOR = "truly two-sided; the published figure is of the operator of bidirectional-published"

_COLUMNS = ("test sequences", "epoch chosen on", "weights", "parameters", "deviations and notes", "folder")


@dataclass(frozen=True)
class Section:
    """A published table, without the figures that an earlier table prints as well."""

    benchmark: str
    source: str
    figures: tuple[Figure, ...]

    @property
    def title(self) -> str:
        """The benchmark and the number of the table."""
        return f"{TITLES[self.benchmark]}, {self.source.rpartition(', ')[2]}"


@dataclass(frozen=True)
class Line:
    """A published figure and a result beside it. Either may be missing."""

    dataset: str
    row: str
    metric: str
    published: float | None
    ours: Result | None
    note: str = ""

    @property
    def values(self) -> list[float]:
        """Ours, for each run."""
        return self.ours.values.get(self.metric, []) if self.ours else []


def sections() -> list[Section]:
    """The published tables, in their order."""
    found: list[Section] = []
    seen: set[tuple[str, str, str, float]] = set()
    for (benchmark, source), group in groupby(FIGURES, lambda figure: (figure.benchmark, figure.source)):
        keys = {figure: (figure.dataset, figure.row, figure.metric, figure.value) for figure in group}
        if not (found and found[-1].benchmark == benchmark):
            seen.clear()
        found.append(Section(benchmark, source, tuple(figure for figure, key in keys.items() if key not in seen)))
        seen.update(keys.values())
    return found


# As published --------------------------------------------------------------------------------------------------------


def grid(section: Section) -> Table:
    """A published table whole, in percent, as it is printed."""
    found = [figure for figure in figures(section.benchmark) if figure.source == section.source]
    several_metrics = len({figure.metric for figure in found if figure.dataset == found[0].dataset}) > 1
    # The metrics are the columns if each dataset has several of them, else the rows of the figures are.
    columns = list(dict.fromkeys(figure.metric if several_metrics else figure.row for figure in found))
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for figure in found:
        key = (figure.dataset, figure.row if several_metrics else figure.metric)
        cells.setdefault(key, {})[figure.metric if several_metrics else figure.row] = figure.value
    rows = [[*key, *(_percent(line.get(column)) for column in columns)] for key, line in cells.items()]
    highlight = None
    if section.benchmark.endswith("genomic-benchmarks"):
        highlight = len(rows)
        means = [np.mean([line[column] for line in cells.values()]) for column in columns]
        rows.append(["mean, computed here", "", *(f"{100 * mean:.2f}" for mean in means)])
    head = ["dataset", "row" if several_metrics else "metric", *columns]
    return Table(f"{section.title}: as published, in percent", head, rows, highlight, CAVEATS[section.benchmark])


def _percent(value: float | None) -> str:
    return "" if value is None else _as_printed(100 * value, 2)


def _as_printed(value: float, digits: int) -> str:
    """A published number without a last 0 that its table does not have."""
    text = f"{value:.{digits}f}"
    return text[:-1] if text.endswith("0") else text


# Beside this machine -------------------------------------------------------------------------------------------------


def lines(section: Section, results: Sequence[Result]) -> list[Line]:
    """The lines of a published table: a line for each figure, or for each result beside it if there are any.

    Results without a published figure follow those of their dataset, in the first table of the benchmark.
    """
    own = [result for result in results if result.benchmark == section.benchmark]
    entries: list[tuple[str, str, str, float | None, str]] = [
        (figure.dataset, figure.row, figure.metric, figure.value, "") for figure in section.figures
    ]
    metric = section.figures[0].metric
    entries += [
        (dataset, row, metric, None, f"published without a value: {reason}")
        for (benchmark, dataset, row), reason in MISSING.items()
        if benchmark == section.benchmark and _has(section, row)
    ]
    if section == next(part for part in sections() if part.benchmark == section.benchmark):
        known = {(figure.dataset, row) for figure in figures(section.benchmark) for row in _ours(figure.row)}
        known |= {(dataset, row) for benchmark, dataset, row in MISSING if benchmark == section.benchmark}
        extra = {(result.dataset, result.row): result for result in own if not result.apart}
        entries += [
            (*key, result.metric, None, "no published figure") for key, result in extra.items() if key not in known
        ]
    order = list(dict.fromkeys(figure.dataset for figure in figures(section.benchmark)))
    order += [dataset for dataset, *_ in entries if dataset not in order]
    entries.sort(key=lambda entry: order.index(entry[0]))
    return [line for entry in entries if entry[1] in TRAINABLE or entry[3] is None for line in _beside(*entry, own)]


def _has(section: Section, row: str) -> bool:
    """Whether a row without a value is one of this table: the first with figures of the row, or the first of all."""
    parts = [part for part in sections() if part.benchmark == section.benchmark]
    with_row = [part for part in parts if any(figure.row == row for figure in part.figures)]
    return section == (with_row or parts)[0]


def _ours(row: str) -> tuple[str, ...]:
    return _OURS.get(row, (row,))


def _beside(
    dataset: str, row: str, metric: str, published: float | None, note: str, results: Sequence[Result]
) -> Iterator[Line]:
    fitting = [result for result in results if result.dataset == dataset and result.row in _ours(row)]
    compared = [result for result in fitting if not result.apart and metric in result.values]
    for result in compared:
        notes = [note, _ANOTHER_OPERATOR if result.row == "bidirectional" and published is not None else ""]
        if (count := sum(other.row == result.row for other in compared)) > 1:
            notes.append(f"{count} folders fit this row")
        yield Line(dataset, result.row, metric, published, result, "; ".join(filter(None, notes)))
    if not compared:
        reasons = [f"{result.folder}: {result.apart or f'has no {metric}'}" for result in fitting]
        yield Line(dataset, row, metric, published, None, "; ".join(filter(None, [note, *reasons])))


def beside(section: Section, found: Sequence[Line]) -> Table:
    """The table of :func:`lines`."""
    rows = [
        [
            line.dataset,
            line.row,
            line.metric,
            "" if line.published is None else _as_printed(line.published, 4),
            *_cells(line),
        ]
        for line in found
    ]
    source = section.source.rpartition(", ")[2]
    columns = ["dataset", "row", "metric", f"published ({source})", "ours: mean (range)", *_COLUMNS]
    note = "Ours is empty where nothing was run, and where the test split is another one."
    if section.benchmark in enbed.FINE_TUNING_NOTES and any(line.ours for line in found):
        note += " Parameters of ours are in their column. The published model has about a billion."
    return Table(f"{section.title}: published and ours", columns, rows, note=note)


def apart(results: Sequence[Result]) -> Table:
    """Results whose test split is not the published one."""
    rows = [
        [result.dataset, result.row, result.metric, *_cells(line), result.apart]
        for result in results
        for line in [Line(result.dataset, result.row, result.metric, None, result)]
    ]
    columns = ["dataset", "row", "metric", "ours: mean (range)", *_COLUMNS, "why"]
    note = "These compare with each other where their test is the same, and with no published figure."
    return Table("Not comparable with published figures", columns, rows, note=note)


def _cells(line: Line) -> list[str]:
    if line.ours is None:
        return ["", "", "", "", "", line.note, ""]
    ours = line.ours
    return [
        shown(line.values, ours.repeated) if line.values else "no value",
        f"{ours.tested:,}",
        ours.epoch_chosen_on,
        ours.weights,
        "" if ours.parameters is None else f"{ours.parameters:,}",
        "; ".join(filter(None, [ours.deviations, line.note])),
        str(ours.folder),
    ]


def shown(values: Sequence[float], repeated: str) -> str:
    """Mean and range of values, and ``repeated``, which says how many there are."""
    if len(values) == 1:
        return f"{values[0]:.4f} ({repeated})"
    return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}, {repeated})"


def dots(found: Sequence[Line]) -> list[Dots]:
    """The lines as a picture shows them."""
    return [Dots(line.dataset, line.row, line.published, line.values) for line in found]


# Like with like ------------------------------------------------------------------------------------------------------


def differences(results: Sequence[Result]) -> Table:
    """Differences of two rows that are alike in everything else, published and ours, in points."""
    rows: list[list[str]] = []
    for section in sections():
        own = [result for result in results if result.benchmark == section.benchmark and not result.apart]
        for what, first, second in PAIRS:
            rows += _differences(section, what, first, second, own)
    columns = ["table", "difference", "dataset", "published", "ours: mean (range over runs)", "note"]
    return Table("Like with like, in points", columns, rows, note=_papers_own())


def _differences(section: Section, what: str, first: str, second: str, own: Sequence[Result]) -> Iterator[list[str]]:
    values = {
        (figure.row, figure.dataset): figure for figure in figures(section.benchmark) if figure.source == section.source
    }
    published = {
        dataset: 100 * (figure.value - values[second, dataset].value)
        for (row, dataset), figure in values.items()
        if row == first and (second, dataset) in values
    }
    is_first = section == next(part for part in sections() if part.benchmark == section.benchmark)
    found: list[tuple[str, Difference]] = []
    for dataset in published or (dict.fromkeys(result.dataset for result in own) if is_first else ()):
        metric = values[first, dataset].metric if published else ""
        ours = _our_differences([result for result in own if result.dataset == dataset], first, second, metric)
        found += [(dataset, difference) for difference in ours]
    if len(published) > 1:
        means = [difference.mean for _, difference in found if difference.row == first and difference.mean is not None]
        ours_mean = _points(float(np.mean(means))) if len(means) == len(published) else ""
        number = _points(float(np.mean([*published.values()])))
        yield [section.title, what, f"mean of {len(published)}", number, ours_mean, ""]
    if section.benchmark == "species":
        # By length, the published differences are the point of the table.
        found = found or [(dataset, Difference(first, None)) for dataset in published]
    for dataset, difference in found:
        number = _points(published[dataset]) if published else ""
        notes = [difference.note, _ANOTHER_OPERATOR if difference.row == "bidirectional" and published else ""]
        name = _named(what, difference.row, first)
        yield [section.title, name, dataset, number, difference.text, "; ".join(filter(None, notes))]


def _named(what: str, row: str, first: str) -> str:
    return what if row == first else f"{what} ({row})"


def _points(value: float) -> str:
    # Figures have one decimal in percent, so means of eight lie on halves of the last digit: round these away from 0.
    return f"{value + np.copysign(1e-9, value):+.2f}"


class Difference(NamedTuple):
    """A difference of ours in points. ``mean`` is None if there is none; then ``note`` says why."""

    row: str
    mean: float | None
    by_run: Sequence[float] = ()
    note: str = ""

    @property
    def text(self) -> str:
        """Mean, and the range over the runs that both have."""
        if self.mean is None or not self.by_run:
            return "" if self.mean is None else _points(self.mean)
        low, high = _points(min(self.by_run)), _points(max(self.by_run))
        return f"{_points(self.mean)} ({low} to {high}, runs of both: {len(self.by_run)})"


def _our_differences(own: Sequence[Result], first: str, second: str, metric: str = "") -> Iterator[Difference]:
    """A difference for each of our rows that stand beside ``first`` and were run, as was ``second``.

    Args:
        own: results of one dataset.
        first: the published row.
        second: the row that it is compared with.
        metric: of the difference. By default, the one that both chose their epoch by.
    """
    for row in _ours(first):
        pair = [[result for result in own if result.row == name] for name in (row, second)]
        if not all(pair):
            continue
        if any(len(found) > 1 for found in pair):
            yield Difference(row, None, note="several folders fit a row, so none is chosen")
            continue
        (a,), (b,) = pair
        name = metric or a.metric
        if not (name in a.values and name in b.values) or (not metric and a.metric != b.metric):
            yield Difference(row, None, note=f"the two have no {metric or 'metric'} in common")
            continue
        one, other = (dict(zip(result.runs, result.values[name], strict=True)) for result in (a, b))
        by_run = [100 * (one[run] - other[run]) for run in one if run in other]
        yield Difference(row, 100 * float(np.mean([*one.values()]) - np.mean([*other.values()])), by_run)


def differences_apart(results: Sequence[Result]) -> Table:
    """The same differences between results of :func:`apart` whose test is the same."""
    splits = dict.fromkeys(result.split for result in results)
    groups = [[result for result in results if result.split == split] for split in splits]
    rows = [
        [group[0].dataset, _named(what, difference.row, first), difference.text, difference.note]
        for group in groups
        for what, first, second in PAIRS
        for difference in _our_differences(group, first, second)
    ]
    columns = ["dataset", "difference", "ours: mean (range over runs)", "note"]
    return Table("Like with like where no published figure compares, in points", columns, rows)


def _papers_own() -> str:
    """What the paper itself says of both directions, and what its table says."""
    means = {
        row: float(np.mean([f.value for f in figures("genomic-benchmarks", row=row) if f.source == ABLATION_TABLE]))
        for row in ("pretrained", "scratch", "bidirectional", "kmer")
    }

    def points(row: str, other: str) -> str:
        return _points(100 * (means[row] - means[other]))

    return (
        "The paper says that both directions lose 3.8 points to the causal model, also from random weights. By its own "
        f"table that is the loss to the pretrained model ({points('bidirectional', 'pretrained')}). To the model from "
        f"random weights it is {points('bidirectional', 'scratch')}. 6-mers lose {points('kmer', 'pretrained')} to the "
        f"pretrained model, and {points('kmer', 'scratch')} from random weights."
    )
