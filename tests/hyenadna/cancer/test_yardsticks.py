from __future__ import annotations

from pathlib import Path

import numpy as np

from hyenadna.cancer.study_data import StudyData, read_study
from hyenadna.cancer.yardsticks import kmers, majority, mutation_count, position, yardsticks
from tests.hyenadna.cancer.study_tables import make_rows, write_tables

Rows = dict[str, list[dict[str, str]]]


def read(folder: Path, rows: Rows, *without: str) -> StudyData:
    columns = tuple(name for name in rows["test"][0] if name not in without)
    return read_study(write_tables(folder, rows, columns))


def right(logs: np.ndarray | None, data: StudyData) -> float:
    assert logs is not None
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, atol=1e-6)
    return float((logs.argmax(axis=1) == data.splits["test"].labels).mean())


def test_the_majority_is_that_of_training(tmp_path: Path) -> None:
    rows = make_rows()
    rows["train"] = rows["train"][6:]
    data = read(tmp_path, rows)
    found = majority(data)
    assert found.note == "always Lymphoid"
    assert right(found.logs, data) == 0.5
    # One score for all: no ranking.
    assert found.logs is not None
    assert (found.logs == found.logs[0]).all()


def test_the_number_of_mutations_alone(tmp_path: Path) -> None:
    rows = make_rows()
    data = read(tmp_path / "same", rows)
    assert right(mutation_count(data).logs, data) < 0.8
    for row in (row for part in rows.values() for row in part if row["label"] == "Lung"):
        row["n_mutations"] = "9"
    data = read(tmp_path / "other", rows)
    assert right(mutation_count(data).logs, data) == 1.0


def test_the_position_alone_in_bins_that_validation_chooses(tmp_path: Path) -> None:
    rows = make_rows()
    rng = np.random.default_rng(0)
    for row in (row for part in rows.values() for row in part):
        # Lung in even bins of 10,000 bases, and both classes on every contig.
        start = 20_000 * int(rng.integers(4)) + 10_000 * (row["label"] == "Lymphoid") + int(rng.integers(9_900))
        row |= {"contig": f"chr{rng.integers(2)}", "start": str(start), "end": str(start + 40)}
    data = read(tmp_path / "bins", rows)
    found = position(data)
    assert "bins of 10,000 bases" in found.note
    assert right(found.logs, data) > 0.9
    for row in rows["test"]:
        row["contig"] = "elsewhere"
    data = read(tmp_path / "elsewhere", rows)
    found = position(data)
    assert found.logs is not None
    np.testing.assert_allclose(np.exp(found.logs), 0.5)


def test_whole_contigs_alone(tmp_path: Path) -> None:
    rows = make_rows()
    for number, row in enumerate(row for part in rows.values() for row in part):
        row |= {"contig": f"chr{row['label']}", "start": str(50_000 * number), "end": str(50_000 * number + 40)}
    data = read(tmp_path, rows)
    assert right(position(data).logs, data) == 1.0


def test_words_of_mutated_and_of_unmutated_windows(tmp_path: Path) -> None:
    data = read(tmp_path, make_rows(lines=(8, 3, 6)))
    mutated, unmutated = (right(kmers(data, inputs).logs, data) for inputs in ("mutated", "unmutated"))
    assert mutated > 0.75
    assert unmutated < mutated - 0.15


def test_a_certain_regression_keeps_finite_log_odds(tmp_path: Path) -> None:
    """A probability would round to 0 here, and the mean log-odds of its line would be none."""
    rows = make_rows()
    for row in (row for part in rows.values() for row in part):
        row["n_mutations"] = "1" if row["label"] == "Lung" else "2"
    for row in rows["test"]:
        row["n_mutations"] = "0" if row["label"] == "Lung" else "3000000"
    data = read(tmp_path, rows)
    found = mutation_count(data)
    assert found.logs is not None
    assert np.isfinite(found.logs).all()
    assert found.logs.min() < -1000
    assert right(found.logs, data) == 1.0


def test_without_its_columns_a_yardstick_is_empty_and_says_why(tmp_path: Path) -> None:
    data = read(tmp_path, make_rows(), "n_mutations", "contig", "reference")
    found = {(each.name, each.inputs): each for each in yardsticks(data)}
    empty = {name: each.note for name, each in found.items() if each.logs is None}
    assert list(empty) == [("number of mutations", "none"), ("position", "none"), ("5-mers", "unmutated")]
    assert "n_mutations" in empty["number of mutations", "none"]
    assert "hyenadna mutate writes it" in empty["5-mers", "unmutated"]
    assert len(found) == 5
