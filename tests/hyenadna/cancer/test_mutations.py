"""Every spelling of a file of mutations gives the same mutations."""

from __future__ import annotations

import gzip
import importlib
import os
from pathlib import Path

import polars
import pytest

from hyenadna.cancer.checks import check
from hyenadna.cancer.mutations import NO_LINE, NOT_CARRIED, NOT_DEFAULT, Mutations, read_mutations
from hyenadna.common.errors import InputError
from hyenadna.data.genome import prepare

SHARED = Path(os.environ.get("HYENA_SHARED", "../shared"))
ROWS = [("L1", "chr7", 1000010, "G", "GTTT"), ("L2", "chr7", 12, "GCT", "G"), ("L1", "chrX", 5, "AC", "TG")]
OLD = """Chrom,Pos,Ref,Alt,AF,VariantType,HugoSymbol,DepMap_ID
chr7,1000010,G,GTTT,0.43,INS,"MADE,UP",L1
chr7,12,gct,g,0.5,DEL,,L2
chrX,5,AC,TG,0.5,DNP,X,L1
"""
NEW = """,Chrom,Pos,Ref,Alt,VariantType,VariantInfo,SequencingID,ModelID,IsDefaultEntryForModel,IsDefaultEntryForMC
0,chr7,1000010,G,GTTT,insertion,inframe_insertion,S1,L1,Yes,Yes
1,chr7,1000010,G,GTTT,insertion,inframe_insertion,S2,L1,No,Yes
2,chr7,12,GCT,G,deletion,,S3,L2,Yes,Yes
3,chrX,5,AC,TG,substitution,,S4,L1,Yes,Yes
"""
MAF = """#version 2.4
Hugo_Symbol\tChromosome\tStart_Position\tStrand\tVariant_Type\tReference_Allele\tTumor_Seq_Allele1\tTumor_Seq_Allele2\tTumor_Sample_Barcode
A\t7\t13\t+\tDEL\tCT\tCT\t-\tL2
B\t7\t12\t+\tINS\t-\t-\tTTT\tL1
C\t7\t3\t+\tSNP\tG\tA\tG\tL1
"""
VCF = """##fileformat=VCFv4.2
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS1\tS2\tS3
c\t10\t.\tg\tT,GA\t.\tLowQual\t.\tDP:GT\t9:0/1\t9:2|1\t9
c\t20\t.\tA\tC\t.\t.\t.\tGT\t./.\t0/0\t1
c\t30\t.\tA\tC\t.\t.\t.\tDP\t1\t2\t3
"""


def rows(found: Mutations) -> list[tuple[object, ...]]:
    assert found.frame.schema == {
        "line": polars.String, "contig": polars.String, "pos": polars.Int64, "ref": polars.String, "alt": polars.String,
    }  # fmt: skip
    return list(found.frame.select("line", "contig", "pos", "ref", "alt").iter_rows())


def read(folder: Path, text: str | bytes, name: str = "m.csv", **options: str) -> Mutations:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_mutations(path, **options)


def test_both_generations_of_depmap(tmp_path: Path) -> None:
    old, new = read(tmp_path, OLD), read(tmp_path, NEW)
    assert rows(old) == rows(new) == ROWS
    assert (old.rows, old.skipped, old.is_bare) == (3, {}, False)
    assert (new.rows, new.skipped, new.is_bare) == (4, {NOT_DEFAULT: 1}, False)


@pytest.mark.parametrize("kind", ["gzip", "mark", "windows", "tabs", "parquet", "both names"])
def test_however_it_is_stored(tmp_path: Path, kind: str) -> None:
    name, data = "m.csv", OLD.encode()
    if kind == "gzip":
        name, data = "m.csv.gz", gzip.compress(data)
    elif kind == "mark":
        data = b"\xef\xbb\xbf" + data
    elif kind == "windows":
        data = data.replace(b"\n", b"\r\n")
    elif kind == "tabs":
        name, data = "m.txt", data.replace(b'"MADE,UP"', b"X").replace(b",", b"\t")
    elif kind == "both names":
        data = data.replace(b"DepMap_ID", b"ModelID,DepMap_ID").replace(b"L1\n", b"L1,Z\n").replace(b"L2\n", b"L2,Z\n")
    if kind == "parquet":
        polars.read_csv(data).write_parquet(tmp_path / "p")
        name, data = "m", (tmp_path / "p").read_bytes()
    assert rows(read(tmp_path, data, name)) == ROWS


