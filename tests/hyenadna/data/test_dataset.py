from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.dataset import (
    Example,
    check_classes,
    class_names,
    detect_format,
    read_examples,
    split_tables,
    to_dataset,
)
from hyenadna.data.genome import Genome
from hyenadna.data.tables import is_missing


def read(data: Path, kind: str = "auto", **options: Any) -> dict[str, list[Example]]:
    defaults: dict[str, Any] = {
        "sequence_column": "seq",
        "label_columns": ["label"],
        "split_column": None,
        "genome": None,
        "length": None,
        "windows": 20,
        "seed": 0,
    }
    return read_examples(data, kind, **defaults | options)


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("seq\tlabel\tpart\tother\nACGT\tx\ttrain\t0.5\nGG\ty\ttest\t1\n")
    assert [(e.ids.tolist(), e.label) for e in read(path)[""]] == [([7, 8, 9, 10], "x"), ([9, 9], "y")]
    split = read(path, split_column="part")
    assert {name: len(part) for name, part in split.items()} == {"train": 1, "test": 1}
    path.write_text("seq\ta\tb\nACGT\t1\t0\n")
    assert read(path, label_columns=["a", "b"])[""][0].label == (1.0, 0.0)


def test_genomic_benchmarks_in_folders_by_sorted_class(tmp_path: Path) -> None:
    files = {"train__z__1_dot_txt": "AC\n", "train__a__1_dot_txt": "GGT", "test__a__9_dot_txt": "T"}
    write(tmp_path, **files)
    found = read(tmp_path)
    assert [(e.ids.tolist(), e.label) for e in found["train"]] == [([9, 9, 10], "a"), ([7, 8], "z")]
    assert class_names(found["train"], "classification") == ["a", "z"]
    assert len(found["test"]) == 1


def test_nucleotide_transformer(tmp_path: Path) -> None:
    write(tmp_path, train_dot_fna=">s|1\nACG\nT\n>s|0\nGG\n", test_dot_fna=">chr1:2-5|x|1\nA\n")
    found = read(tmp_path)
    assert [(e.ids.tolist(), e.label) for e in found["train"]] == [([7, 8, 9, 10], "1"), ([9, 9], "0")]
    assert found["test"][0].label == "1"
    write(tmp_path, test_dot_fna=">no label\nA\n")
    with pytest.raises(InputError, match=r"test\.fna: sequence 1: its header has no label"):
        read(tmp_path)


def test_deepsea_coordinates(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(f">chr1\n{'ACGT' * 50}\n>chrX\n{'GGCC' * 50}\n")
    header = "Chr_No,Start,End,y_a,y_b\n"
    write(tmp_path / "d", train_dot_csv=header + "0,10,20,1,0\n22,100,110,0,0\n", test_dot_csv=header + "0,0,4,0,1\n")
    found = read(tmp_path / "d", genome=tmp_path / "g.fa")
    first, second = found["train"]
    assert first.ids.tolist() == [9, 10, 7, 8, 9, 10, 7, 8, 9, 10]
    assert (first.label, second.label) == ((1.0, 0.0), (0.0, 0.0))
    assert set(second.ids.tolist()) == {8, 9}
    assert list(found) == ["train", "test"]
    wider = read(tmp_path / "d", genome=tmp_path / "g.fa", length=20)["train"][0]
    assert len(wider.ids) == 20
    assert wider.ids[5:15].tolist() == first.ids.tolist()
    with pytest.raises(InputError, match="need their `genome`"):
        read(tmp_path / "d")


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        (["0.25", "1", "-2e-3"], "0.25"),
        (["0.0", "1.0"], ""),
        (["1", "2"], ""),
        (["a", "0.5"], ""),
        (["nan", "0.5"], ""),
    ],
)
def test_values_are_no_classes(labels: list[str], refused: str) -> None:
    examples = [Example("", np.zeros(1, np.uint8), label) for label in labels]
    if not refused:
        assert class_names(examples, "classification") == sorted(labels)
        return
    with pytest.raises(InputError, match=f"numbers such as {refused} and not classes: choose `task` regression"):
        class_names(examples, "classification")


def test_species_by_chromosome(tmp_path: Path) -> None:
    bases = {"one": "ACGT", "two": "GGCT"}
    chromosomes = {"1": 40, "2": 60, "5": 50}
    for name, letters in bases.items():
        text = "".join(f">chr{c}\n{letters[int(c) % 4] * n}\n" for c, n in chromosomes.items())
        write(tmp_path, **{f"{name}__genome_dot_fa": text})
    found = read(tmp_path, length=16)
    assert {split: len(part) for split, part in found.items()} == {"train": 40, "valid": 4, "test": 4}
    for split, chromosome in (("train", 2), ("valid", 5), ("test", 1)):
        for example in found[split]:
            letter = bases[str(example.label)][chromosome % 4]
            assert example.ids.tolist() == 16 * ["ACGT".index(letter) + 7]
    # Chromosome 1 has 40 bases, and is the only one of the test.
    found = read(tmp_path, length=45)
    assert {split: {(example.padded, len(example.ids)) for example in part} for split, part in found.items()} == {
        "train": {(0, 45)}, "valid": {(0, 45)}, "test": {(5, 45)},
    }  # fmt: skip
    assert all(example.ids[40:].tolist() == 5 * [11] for example in found["test"])
    (tmp_path / "two" / "genome.fa").write_text(">chr2\nACGT\n>chr1\nACGT\n")
    with pytest.raises(InputError, match=r"two: no chromosome for valid; it takes those called 5, 7, 9, 10, 11, with"):
        read(tmp_path, length=4)
    (tmp_path / "two" / "genome.fa").write_text(">chr5\nACGT\n>chr1\nACGT\n")
    with pytest.raises(InputError, match=r"two: no chromosome for train; it takes all but 1, 3, 12, 13, 5, 7, 9, 10"):
        read(tmp_path, length=4)


