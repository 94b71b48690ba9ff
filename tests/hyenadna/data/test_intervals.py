from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.genome import Genome, prepare
from hyenadna.data.intervals import Interval, read_bed, split_bed, split_contigs, split_fraction

LENGTHS = {"chr1": 100, "chr2": 57, "chr3": 3}


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    folder = tmp_path_factory.mktemp("genome")
    fasta = folder / "g.fa"
    fasta.write_text("".join(f">{name}\n{'A' * length}\n" for name, length in LENGTHS.items()))
    return prepare(fasta, folder / "g", progress=False)


def bed(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "x.bed"
    path.write_text(content, encoding="utf-8")
    return path


def test_read_bed(tmp_path: Path, genome: Genome) -> None:
    content = "# made by hand\nbrowser position chr1\ntrack name=x\nchr1\t0\t100\n\nchr2 5 6 name 0 +\r\n"
    assert read_bed(bed(tmp_path, content), genome) == [Interval("chr1", 0, 100), Interval("chr2", 5, 6)]


def test_read_bed_with_splits(tmp_path: Path, genome: Genome) -> None:
    content = "chr1\t0\t50\ttrain\nchr1\t50\t100\tvalid\nchr2\t0\t57\ttest\nchr3\t0\t3\ttrain\n"
    path = tmp_path / "x.bed.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert split_bed(read_bed(path, genome)) == {
        "train": [Interval("chr1", 0, 50, "train"), Interval("chr3", 0, 3, "train")],
        "valid": [Interval("chr1", 50, 100, "valid")],
        "test": [Interval("chr2", 0, 57, "test")],
    }


BAD_LINES = {
    "unknown-contig": ("chrX\t0\t1", r"unknown contig 'chrX'; the genome has 3: chr1, chr2, chr3"),
    "beyond-end": ("chr2\t0\t58", r"end 58 is beyond the end of contig 'chr2' \(57\)"),
    "empty": ("chr2\t5\t5", "start 5 is not below end 5"),
    "descending": ("chr2\t6\t5", "start 6 is not below end 5"),
    "negative": ("chr2\t-1\t5", "start -1 is negative"),
    "word": ("chr2\tstart\tend", "'start' is not an integer"),
    "float": ("chr2\t1\t2.0", r"'2\.0' is not an integer"),
    "underscore": ("chr2\t1\t1_0", "'1_0' is not an integer"),
    "superscript": ("chr2\t1\t²", "'²' is not an integer"),
    "two-columns": ("chr2\t1", "2 columns where a BED has at least 3"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line(tmp_path: Path, genome: Genome, line: str, message: str) -> None:
    path = bed(tmp_path, f"# comment\nchr1\t0\t9\n{line}\n")
    with pytest.raises(InputError, match=f"x\\.bed:3: {message}") as caught:
        read_bed(path, genome)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["vaild", ""])
def test_split_must_be_in_every_line(tmp_path: Path, genome: Genome, column: str) -> None:
    path = bed(tmp_path, f"chr1\t0\t9\t{column}\nchr2\t0\t9\ttrain\n")
    with pytest.raises(InputError, match=r"x\.bed:1: .* in the split column; write train, valid or test"):
        read_bed(path, genome)


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n"])
def test_no_interval(tmp_path: Path, genome: Genome, content: str) -> None:
    with pytest.raises(InputError, match="holds no interval"):
        read_bed(bed(tmp_path, content), genome)


def test_missing_and_truncated_bed(tmp_path: Path, genome: Genome) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_bed(tmp_path / "none.bed", genome)
    path = tmp_path / "cut.bed.gz"
    path.write_bytes(gzip.compress(b"chr1\t0\t9\n" * 9)[:-9])
    with pytest.raises(InputError, match="truncated gzip file"):
        read_bed(path, genome)


def test_split_bed_needs_the_column_and_training_lines() -> None:
    with pytest.raises(InputError, match="no split column"):
        split_bed([Interval("chr1", 0, 9)])
    with pytest.raises(InputError, match="nothing is left for training"):
        split_bed([Interval("chr1", 0, 9, "test")])


OVERLAPS = {
    "one position": ([("chr1", 0, 50, "train"), ("chr1", 49, 60, "valid")], "chr1:0-50 (train)", "chr1:49-60 (valid)"),
    "unsorted": ([("chr1", 9, 20, "train"), ("chr1", 0, 10, "test")], "chr1:9-20 (train)", "chr1:0-10 (test)"),
    "not for training": (
        [("chr2", 0, 9, "train"), ("chr1", 0, 9, "test"), ("chr1", 0, 9, "valid")],
        "chr1:0-9 (valid)",
        "chr1:0-9 (test)",
    ),
    "behind a longer one": (
        [("chr1", 0, 90, "train"), ("chr1", 5, 7, "train"), ("chr1", 80, 85, "valid")],
        "chr1:0-90 (train)",
        "chr1:80-85 (valid)",
    ),
}


@pytest.mark.parametrize(("rows", "first", "second"), OVERLAPS.values(), ids=OVERLAPS)
def test_splits_that_overlap_are_refused(rows: list[tuple[str, int, int, str]], first: str, second: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"intervals {first} and {second} of the BED overlap")):
        split_bed([Interval(*row) for row in rows])


