"""The published figures: their means, and which table each belongs to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hyenadna.published.tables import ABLATION_TABLE, COMPARISON_TABLE, FIGURES, MISSING, ROWS, figures


@pytest.mark.parametrize(
    ("row", "mean"),
    [
        ("gpt", 81.73),
        ("gpt-pretrained", 86.26),
        ("scratch", 86.64),
        ("pretrained", 88.46),
        ("kmer", 82.89),
        ("bidirectional", 84.71),
        ("dnabert", 83.05),
    ],
)
def test_means_of_the_ablations_hold(row: str, mean: float) -> None:
    values = [found.value for found in figures("genomic-benchmarks", row=row) if found.source == ABLATION_TABLE]
    assert len(values) == 8
    assert 100 * np.mean(values) == pytest.approx(mean, abs=0.006)


def test_the_two_tables_of_the_benchmarks_are_kept_apart() -> None:
    both = [figures("genomic-benchmarks", row=row) for row in ("pretrained", "dnabert", "gpt-pretrained")]
    tables = [
        {name: [f.value for f in row if f.source == name] for name in (ABLATION_TABLE, COMPARISON_TABLE)}
        for row in both
    ]
    for agreeing in tables[:2]:
        assert agreeing[ABLATION_TABLE] == agreeing[COMPARISON_TABLE]
    assert tables[2][COMPARISON_TABLE] == [0.801, 0.888, 0.956, 0.705, 0.835, 0.915, 0.877, 0.730]
    assert not set(tables[2][ABLATION_TABLE]) & set(tables[2][COMPARISON_TABLE])
    assert {f.source for f in figures("genomic-benchmarks", row="cnn")} == {COMPARISON_TABLE}
    cnn = [f.value for f in figures("genomic-benchmarks", row="cnn")]
    assert cnn == [0.690, 0.876, 0.930, 0.695, 0.689, 0.933, 0.846, 0.680]


def test_splice_sites_keep_the_rows_where_attention_wins() -> None:
    for dataset in ("splice-acceptor", "splice-donor", "splice-all"):
        (gpt,) = figures("nucleotide-transformer", dataset, "gpt-pretrained")
        assert all(gpt.value > f.value for f in figures("nucleotide-transformer", dataset, "pretrained"))


@pytest.mark.parametrize(
    ("name", "datasets", "number"),
    [
        ("genomic-benchmarks", 8, 8 * (7 + 4)),
        ("nucleotide-transformer", 18, 18 * (4 + 4)),
        ("chromatin", 2, 4 * 3),
        ("species", 5, 4 * 2 + 7),
        ("biotypes", 1, 3),
        ("cancer", 3, 3),
        ("enbed-genomic-benchmarks", 8, 8 * 2),
        ("enbed-nucleotide-transformer", 17, 17 * 2),
    ],
)
def test_every_table_is_complete(name: str, datasets: int, number: int) -> None:
    found = figures(name)
    assert len(found) == number
    assert len({figure.dataset for figure in found}) == datasets
    # A number that two tables print is the same in both: GPT on GenomicBenchmarks is the one exception.
    values = {(f.dataset, f.row, f.metric): set[float]() for f in found}
    for f in found:
        values[f.dataset, f.row, f.metric].add(f.value)
    twice = {row for (_, row, _), both in values.items() if len(both) > 1}
    assert twice == ({"gpt-pretrained"} if name == "genomic-benchmarks" else set())


def test_every_figure_is_named_once_and_in_range() -> None:
    assert {figure.row for figure in FIGURES} | {row for *_, row in MISSING} == set(ROWS)
    assert all(0 < figure.value < 1 for figure in FIGURES)
    assert max(Counter((f.benchmark, f.dataset, f.row, f.metric, f.source) for f in FIGURES).values()) == 1
    assert not any(figures(*missing) for missing in MISSING)


def test_figures_of_one_dataset() -> None:
    assert {(f.metric, f.value) for f in figures("chromatin", "8k", "pretrained")} == {
        ("auroc_tf", 0.955),
        ("auroc_dhs", 0.917),
        ("auroc_hm", 0.893),
    }
    assert [f.value for f in figures("species", "1m")] == [0.995]
    assert [f.value for f in figures("cancer", "32k")] == [0.5462]
