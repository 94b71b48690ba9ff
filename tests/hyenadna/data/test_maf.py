from __future__ import annotations

from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.variant_files import open_variants
from hyenadna.data.variants import UNSCORED_ALLELE

COLUMNS = (
    "Hugo_Symbol",
    "NCBI_Build",
    "Chromosome",
    "Start_Position",
    "Strand",
    "Reference_Allele",
    "Tumor_Seq_Allele1",
    "Tumor_Seq_Allele2",
)


def write(path: Path, *rows: tuple[object, ...], columns: tuple[str, ...] = COLUMNS) -> Path:
    lines = ["#version 2.4", "#comment", "\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("position", "ref", "first", "second", "expected"),
    [
        (100, "A", "A", "C", (99, "A", "C", "")),
        # A deletion stands where it starts, an insertion behind its position.
        (100, "AC", "AC", "-", (99, "AC", "", "")),
        (100, "-", "-", "GT", (100, "", "GT", "")),
        (0, "-", "-", "GT", (0, "", "GT", "")),
        (100, "TG", "TG", "CA", (99, "TG", "CA", "")),
        # Both tumor alleles changed in the same way.
        (100, "A", "C", "C", (99, "A", "C", "")),
        (100, "A", "", "C", (99, "A", "C", "")),
        # The change in the first one.
        (100, "A", "C", "A", (99, "A", "C", "")),
        (100, "A", "-", "A", (99, "A", "", "")),
        (100, "A", "G", "C", (99, "A", "C", UNSCORED_ALLELE)),
        (100, "A", "A", "A", (99, "A", "A", "")),
    ],
)
def test_positions_and_empty_alleles(
    tmp_path: Path, position: int, ref: str, first: str, second: str, expected: tuple[int, str, str, str]
) -> None:
    path = write(tmp_path / "m.maf", ("X", "GRCh38", "1", position, "+", ref, first, second))
    (record,) = open_variants(path).read()
    assert (record.start, record.ref, *record.alts, record.remark) == expected
    assert record.row(0) == ("X", "GRCh38", "1", str(position), "+", ref, first, second)


def test_older_names_and_missing_columns(tmp_path: Path) -> None:
    columns = ("Chromosome", "Start_position", "Reference_Allele", "Tumor_Seq_Allele2")
    path = write(tmp_path / "m.maf", ("1", 5, "A", "C"), columns=columns)
    (record,) = open_variants(path).read()
    assert (record.contig, record.start, record.where) == ("1", 4, f"{path}:4")
    path = write(tmp_path / "m.maf", ("1", "", "A", "C"), columns=columns)
    with pytest.raises(InputError, match=r"m\.maf:4: Start_position '' is not a number"):
        list(open_variants(path).read())


def test_the_reverse_strand_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.maf", ("X", "GRCh38", "1", 5, "-", "A", "A", "C"))
    with pytest.raises(InputError, match=r"m\.maf:4: Strand is '-': positions and alleles of a MAF are those of \+"):
        list(open_variants(path).read())


def test_a_published_file(shared: Path) -> None:
    file = open_variants(shared / "data" / "vcf2maf_test.maf")
    records = list(file.read())
    assert file.kind == "MAF"
    assert len(records) == len((shared / "data" / "vcf2maf_test.maf").read_text().splitlines()) - 2
    # MTOR: A>-; INHA: an insertion of CT behind 220439700; CHD1L: G>A.
    by_gene = {record.fields[0]: record for record in reversed(records)}
    assert (by_gene["MTOR"].start, by_gene["MTOR"].ref, by_gene["MTOR"].alts) == (11290178, "A", ("",))
    assert (by_gene["INHA"].start, by_gene["INHA"].ref, by_gene["INHA"].alts) == (220439700, "", ("CT",))
    assert (by_gene["CHD1L"].start, by_gene["CHD1L"].ref, by_gene["CHD1L"].alts) == (146728216, "G", ("A",))
