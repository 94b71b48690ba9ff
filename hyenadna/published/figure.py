"""One number of a published table, and tables of them as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number of a published table.

    Attributes:
        benchmark: ``"genomic-benchmarks"``, ``"nucleotide-transformer"``, ``"chromatin"``, ``"species"``,
            ``"biotypes"`` or ``"cancer"``.
        dataset: the end of the preset's name, such as ``"mouse-enhancers"``, ``"H3K4me1"`` or ``"32k"``.
        row: the model, one of ``ROWS``. Where finetune has it as an ablation, the names are the same.
        metric: the name of the metric in ``hyenadna.evaluation.metrics``.
        value: from 0 to 1.
        source: the publication and its table.
    """

    benchmark: str
    dataset: str
    row: str
    metric: str
    value: float
    source: str


def parse(benchmark: str, source: str, text: str, metric: str = "") -> Iterator[Figure]:
    """The figures of a table that is written as text.

    Its first line names the columns. After dataset, metric and row come rows, or metrics if row is a column. Values are
    in percent, and a dash stands for a value that the table does not have.

    Args:
        benchmark: of all figures.
        source: of all figures.
        text: the table.
        metric: of all figures, if metrics are no column.
    """
    header, *lines = (line.split() for line in text.strip().splitlines())
    for words in lines:
        line = dict(zip(header, words, strict=True))
        dataset, row, chosen = line.pop("dataset"), line.pop("row", ""), line.pop("metric", metric)
        for column, value in line.items():
            if value != "-":
                names = (row, column) if row else (column, chosen)
                yield Figure(benchmark, dataset, *names, round(float(value) / 100, 4), source)
