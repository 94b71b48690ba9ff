from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyenadna.cancer.shuffling import shuffled_labels
from hyenadna.cancer.study_data import Windows, counts, overlap_count, read_study
from hyenadna.common.errors import InputError
from tests.hyenadna.cancer.study_tables import LENGTH, make_rows, write_tables

Rows = dict[str, list[dict[str, str]]]


def test_lines_classes_and_places_are_read_in_the_order_of_the_tables(tmp_path: Path) -> None:
    rows = make_rows(("b", "c", "a"))
    data = read_study(write_tables(tmp_path, rows))
    assert data.classes == ["a", "b", "c"]
    assert data.length == LENGTH
    test = data.splits["test"]
    assert [data.classes[label] for label in test.labels] == [row["label"] for row in rows["test"]]
    assert [test.names[line] for line in test.lines] == [row["group"] for row in rows["test"]]
    assert [test.patients[line] for line in test.lines] == [row["patient"] for row in rows["test"]]
    assert test.starts is not None
    assert test.starts.tolist() == [int(row["start"]) for row in rows["test"]]
    assert test.references is not None
    assert "".join("ACGT"[i - 7] for i in test.references[5]) == rows["test"][5]["reference"]
    assert counts(data)["validation"] == {
        "lines": {"a": 2, "b": 2, "c": 2}, "sequences": {"a": 12, "b": 12, "c": 12}
    }  # fmt: skip


def change(split: str, name: str, value: str, row: int = 0) -> Callable[[Rows], None]:
    def apply(rows: Rows) -> None:
        rows[split][row][name] = value

    return apply


def clear(split: str, label: str = "") -> Callable[[Rows], None]:
    """Remove the rows of a class, or all."""

    def apply(rows: Rows) -> None:
        rows[split] = [row for row in rows[split] if label and row["label"] != label]

    return apply


def move(split: str, line: str, patient: str) -> Callable[[Rows], None]:
    """Give a line to another patient. One of its rows does not say so, and one of another line has none either."""

    def apply(rows: Rows) -> None:
        own = [row for row in rows[split] if row["group"] == line]
        for row in own:
            row["patient"] = patient
        own[-1]["patient"] = ""
        rows["train"][0]["patient"] = rows["test"][0]["patient"] = "NA"

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("test", "group", "L001"), "the line L001 is in the training and the test table (as are 0 more): split"),
        (change("validation", "patient", "P002", row=-1),
         "validation.tsv: the line L012 has two patients, 'P012' and 'P002'; a line has one"),
        (move("validation", "L012", "P002"),
         "the patient P002 is in the training and the validation table, by the lines L002 and L012"),
        (change("test", "label", "Lymphoid"), "test.tsv: the line L013 has two classes, 'Lymphoid' and 'Lung'"),
        (change("test", "label", "Skin"), "test.tsv: row 1: no training line has the class 'Skin'"),
        (change("test", "group", ""), "test.tsv: row 1: column 'group' is empty there (in 1 rows)"),
        (change("train", "start", "one"), "train.tsv: column 'start' holds a value that is no whole number"),
        (clear("validation"), "validation.tsv: the validation table has no rows; hold out training lines"),
        (clear("test", "Lung"), "test.tsv: holds no line of the class 'Lung'"),
        (clear("train", "Lung"), "the training examples hold one class only, 'Lymphoid'"),
    ],
)  # fmt: skip
def test_a_bad_split_is_refused(damage: Callable[[Rows], None], message: str, tmp_path: Path) -> None:
    rows = make_rows()
    damage(rows)
    with pytest.raises(InputError) as error:
        read_study(write_tables(tmp_path, rows))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path, make_rows())
    (tmp_path / "validation.tsv").unlink()
    with pytest.raises(InputError, match=r"holds no validation table validation\.tsv; hyenadna mutate writes one"):
        read_study(tmp_path)
    with pytest.raises(InputError, match="give a folder of hyenadna mutate"):
        read_study(tmp_path / "test.tsv")


def test_missing_columns_are_noted(tmp_path: Path) -> None:
    data = read_study(write_tables(tmp_path, make_rows(), ("sequence", "label", "group")))
    assert [note.split(" in ")[0] for note in data.notes] == [
        f"no column {name}" for name in ("patient", "contig", "start", "end", "n_mutations", "reference")
    ]
    assert data.overlaps == {}
    assert data.splits["test"].references is None


def windows(*places: tuple[str, int, int]) -> Windows:
    contigs, starts, ends = (np.array(column) for column in zip(*places, strict=True))
    labels = np.zeros(len(places), dtype=np.int64)
    return Windows([], None, labels, ["l"], labels, [""], contigs, starts, ends, None)


def test_windows_that_overlap_are_counted() -> None:
    known = windows(("a", 10, 20), ("a", 15, 18), ("b", 0, 5), ("a", 100, 110))
    assert overlap_count(windows(("a", 0, 10), ("a", 20, 30), ("a", 19, 30), ("a", 16, 17)), known) == 2
    assert overlap_count(windows(("b", 4, 9), ("b", 5, 9), ("c", 0, 99), ("a", 0, 200)), known) == 2
    rng = np.random.default_rng(0)
    drawn = [
        [(str(rng.integers(3)), start, start + int(rng.integers(1, 9))) for start in rng.integers(0, 300, 50).tolist()]
        for _ in range(2)
    ]
    slow = sum(any(c == d and s < f and t < e for d, t, f in drawn[1]) for c, s, e in drawn[0])
    assert 0 < slow < 50
    assert overlap_count(windows(*drawn[0]), windows(*drawn[1])) == slow


def test_the_overlap_of_the_splits_is_a_note(tmp_path: Path) -> None:
    rows = make_rows()
    for row in rows["test"]:
        row["contig"] = "chrII"
    data = read_study(write_tables(tmp_path, rows))
    assert data.overlaps["test in train"] == data.overlaps["test in valid"] == 0
    assert data.overlaps["valid in train"] > 0
    (note,) = data.notes
    assert note.startswith(
        f"position leak: {data.overlaps['valid in train']} of 24 validation windows and 0 of 36 test"
    )


@pytest.mark.parametrize("sizes", [(10, 10), (7, 7), (6, 12), (5, 4, 3)])
def test_shuffled_labels_say_nothing_about_the_true_ones(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    shares = np.array(sizes) / sum(sizes)
    drawn = [shuffled_labels(labels, np.random.default_rng(seed)) for seed in range(20)]
    for new in drawn:
        table = np.zeros((len(sizes),) * 2)
        np.add.at(table, (labels, new), 1)
        # Within a rounding, each class has the new labels in the same shares.
        assert np.abs(table - np.outer(sizes, shares)).max() < 1
    assert len({tuple(new) for new in drawn}) > 10
