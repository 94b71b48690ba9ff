from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.genome import Genome, prepare
from hyenadna.enbed.annotate_config import AnnotateConfig
from hyenadna.enbed.gtf import Examples, examples_of_gtf, examples_of_table

COMPLEMENT = str.maketrans("ACGT", "TGCA")
Build = Callable[..., Examples]


def line(contig: str, feature: str, start: int, end: int, strand: str, attributes: str) -> str:
    return f"{contig}\tmade\t{feature}\t{start}\t{end}\t.\t{strand}\t.\t{attributes}\n"


def gene(contig: str, start: int, end: int, strand: str, biotype: str) -> str:
    return line(contig, "gene", start, end, strand, f'gene_id "g{start}"; gene_biotype "{biotype}";')


ROWS = [
    gene("chr1", 1, 4, "+", "miRNA"),
    gene("1", 3, 8, "-", "lncRNA"),
    gene("chr1", 101, 160, "+", "protein_coding"),
    line("chr1", "CDS", 101, 130, "+", 'gene_id "g101"; gene_biotype "protein_coding";'),
    line("chr1", "CDS", 101, 130, "+", 'gene_id "g101"; transcript_id "second";'),
    gene("chr2", 11, 40, "-", "miRNA"),
    gene("chr3", 21, 60, ".", "lncRNA"),
]


@pytest.fixture(scope="module")
def letters() -> dict[str, str]:
    rng = np.random.default_rng(1)
    return {name: "".join(rng.choice([*"ACGT"], 300)) for name in ("chr1", "chr2", "chr3")}