def test_every_chromosome_of_species_is_in_its_split(tmp_path: Path) -> None:
    """A chromosome is a run of one word of two bases, so that a window tells where it is from."""
    words = [a + b for a in "ACGT" for b in "ACGT" if a <= b] + ["AACC", "AAGG", "CCTT", "ACGT"]
    numbers = [*map(str, range(1, 14)), "X"]
    for species in ("fly", "worm"):
        text = "".join(f">{'chr' if int(n.replace('X', '0')) % 2 else ''}{n}\n{words[i] * 30}\n"
                       for i, n in enumerate(numbers))  # fmt: skip
        write(tmp_path, **{f"{species}__genome_dot_fa": text})
    places = {}
    for split, part in read(tmp_path, length=12, windows=600).items():
        texts = {"".join("ACGT"[i - 7] for i in example.ids.tolist()) for example in part}
        places[split] = {number for text in texts for number, word in zip(numbers, words, strict=True)
                         if text in word * 8}  # fmt: skip
    assert places == {
        "train": {"2", "4", "6", "8", "X"},
        "valid": {"5", "7", "9", "10", "11"},
        "test": {"1", "3", "12", "13"},
    }


def test_windows_of_species_are_spread_evenly_over_the_bases(tmp_path: Path) -> None:
    """A chromosome with nine times as many places has nine times as many windows, and all places come up."""
    for species in ("fly", "worm"):
        text = f">chr2\n{'A' * 99}\n>chr4\n{'C' * 19}\n>chr1\n{'G' * 20}\n>chr5\n{'T' * 20}\n"
        write(tmp_path, **{f"{species}__genome_dot_fa": text})
    found = read(tmp_path, length=10, windows=1000)
    assert {split: len(part) for split, part in found.items()} == {"train": 2000, "valid": 200, "test": 200}
    long = sum(example.ids[0] == 7 for example in found["train"])
    assert 1740 < long < 1860
    (tmp_path / "fly" / "genome.fa").write_text(f">chr2\n{'AC' * 8}\n>chr1\n{'GT' * 8}\n>chr5\n{'CT' * 8}\n")
    starts = {tuple(example.ids.tolist()) for example in read(tmp_path, length=15)["train"] if example.label == "fly"}
    assert len(starts) == 2


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("seq\tlabel\nAC\t\nAC\t\n", {}, "row 1: column 'label' is empty there (and in 1 more rows)"),
        ("seq\tlabel\nAC\t1\n\t1\n", {}, "row 2: the sequence is empty"),
        ("seq\tlabel\nAC\t1\nNaN\t1\n", {}, "row 2: 'NaN' stands for a missing sequence; leave the row out"),
        ("seq\tlabel\nAXC\t1\n", {}, "row 1: 'X' at position 2 is not a nucleotide code"),
        ("seq\tlabel\nAC\t1\n", {"sequence_column": "dna"}, "has no column 'dna'; it has 'seq', 'label'"),
        ("seq\tlabel\nAC\t1\n", {"label_columns": []}, "name the `label_columns` of the table"),
        ("seq\tlabel\nAC\t1\n", {"split_column": "label"}, "row 1: column 'label' holds '1'; write train, valid, test"),
        ("seq\ta\tb\nAC\t1\tx\n", {"label_columns": ["a", "b"]}, "row 1: 'x' is not a number"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, content: str, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert message in str(caught.value)


def test_what_is_of_no_format_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has no known format: expected train/CLASS"):
        read(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match=r"holds no sequence: expected train/CLASS/\*\.txt"):
        read(tmp_path)


def test_what_file_managers_leave_is_no_sequence(tmp_path: Path) -> None:
    files = {"train/a/1.txt": "ACGT", "train/b/2.txt": "GGGG", "test/a/3.txt": "TTTT"}
    hidden = ("train/a/._1.txt", "train/a/.DS_Store", "train/._a/._1.txt", "train/__MACOSX/1.txt", "train/b/Thumbs.db")
    for name in (*files, *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(files.get(name, "\x00\x05\x16\x07Mac OS X"))
    found = read(tmp_path)
    assert {split: [e.label for e in part] for split, part in found.items()} == {"train": ["a", "b"], "test": ["a"]}
    (tmp_path / "test" / "b").mkdir()
    with pytest.raises(InputError, match=r"test/b: holds no \*\.txt; remove the folder if there is no such class"):
        read(tmp_path)


def example(label: Any, letters: int = 3) -> Example:
    return Example("row 1", np.full(letters, 7, dtype=np.uint8), label)


def test_classes_are_in_order_of_their_numbers() -> None:
    assert class_names([example(label) for label in ("10", "9", "-1")], "classification") == ["-1", "9", "10"]
    assert class_names([example("EIN")], "token") == ["E", "I", "N"]
    found = to_dataset([example("b"), example("a")], "classification", ["a", "b"], "train")
    assert np.asarray(found.labels).tolist() == [1, 0]
    tokens = to_dataset([example("EIN"), example("NN", 2)], "token", ["E", "I", "N"], "train")
    assert [row.tolist() for row in tokens.labels] == [[0, 1, 2], [2, 2]]
    values = to_dataset([example("0.5"), example("-1")], "regression", ["y"], "train")
    assert np.asarray(values.labels).tolist() == [[0.5], [-1.0]]


@pytest.mark.parametrize(
    ("examples", "task", "classes", "message"),
    [
        (
            [example("z"), example("z")],
            "classification",
            ["a", "b"],
            "hold the class 'z' (2 times), which the training examples do not",
        ),
        ([example("EEX")], "token", ["E", "I"], "hold the class 'X' (1 times)"),
        ([example("EE")], "token", ["E", "I"], "row 1: 2 token labels for a sequence of 3"),
        ([example("high")], "regression", ["y"], "row 1: 'high' is not a number"),
        ([example("nan")], "regression", ["y"], "row 1: 'nan' is not a number"),
        ([example((0.0, 0.5))], "multilabel", ["a", "b"], "row 1: outputs of several labels are 0 or 1"),
    ],
)
def test_labels_that_do_not_fit(examples: list[Example], task: str, classes: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        to_dataset(examples, task, classes, "test")
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["none", "Na", "#n/a", "-NaN", "1.#IND", " "])
def test_a_class_is_missing_by_the_rule_of_tables(word: str) -> None:
    assert is_missing(word)
    with pytest.raises(InputError, match="stands for a missing value"):
        check_classes([example("a"), example(word)])


def test_one_class_is_nothing_to_tell_apart() -> None:
    with pytest.raises(InputError, match="the training examples hold one class only, 'a'"):
        class_names([example("a"), example("a")], "classification")


def test_a_genome_that_is_prepared_serves_too(tiny_genome: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("Chr_No,Start,End,y_a\n0,10,20,1\n")
    with pytest.raises(InputError, match="unknown contig 'chr1'"):
        read(tmp_path / "c.csv", "deepsea", genome=tiny_genome)
    assert Genome.open(tiny_genome).names == ["a", "b", "c"]


def test_a_folder_with_a_table_for_each_split(tmp_path: Path) -> None:
    text = "label\tgroup\tseq\nx\tl\t{}\n"
    files = {"train_dot_tsv": "ACGT", "validation_dot_tsv": "GG", "test_dot_tsv": "T", "rest_dot_tsv": "A"}
    write(tmp_path, **{name: text.format(bases) for name, bases in files.items()}, report_dot_json="{}")
    assert detect_format(tmp_path) == "tables"
    found = read(tmp_path)
    assert {split: [(e.ids.tolist(), e.label) for e in part] for split, part in found.items()} == {
        "train": [([7, 8, 9, 10], "x")], "valid": [([9, 9], "x")], "test": [([10], "x")]
    }  # fmt: skip
    assert found["test"][0].where == f"{tmp_path / 'test.tsv'}: row 1"
    assert [path.name for path in split_tables(tmp_path)[1]] == ["rest.tsv"]
    # A table without rows is a split without examples, but for training.
    write(tmp_path, validation_dot_tsv="label\tgroup\tseq\n")
    assert read(tmp_path)["valid"] == []
    write(tmp_path, valid_dot_csv="seq,label\nA,x\n")
    with pytest.raises(InputError, match=r"holds valid\.csv and validation\.tsv, two valid tables; remove one"):
        read(tmp_path)


def test_tables_as_csv_and_parquet(tmp_path: Path) -> None:
    write(tmp_path, train_dot_csv="seq,label\nACGT,x\n")
    frame = {"seq": ["GG", "A"], "label": ["x", "y"], "other": [1, 2], "list": [[1], [2]]}
    polars.DataFrame(frame).write_parquet(tmp_path / "test.parquet")
    found = read(tmp_path)
    assert [(e.ids.tolist(), e.label) for e in found["test"]] == [([9, 9], "x"), ([7], "y")]
    assert len(found["train"]) == 1
    write(tmp_path, train_dot_csv="seq,kind\nA,x\n")
    with pytest.raises(InputError, match=r"test\.parquet: has no column 'kind'; it has 'seq', 'label', 'other'"):
        read(tmp_path, label_columns=["kind"])
    # Coordinates of DeepSEA may have this name as well.
    write(tmp_path / "sea", train_dot_csv="Chr_No,Start,End,y_a\n0,10,20,1\n")
    assert detect_format(tmp_path / "sea") == "deepsea"