def test_maf(tmp_path: Path) -> None:
    found = read(tmp_path, MAF, "m.maf")
    assert found.is_bare
    assert rows(found) == [("L2", "7", 13, "CT", ""), ("L1", "7", 12, "", "TTT"), ("L1", "7", 3, "G", "A")]
    assert found.other_kind == 0
    # Those of DepMap before 2022 are separated by commas, and some call the new allele Tumor_Seq_Allele1.
    older = MAF.replace("\t", ",").replace("Tumor_Seq_Allele1,Tumor_Seq_Allele2", "x,Tumor_Seq_Allele1")
    older = older.replace("Start_Position", "Start_position").replace("Tumor_Sample_Barcode", "DepMap_ID")
    assert rows(read(tmp_path, older)) == [*rows(found)[:2], ("L1", "7", 3, "G", "G")]


def test_a_quotation_mark_in_a_note_loses_no_row(tmp_path: Path) -> None:
    """In a tab-separated table it is a letter like any other. A comma-separated one would lose the rows up to the next.

    Blank lines are no rows either.
    """
    known = rows(read(tmp_path, MAF, "m.maf"))
    assert rows(read(tmp_path, MAF.replace("A\t7", '"5 prime\t7').replace("C\t7", 'C"\t7') + "\n\n", "m.maf")) == known
    version, *lines = MAF.splitlines()
    quoted = ["\t".join(f'"{word}"' for word in line.split("\t")) for line in lines]
    assert rows(read(tmp_path, "\r\n".join([version, *quoted, ""]), "m.maf")) == known
    with pytest.raises(InputError, match="line 3 holds a quotation mark without its partner"):
        read(tmp_path, OLD.replace("0.5,DEL", '"0.5,DEL').replace("DNP", 'DNP"'))


def test_maf_and_anchored_rows_are_the_same_mutations(tmp_path: Path) -> None:
    (tmp_path / "r.fa").write_text(">chr7\nACGGTTCAAGCGCTAGGCATCC\n")
    maf = MAF.replace("7\t3\t+\tSNP\tG\tA\tG", "7\t1\t+\tDEL\tAC\tAC\t-")
    anchored = OLD.splitlines()[0] + "\nchr7,12,GCT,G,,,,L2\nchr7,12,G,GTTT,,,,L1\n7,1,ACG,G,,,,L1\n"
    with prepare(tmp_path / "r.fa", tmp_path / "r", progress=False) as genome:
        one, two = (
            check(Path("m"), read(tmp_path, text, "m"), genome, progress=False).frame for text in (maf, anchored)
        )
    assert one.equals(two)
    assert one.height == 3


@pytest.mark.skipif(not (SHARED / "data/vcf2maf_test.maf").is_file(), reason="no ../shared/data/vcf2maf_test.maf")
def test_a_real_maf() -> None:
    found = read_mutations(SHARED / "data/vcf2maf_test.maf")
    assert (found.rows, found.frame.height, found.is_bare, found.other_kind) == (20, 20, True, 0)
    assert found.frame["line"].unique().to_list() == ["TUMOR"]
    assert found.frame.filter(polars.col("ref") == "").height == 3
    assert found.frame.filter(polars.col("alt") == "").height == 6
    assert found.frame.row(8) == ("TUMOR", "3", 178936091, "G", "A")