def test_neighbours_and_overlaps_within_a_split_are_fine() -> None:
    rows = [("chr1", 0, 50, "train"), ("chr1", 40, 60, "train"), ("chr1", 60, 70, "valid"), ("chr2", 0, 70, "test")]
    assert sum(map(len, split_bed([Interval(*row) for row in rows]).values())) == 4


def test_split_contigs(genome: Genome) -> None:
    assert split_contigs(genome, valid=["chr3"], test=["chr1"]) == {
        "train": [Interval("chr2", 0, 57, "train")],
        "valid": [Interval("chr3", 0, 3, "valid")],
        "test": [Interval("chr1", 0, 100, "test")],
    }
    assert [i.contig for i in split_contigs(genome)["train"]] == list(LENGTHS)
    assert split_contigs(genome, valid=["3"], test=["1"]) == split_contigs(genome, valid=["chr3"], test=["chr1"])


@pytest.mark.parametrize(
    ("valid", "test", "message"),
    [
        (["chr9"], [], "unknown contig 'chr9'; the genome has 3"),
        (["chr1"], ["1"], "contig 'chr1' is both for validation and for test"),
        (["chr1"], ["chr1"], "contig 'chr1' is both for validation and for test"),
        (["chr1", "chr2"], ["chr3"], "nothing is left for training: every contig is held out"),
    ],
)
def test_bad_contig_split(genome: Genome, valid: list[str], test: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_contigs(genome, valid, test)


def test_split_fraction_covers_every_position_once(genome: Genome) -> None:
    split = split_fraction(genome, valid=0.1, test=0.2)
    assert split == {
        "train": [Interval("chr1", 0, 70, "train"), Interval("chr2", 0, 41, "train"), Interval("chr3", 0, 3, "train")],
        "valid": [Interval("chr1", 70, 80, "valid"), Interval("chr2", 41, 46, "valid")],
        "test": [Interval("chr1", 80, 100, "test"), Interval("chr2", 46, 57, "test")],
    }
    assert split_fraction(genome, 0, 0)["train"] == split_contigs(genome)["train"]


@pytest.mark.parametrize(
    ("valid", "test", "message"),
    [
        (-0.1, 0.1, "must be >= 0 and sum to less than 1"),
        (0.5, 0.5, "must be >= 0 and sum to less than 1"),
        (float("nan"), 0, "must be >= 0 and sum to less than 1"),
        (0.1, 0.001, "the test fraction 0.001 is less than one position"),
    ],
)
def test_bad_fraction(genome: Genome, valid: float, test: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_fraction(genome, valid, test)


def test_names_and_strands_make_no_other_splits() -> None:
    """A run knows its splits again by their text, which checkpoints hold."""
    one, other = Interval("a", 0, 9, "valid"), Interval("a", 0, 9, "valid", "gene", "-")
    assert one == other
    assert repr(one) == repr(other) == "Interval(contig='a', start=0, end=9, split='valid')"


def test_a_last_line_without_an_end_has_its_number(tmp_path: Path, genome: Genome) -> None:
    with pytest.raises(InputError, match=r"x\.bed:2: "):
        read_bed(bed(tmp_path, "chr1\t0\t5\nchr1\t9\t5"), genome)
