"""The tables of the report: what stands beside what, and which differences are like with like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyenadna.comparison.results import Result, find
from hyenadna.comparison.tables import (
    TITLES,
    Line,
    Section,
    apart,
    beside,
    differences,
    differences_apart,
    grid,
    lines,
    sections,
)
from hyenadna.published.tables import ABLATION_TABLE, COMPARISON_TABLE, FIGURES
from tests.hyenadna.comparison.folders import put

A4, T41 = (next(part for part in sections() if part.source == source) for source in (ABLATION_TABLE, COMPARISON_TABLE))
SCRATCH: dict[str, Any] = {"method": "scratch"}


def promoters(section: Section, results: list[Result]) -> dict[str, list[Line]]:
    """Lines of the promoters by row."""
    found: dict[str, list[Line]] = {}
    for line in lines(section, results):
        if line.dataset == "nontata-promoters":
            found.setdefault(line.row, []).append(line)
    return found


def test_every_benchmark_has_its_tables_and_no_figure_is_repeated() -> None:
    assert list(dict.fromkeys(part.benchmark for part in sections())) == list(TITLES)
    assert {figure.row for figure in T41.figures} == {"cnn", "gpt-pretrained"}
    kept = {(f.benchmark, f.dataset, f.row, f.metric, f.value) for part in sections() for f in part.figures}
    assert kept == {(f.benchmark, f.dataset, f.row, f.metric, f.value) for f in FIGURES}


def test_a_published_table_is_shown_as_it_is_printed() -> None:
    table = grid(A4)
    assert table.columns[2:] == ["gpt", "gpt-pretrained", "scratch", "pretrained", "kmer", "bidirectional", "dnabert"]
    assert table.rows[0][2:] == ["79.3", "79.3", "84.7", "85.1", "81.8", "80.6", "66.9"]
    assert table.rows[8][2:] == ["81.73", "86.26", "86.64", "88.46", "82.89", "84.71", "83.05"]
    # The other table has its own GPT, and all of its columns.
    assert grid(T41).columns[2:] == ["cnn", "dnabert", "gpt-pretrained", "pretrained"]
    chromatin, cancer = (grid(part) for part in sections() if part.benchmark in ("chromatin", "cancer"))
    assert chromatin.columns == ["dataset", "row", "auroc_tf", "auroc_dhs", "auroc_hm"]
    assert chromatin.rows[1] == ["1k", "pretrained", "96.4", "93.0", "86.3"]
    assert [row[2:] for row in cancer.rows] == [["52.68", ""], ["54.62", ""], ["", "50.0"]]


def test_ours_is_empty_where_nothing_was_run(tmp_path: Path) -> None:
    results = find([put(tmp_path / "run", 0.95, 0.97)]).results
    found = lines(A4, results)
    assert [(line.dataset, line.row) for line in found if line.ours] == [("nontata-promoters", "pretrained")]
    # Six rows can be trained here. DNABERT cannot.
    assert len(found) == 8 * 6
    table = beside(A4, found)
    (ours,) = (row for row in table.rows if row[4])
    assert ours == [
        "nontata-promoters", "pretrained", "accuracy", "0.966", "0.9600 (0.9500 to 0.9700, 2 seeds)", "9,034",
        "drawn from the training examples", "published", "436,610", "", str(tmp_path / "run"),
    ]  # fmt: skip
    assert all(row[4:] == ["", "", "", "", "", "", ""] for row in table.rows if row is not ours)
    assert table.columns[3] == "published (Table A.4)"


def test_another_split_leaves_ours_empty_and_says_why(tmp_path: Path) -> None:
    folder = put(tmp_path / "run", 0.8, **SCRATCH, demonstration_split=True, tested=1807)
    results = find([folder]).results
    (line,) = promoters(A4, results)["scratch"]
    assert line.ours is None
    assert line.note == f"{folder}: demonstration split: its test was drawn from all examples"
    assert not any(row[4] for row in beside(A4, lines(A4, results)).rows)
    (row,) = apart(results).rows
    assert row[:5] == ["nontata-promoters", "scratch", "accuracy", "0.8000 (1 seed)", "1,807"]
    assert row[-1].startswith("demonstration split")


def test_two_folders_of_one_row_are_both_listed_and_none_is_chosen(tmp_path: Path) -> None:
    put(tmp_path / "a", 0.80, **SCRATCH, ablation="gpt")
    put(tmp_path / "b", 0.82, **SCRATCH, ablation="gpt")
    put(tmp_path / "c", 0.90, **SCRATCH)
    results = find([tmp_path]).results
    found = promoters(A4, results)["gpt"]
    assert [line.values for line in found] == [[0.80], [0.82]]
    assert all(line.note == "2 folders fit this row" and line.published == 0.852 for line in found)
    (row,) = (row for row in differences(results).rows if row[5])
    assert row[1:] == [
        "GPT for HyenaDNA, from random weights", "nontata-promoters", "-8.10", "",
        "several folders fit a row, so none is chosen",
    ]  # fmt: skip


def test_rows_stand_beside_their_own_table_alone(tmp_path: Path) -> None:
    put(tmp_path / "cnn", 0.84, **SCRATCH, ablation="cnn")
    put(tmp_path / "gpt", 0.90, ablation="gpt-pretrained")
    put(tmp_path / "lora", 0.95, method="lora")
    results = find([tmp_path]).results
    assert {row: line.published for row, (line,) in promoters(A4, results).items() if line.ours} == {
        "gpt-pretrained": 0.901,
        "lora": None,
    }
    assert {row: line.published for row, (line,) in promoters(T41, results).items() if line.ours} == {
        "cnn": 0.846,
        "gpt-pretrained": 0.877,
    }
    (lora,) = promoters(A4, results)["lora"]
    assert lora.note == "no published figure"


def test_both_operators_of_two_directions_stand_beside_the_published_one(tmp_path: Path) -> None:
    for name, value in (("bidirectional", 0.93), ("bidirectional-published", 0.88)):
        put(tmp_path / name, value, **SCRATCH, ablation=name)
    found = promoters(A4, find([tmp_path]).results)
    assert [line.published for name in ("bidirectional", "bidirectional-published") for line in found[name]] == [
        0.885
    ] * 2
    assert found["bidirectional"][0].note.startswith("truly two-sided; the published figure is of the operator of")
    assert found["bidirectional-published"][0].note == ""


def test_rows_without_a_value_say_why() -> None:
    notes = {
        (line.dataset, line.row): line.note
        for section in sections()
        for line in lines(section, [])
        if line.published is None
    }
    assert notes == {
        ("250k", "transformer"): "published without a value: training took too long",
        ("450k", "transformer"): "published without a value: training took too long",
        ("1m", "transformer"): "published without a value: training took too long",
        ("32k-frozen", "frozen"): "published without a value: the loss exploded",
    }


def test_published_differences_are_of_like_with_like() -> None:
    table = differences([])
    means = {(row[0], row[1]): row[3] for row in table.rows if row[2].startswith("mean")}
    a4 = "GenomicBenchmarks, Table A.4"
    assert means == {
        (a4, "pretraining of HyenaDNA"): "+1.83",
        (a4, "pretraining of GPT"): "+4.54",
        (a4, "both directions, from random weights"): "-1.93",
        (a4, "6-mers, from random weights"): "-3.75",
        (a4, "GPT for HyenaDNA, from random weights"): "-4.91",
        (a4, "GPT for HyenaDNA, pretrained"): "-2.20",
        ("GenomicBenchmarks, Table 4.1", "GPT for HyenaDNA, pretrained"): "-4.63",
        ("Nucleotide Transformer, Table A.6", "pretraining of HyenaDNA"): "+8.06",
        ("Nucleotide Transformer, Table A.6", "GPT for HyenaDNA, pretrained"): "-10.43",
        ("Species, Table A.11", "pretraining of HyenaDNA"): "+22.53",
        ("ENBED on GenomicBenchmarks, fine-tuning", "pretraining of ENBED"): "+12.09",
    }
    # What the paper says beside what its table says.
    assert "3.8 points" in table.note
    for number in ("(-3.75)", "-1.93.", "-5.58", "-3.75 from random weights"):
        assert number in table.note
    species = [row[3] for row in table.rows if row[0].startswith("Species") and not row[2].startswith("mean")]
    assert species == ["+7.20", "+22.70", "+32.20", "+28.00"]


def test_our_differences_are_of_means_and_of_seeds(tmp_path: Path) -> None:
    put(tmp_path / "scratch", 0.90, 0.92, 0.94, **SCRATCH)
    put(tmp_path / "two", 0.91, 0.95, **SCRATCH, ablation="bidirectional", seeds=(1, 2))
    put(tmp_path / "cnn", 0.85, **SCRATCH, ablation="cnn", seeds=(7,))
    rows = {row[1]: row[2:] for row in differences(find([tmp_path]).results).rows if row[4]}
    two_sided = rows.pop("both directions, from random weights")
    assert two_sided[:3] == ["nontata-promoters", "-4.80", "+1.00 (-1.00 to +1.00, runs of both: 2)"]
    assert two_sided[3].startswith("truly two-sided")
    assert rows == {"CNN for HyenaDNA, from random weights": ["nontata-promoters", "", "-7.00", ""]}


def test_our_mean_needs_every_dataset(tmp_path: Path) -> None:
    for length, scratch, pretrained in (("1k", 0.5, 0.6), ("32k", 0.6, 0.8), ("250k", 0.7, 0.8), ("450k", 0.7, 0.9)):
        put(tmp_path / length, pretrained, preset=f"species-{length}")
        put(tmp_path / f"{length}-scratch", scratch, preset=f"species-{length}", **SCRATCH)
    results = find([tmp_path]).results
    assert [row[2:5] for row in differences(results).rows if row[0].startswith("Species")] == [
        ["mean of 4", "+22.53", "+15.00"],
        *(
            [length, published, f"{ours} ({ours} to {ours}, runs of both: 1)"]
            for length, published, ours in (
                ("1k", "+7.20", "+10.00"), ("32k", "+22.70", "+20.00"), ("250k", "+32.20", "+10.00"),
                ("450k", "+28.00", "+20.00"),
            )
        ),
    ]  # fmt: skip
    assert next(row[4] for row in differences(results[1:]).rows if row[0].startswith("Species")) == ""


def test_demonstrations_compare_with_the_same_test_alone(tmp_path: Path) -> None:
    own = {**SCRATCH, "demonstration_split": True, "tested": 1807}
    put(tmp_path / "scratch", 0.84, **own)
    put(tmp_path / "kmer", 0.80, **own, ablation="kmer")
    put(tmp_path / "gpt", 0.70, **own, ablation="gpt", data="others.tsv")
    (row,) = differences_apart(find([tmp_path]).results).rows
    assert row == ["nontata-promoters", "6-mers, from random weights", "-4.00 (-4.00 to -4.00, runs of both: 1)", ""]


def test_a_difference_needs_a_metric_of_both(tmp_path: Path) -> None:
    own = {**SCRATCH, "demonstration_split": True}
    put(tmp_path / "scratch", 0.84, **own)
    put(tmp_path / "kmer", 0.80, **own, ablation="kmer", metric="mcc")
    (row,) = differences_apart(find([tmp_path]).results).rows
    assert row[2:] == ["", "the two have no metric in common"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seeds": (4,)}, "0.5000 (1 seed)"),
        ({"seeds": (0, 1)}, "0.6250 (0.5000 to 0.7500, 2 seeds)"),
        ({"fold_numbers": (1, 2)}, "0.6250 (0.5000 to 0.7500, 2 folds)"),
        ({"seeds": (0, 0, 1, 1), "fold_numbers": (1, 2, 1, 2)}, "0.6250 (0.5000 to 0.7500, 4 runs)"),
    ],
)
def test_mean_and_range_name_what_was_repeated(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    put(tmp_path / "run", 0.5, 0.75, 0.5, 0.75, **{"seeds": (0, 0)} | options, demonstration_split=True)
    (row,) = apart(find([tmp_path]).results).rows
    assert row[3] == text


def test_folds_are_compared_one_by_one(tmp_path: Path) -> None:
    own: dict[str, Any] = {"seeds": (0, 0), "fold_numbers": (1, 2), "folds": 2, **SCRATCH}
    put(tmp_path / "scratch", 0.8, 0.6, **own)
    put(tmp_path / "kmer", 0.9, 0.5, **own, ablation="kmer")
    (row,) = differences_apart(find([tmp_path]).results).rows
    assert row[2] == "+0.00 (-10.00 to +10.00, runs of both: 2)"