def test_vcf(tmp_path: Path) -> None:
    """The numbers of the alleles in a genotype decide; a record without genotypes is of every sample."""
    found = read(tmp_path, VCF, "m.vcf")
    assert rows(found) == [
        ("S1", "c", 10, "G", "T"), ("S2", "c", 10, "G", "T"), ("S2", "c", 10, "G", "GA"), ("S3", "c", 20, "A", "C"),
        *((f"S{number}", "c", 30, "A", "C") for number in (1, 2, 3)),
    ]  # fmt: skip
    assert (found.rows, found.skipped) == (12, {NOT_CARRIED: 5})
    sites = "\n".join("\t".join(line.split("\t")[:8]) for line in VCF.splitlines()) + "\n"
    assert rows(read(tmp_path, sites, "m.vcf", vcf_line="ACH-1")) == [
        ("ACH-1", "c", 10, "G", "T"), ("ACH-1", "c", 10, "G", "GA"), ("ACH-1", "c", 20, "A", "C"),
        ("ACH-1", "c", 30, "A", "C"),
    ]  # fmt: skip
    alone = "\n".join("\t".join(line.split("\t")[:10]) for line in VCF.splitlines()) + "\n"
    assert [row[0] for row in rows(read(tmp_path, alone, "m.vcf", vcf_line="ACH-1"))] == ["ACH-1", "ACH-1"]


@pytest.mark.skipif(importlib.util.find_spec("pysam") is None, reason="pysam is not installed")
def test_bcf(tmp_path: Path) -> None:
    pysam = importlib.import_module("pysam")
    header = "".join(
        f'##FORMAT=<ID={name},Number=1,Type={form},Description="">\n'
        for name, form in (("GT", "String"), ("DP", "Integer"))
    )
    header += '##contig=<ID=c>\n##FILTER=<ID=LowQual,Description="">\n'
    (tmp_path / "m.vcf").write_text(VCF.replace("#CHROM", f"{header}#CHROM"))
    with (
        pysam.VariantFile(str(tmp_path / "m.vcf")) as text,
        pysam.VariantFile(str(tmp_path / "m.bcf"), "wb", header=text.header) as binary,
    ):
        for record in text:
            binary.write(record)
    assert rows(read_mutations(tmp_path / "m.bcf")) == rows(read_mutations(tmp_path / "m.vcf"))


def test_counts(tmp_path: Path) -> None:
    """Rows without a line are counted, and those whose alleles do not have the lengths of their type."""
    text = OLD + "chr7,12,GCT,G,,SNP,,L2\nchr7,12,GCT,TA,,indel,,L2\nchr7,12,A,G,,strange,,L2\nchr7,12,A,G,,INS,,\n"
    found = read(tmp_path, text)
    assert (found.rows, found.frame.height, found.skipped, found.other_kind) == (7, 6, {NO_LINE: 1}, 1)


SITES = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\nc\t1\t.\tA\tC\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Chrom,Pos,Ref\nc,1,A\n", {}, "is no table of mutations: it needs the columns Chrom, Pos, Ref and Alt"),
        ("Chrom,Pos,Ref,Alt\nc,1,A,C\n", {}, "no column names the line of a mutation, which is ModelID, DepMap_ID or"),
        (OLD.replace("5,AC", "1e5,AC"), {}, "row 3: Pos '1e5' is not a whole number"),
        (MAF.replace("12\t+", "12\t-"), {}, "row 2: Strand is not +"),
        (NEW.replace("Yes", "No"), {}, "holds no mutation of a line; 4 rows: not of the line's default sequencing"),
        (OLD.splitlines()[0] + "\n", {}, "holds no mutation of a line"),
        (OLD + 'chr7,"1,2\n', {}, "line 5 holds a quotation mark without its partner"),
        (OLD.replace("HugoSymbol", "Alt"), {}, "several columns are called 'Alt'; rename them"),
        ("", {}, "cannot be read as a table of mutations (empty CSV)"),
        (b"PK\x03\x04...", {}, "is a zip archive"),
        (OLD, {"vcf_line": "x"}, "`vcf_line` x: has no effect, because "),
        (VCF, {"vcf_line": "x"}, "has 3 samples, which are the lines; leave it out"),
        (SITES, {}, "has no samples; name the line that its mutations are of with `vcf_line`"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