@pytest.fixture(scope="module")
def genome(letters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Genome:
    folder = tmp_path_factory.mktemp("gtf")
    (folder / "a.fa").write_text("".join(f">{name}\n{text}\n" for name, text in letters.items()))
    return prepare(folder / "a.fa", folder / "genome", progress=False)


@pytest.fixture
def build(genome: Genome, tmp_path: Path) -> Build:
    def made(rows: list[str], **options: Any) -> Examples:
        path = tmp_path / "genes.gtf"
        path.write_text("#!made\n" + "".join(rows))
        held: dict[str, Any] = {"valid_contigs": ["2"], "test_contigs": ["chr3"]}
        return examples_of_gtf(AnnotateConfig(tmp_path / "out", gtf=path, **held | options), genome)

    return made


def test_positions_count_from_1_and_minus_is_reversed(build: Build, letters: dict[str, str]) -> None:
    found = build(ROWS)
    by_place = {(row.contig, row.start): row for row in found.rows}
    text = letters["chr1"]
    assert by_place["chr1", 1].sequence == text[:4]
    minus = by_place["chr1", 3]
    assert minus.sequence == text[2:8].translate(COMPLEMENT)[::-1]
    assert minus[1:] == ("lncRNA", "chr1", 3, 8, "-", "g3", "train")
    # The CDS stands in place of its gene, and once, although two transcripts have it.
    assert [row[1:4] for row in found.rows if row.start == 101] == [("CDS", "chr1", 101)]
    assert by_place["chr2", 11].split == "valid"
    assert by_place["chr2", 11].sequence == letters["chr2"][10:40].translate(COMPLEMENT)[::-1]
    assert by_place["chr3", 21].sequence == letters["chr3"][20:60]
    assert {row.target for row in build(ROWS, cds=False).rows} == {"miRNA", "lncRNA", "protein_coding"}


def test_long_rows_are_cut_to_their_middle_or_left_out(build: Build, letters: dict[str, str]) -> None:
    cut = build(ROWS, most=20)
    assert [row.sequence for row in cut.of("test")] == [letters["chr3"][30:50]]
    assert "3 rows cut to the 20 bases in their middle" in cut.notes
    with pytest.raises(InputError, match="the valid part has no example"):
        build(ROWS, most=20, long="skip")


def test_windows_have_one_length(build: Build, letters: dict[str, str]) -> None:
    found = build([*ROWS, gene("chr1", 200, 220, "+", "miRNA")], length=30)
    assert {len(row.sequence) for row in found.rows} == {30}
    assert [row.sequence for row in found.of("test")] == [letters["chr3"][25:55]]
    # Those around the first two genes begin before the contig.
    assert "2 windows beyond the end of a contig left out" in found.notes


def test_at_most_so_many_of_a_class(build: Build) -> None:
    more = [gene("chr1", start, start + 9, "+", "miRNA") for start in range(20, 90)]
    found = build([*ROWS, *more], per_class=5)
    assert Counter(row.target for row in found.of("train")) == {"miRNA": 5, "lncRNA": 1, "CDS": 1}
    assert found == build([*ROWS, *more], per_class=5)
    assert len(build([*ROWS, *more], per_class=0).of("train")) == 73


def test_a_sequence_is_in_one_part_alone(tmp_path: Path) -> None:
    rows = ["ACG\ta\ttrain", "CCC\tb\ttrain", "GGG\ta\ttrain", "acg\ta\tvalid", "CCC\tb\tvalid", "TTT\ta\tvalid",
            "CCC\tb\ttest", "AAA\tc\ttest", "TGA\tb\ttrain"]  # fmt: skip
    path = tmp_path / "table.tsv"
    path.write_text("\n".join(["sequence\ttarget\tsplit", *rows]) + "\n")
    found = examples_of_table(path, 512)
    parts = {name: [row.sequence for row in found.of(name)] for name in ("train", "valid", "test")}
    assert parts == {"train": ["GGG", "TGA"], "valid": ["ACG", "TTT"], "test": ["CCC", "AAA"]}
    assert found.notes[:2] == [
        "2 train examples left out, whose sequence is in valid or test too",
        "1 valid examples left out, whose sequence is in test too",
    ]
    assert "training has no example of c, which the test has" in found.notes
    assert "biotypes with fewer than 10 training examples: a 1, b 1" in found.notes


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["chr1\tmade\tgene\n"], {}, "genes.gtf:2: 3 columns where a GTF has 9"),
        ([gene("chr9", 1, 4, "+", "miRNA")], {}, "genes.gtf:2: unknown contig 'chr9'; the genome has 3"),
        ([gene("chr1", 0, 4, "+", "miRNA")], {}, "genes.gtf:2: 0-4 is not within contig 'chr1' of 300 bases"),
        ([gene("chr1", 290, 301, "+", "miRNA")], {}, "290-301 is not within contig 'chr1' of 300 bases"),
        ([gene("chr1", 1, 4, "*", "miRNA")], {}, "'\\*' in the seventh column is no strand"),
        (
            [line("chr1", "gene", 1, 4, "+", 'gene_id "g";')],
            {},
            "no attribute gene_biotype or gene_type; they have gene",
        ),
        (ROWS, {"attribute": "kind"}, "no attribute kind; they have gene_id, gene_biotype"),
        (ROWS, {"feature": "operon"}, "no rows of the feature operon; it has gene, CDS"),
        (ROWS, {"test_contigs": ["chr2"]}, "contig 'chr2' is both for validation and for test"),
        (ROWS, {"test_contigs": ["chr7"]}, "unknown contig 'chr7'"),
        (ROWS[:6], {}, "the test part has no example"),
        ([ROWS[0], *ROWS[5:]], {}, "all training examples have one biotype, miRNA"),
        ([], {}, "holds no row"),
    ],
)
def test_what_does_not_fit_is_refused(build: Build, rows: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(rows, **options)


@pytest.mark.slow
def test_biotypes_of_yeast(shared: Path, tmp_path: Path) -> None:
    """UCSC's GTF has no attribute of biotypes: the ends of its transcript ids tell them."""
    genome = prepare(shared / "data" / "sacCer3.fa.gz", tmp_path / "genome", progress=False)
    gtf = shared / "data" / "sacCer3.ensGene.gtf.gz"
    held: dict[str, Any] = {"valid_contigs": ["chrV", "chrXV"], "test_contigs": ["chrVII", "chrXVI"]}
    with pytest.raises(InputError, match="no attribute gene_biotype or gene_type"):
        examples_of_gtf(AnnotateConfig(tmp_path, gtf=gtf, **held), genome)
    options: dict[str, Any] = {"attribute": "transcript_id", "pattern": "_([A-Za-z]+)$", "per_class": 50}
    found = examples_of_gtf(AnnotateConfig(tmp_path, gtf=gtf, **held, **options), genome)
    assert {row.target for row in found.rows} == {"CDS", "tRNA", "snoRNA", "rRNA", "ncRNA", "snRNA"}
    # Positions and strands are right where start codons read ATG. Rows of one base or two are parts of a split codon.
    codons: dict[str, Any] = {"feature": "start_codon", "attribute": "gene_id", "cds": False, "per_class": 0}
    rows = examples_of_gtf(AnnotateConfig(tmp_path, gtf=gtf, **held, **codons), genome).of("test")
    texts = Counter(row.sequence for row in rows if len(row.sequence) == 3)
    assert texts.total() > 800
    assert texts["ATG"] > 0.98 * texts.total()
