from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.contig_names import find, read_aliases
from hyenadna.data.genome import Genome, open_genome, prepare

REPORT = """\
# Assembly name:  R64
# Sequence-Name\tSequence-Role\tAssigned-Molecule\tAssigned-Molecule-Location/Type\tGenBank-Accn\tRelationship\t\
RefSeq-Accn\tAssembly-Unit\tSequence-Length\tUCSC-style-name
I\tassembled-molecule\tI\tChromosome\tBK006935.2\t=\tNC_001133.9\tPrimary Assembly\t8\tchrI
II_random\tunlocalized-scaffold\tI\tChromosome\tBK006936.2\t=\tNC_001134.8\tPrimary Assembly\t6\tna
MT\tassembled-molecule\tMT\tMitochondrion\tna\t<>\tNC_001224.1\tnon-nuclear\t4\tchrM
"""
UCSC = """\
# ucsc\tassembly\tgenbank\trefseq
chrI\tI\tBK006935.2\tNC_001133.9
chrII_random\tII_random\tBK006936.2\tNC_001134.8
chrM\tMT\t\tNC_001224.1
"""
# The same names as lines of one alias each, with the sources of all aliases in the third column.
OLD_UCSC = "BK006935.2\tchrI\tgenbank\nNC_001133.9\tchrI\trefseq\nNC_001134.8\tchrII_random\trefseq\n"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "g.fa"
    path.write_text(">chrI\nACGTACGT\n>chrII_random\nACGTAC\n>chrM\nACGT\n")
    return path


@pytest.mark.parametrize(
    ("held", "asked", "found"),
    [
        (["1", "2"], "chr1", "1"),
        (["chr1", "chr2"], "1", "chr1"),
        (["1", "chr1"], "1", "1"),
        (["1", "chr1"], "chr1", "chr1"),
        (["chrM"], "MT", "chrM"),
        (["chrM"], "M", "chrM"),
        (["chrM"], "chrMT", "chrM"),
        (["MT"], "chrM", "MT"),
        (["M", "MT"], "chrM", "M"),
        (["MT", "chrMT"], "chrM", None),
        (["chrX"], "chrY", None),
        (["chrI"], "1", None),
        (["chr10"], "1", None),
    ],
)
def test_find(held: list[str], asked: str, found: str | None) -> None:
    assert find(asked, dict.fromkeys(held), {}) == found


def test_an_alias_file_comes_before_a_guess() -> None:
    aliases = {"MT": "rCRS", "NC_1": "1"}
    assert find("MT", dict.fromkeys(["chrM", "rCRS"]), aliases) == "rCRS"
    assert find("chrMT", dict.fromkeys(["chrM", "rCRS"]), aliases) == "rCRS"
    assert find("chrM", dict.fromkeys(["chrM", "rCRS"]), aliases) == "chrM"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (REPORT, {"I": "chrI", "II_random": "chrII_random", "NC_001134.8": "chrII_random", "NC_001224.1": "chrM"}),
        (UCSC, {"I": "chrI", "BK006936.2": "chrII_random", "NC_001133.9": "chrI", "NC_001224.1": "chrM"}),
        (OLD_UCSC, {"BK006935.2": "chrI", "NC_001133.9": "chrI", "NC_001134.8": "chrII_random"}),
    ],
    ids=["report", "ucsc", "one-a-line"],
)
def test_names_of_an_alias_file(fasta: Path, tmp_path: Path, text: str, names: dict[str, str]) -> None:
    (tmp_path / "names.txt.gz").write_bytes(gzip.compress(text.encode()))
    with open_genome(fasta, tmp_path / "names.txt.gz", progress=False) as genome:
        assert {name: genome.resolve(name) for name in names} == names
        # Columns that are no names of one sequence.
        assert [genome.resolve(name) for name in ("refseq", "na", "Primary Assembly", "=")] == [None] * 4


def test_names_that_are_kept_with_a_genome(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(REPORT)
    made = prepare(fasta, tmp_path / "g", aliases=tmp_path / "names.txt", progress=False)
    for genome in (made, Genome.open(tmp_path / "g")):
        assert genome.contig("NC_001133.9").name == "chrI"
        assert genome.tokens("NC_001224.1").tolist() == genome.tokens("chrM").tolist()
    (tmp_path / "more.txt").write_text("chrI\tone\n")
    both = Genome.open(tmp_path / "g", tmp_path / "more.txt")
    assert [both.resolve(name) for name in ("one", "NC_001133.9")] == ["chrI", "chrI"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I II III\n", "is no file of aliases"),
        ("", "is no file of aliases"),
        ("NC_1\tA\nNC_2\tB\n", r"none of its contigs \(NC_1, NC_2\) is in the genome, which has chrI, chrII_random"),
        (REPORT.replace("\t8\t", "\t9\t"), ":3: chrI has 9 bases there and 8 in the genome"),
    ],
)
def test_bad_alias_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_aliases(tmp_path / "names.txt", {"chrI": 8, "chrII_random": 6, "chrM": 4})


def test_a_name_of_two_contigs_is_none(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("chrI\tX\nchrM\tX\n")
    assert read_aliases(tmp_path / "names.txt", {"chrI": 8, "chrM": 4}) == {}


def test_a_file_without_any_contig_of_the_genome(fasta: Path, tmp_path: Path) -> None:
    genome = prepare(fasta, tmp_path / "g", progress=False)
    genome.check_any(["x", "I"], "file")
    with pytest.raises(
        InputError, match=r"file: none of its contigs \(x, y\) is in the genome, which has chrI, chrII_"
    ):
        genome.check_any(["x", "x", "y"], "file")
