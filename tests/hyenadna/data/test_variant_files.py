from __future__ import annotations

import gzip
import os
import sys
import threading
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.streams import copied_streams
from hyenadna.data.variant_files import VariantFile, open_variants

VCF = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t5\trs1\tA\tC,<DEL>\t.\tPASS\tX=1\n"
MAF = "#version 2.4\nHugo_Symbol\tChromosome\tStart_Position\tReference_Allele\tTumor_Seq_Allele2\nTP53\t1\t5\tA\tC\n"


def contents(file: VariantFile) -> list[tuple[str, int, str, tuple[str, ...]]]:
    return [(record.contig, record.start, record.ref, record.alts) for record in file.read()]


@pytest.mark.parametrize("kind", ["plain", "gzip", "CRLF", "byte-order mark", "Macintosh"])
def test_a_vcf_is_known_by_its_header(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "any.name"
    data = VCF.encode()
    path.write_bytes(
        {
            "plain": data,
            "gzip": gzip.compress(data),
            "CRLF": data.replace(b"\n", b"\r\n"),
            "byte-order mark": b"\xef\xbb\xbf" + data,
            "Macintosh": data.replace(b"\n", b"\r"),
        }[kind]
    )
    file = open_variants(path)
    assert file.kind == "VCF"
    assert file.header == ("##fileformat=VCFv4.2",)
    assert file.columns == ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
    # It can be read again.
    for _ in range(2):
        assert contents(file) == [("chr1", 4, "A", ("C", "<DEL>"))]
    (record,) = file.read()
    assert record.fields == ("chr1", "5", "rs1", "A", "C,<DEL>", ".", "PASS", "X=1")
    assert record.row(1) == ("chr1", "5", "rs1", "A", "<DEL>", ".", "PASS", "X=1")


def test_a_maf_is_known_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_text(MAF)
    file = open_variants(path)
    assert file.kind == "MAF"
    assert file.columns[0] == "Hugo_Symbol"
    assert contents(file) == [("1", 4, "A", ("C",))]


def test_a_bcf_holds_the_records_of_its_vcf(tmp_path: Path) -> None:
    bcftools = pytest.importorskip("pysam.bcftools")
    info = '##INFO=<ID=X,Number=1,Type=Integer,Description="">'
    header = f'##contig=<ID=chr1>\n##FILTER=<ID=PASS,Description="">\n{info}\n#CHROM'
    (tmp_path / "v.vcf").write_text(VCF.replace("#CHROM", header))
    path = tmp_path / "v.bcf"
    bcftools.view("-Ob", "-o", str(path), str(tmp_path / "v.vcf"), catch_stdout=False)
    file = open_variants(path)
    assert file.kind == "BCF"
    assert "##contig=<ID=chr1>" in file.header
    assert file.columns == ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
    for _ in range(2):
        assert contents(file) == [("chr1", 4, "A", ("C", "<DEL>"))]
    (record,) = file.read()
    assert record.fields == ("chr1", "5", "rs1", "A", "C,<DEL>", ".", "PASS", "X=1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-28:])
    with pytest.raises(InputError, match=r"v\.bcf: (cannot be read as BCF|corrupt gzip|truncated)"):
        list(open_variants(path).read())
    path.write_bytes(data[: len(data) - 28])
    with pytest.raises(InputError, match=r"v\.bcf: truncated bgzip file"):
        open_variants(path)


def test_without_pysam_a_bcf_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysam", None)
    path = tmp_path / "v.bcf"
    path.write_bytes(gzip.compress(b"BCF\x02\x02" + bytes(20)))
    with pytest.raises(ImportError, match=r"this needs pysam .*: pip install '\.\[dna,bcf\]'"):
        open_variants(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "v: is empty; give a VCF, BCF or MAF"),
        (b"\n\n", "v: is empty"),
        (b"chr1\t5\t.\tA\tC\n", "v: is not a VCF: no line begins with #CHROM; nor a MAF"),
        (b"##fileformat=VCFv4.2\n", "v: is not a VCF"),
        (b"##maf version=1\ns chr1 1 2 + 5 AC\n", "v: is not a VCF"),
        (
            VCF.replace("\t", " ").encode(),
            "v: its columns are not those of a VCF: expected #CHROM POS ID REF ALT, separated by tabs",
        ),
        (b"#CHROM\tPOS\tREF\tALT\n", "v: its columns are not those of a VCF"),
        (
            VCF.encode() + b"chr1 5 . A C\n",
            "v:4: is not a record of a VCF: expected #CHROM POS ID REF ALT, separated by tabs",
        ),
        (VCF.encode() + b"chr1\t5\t.\tA\n", "v:4: is not a record of a VCF"),
        (VCF.encode() + b"chr1\t-5\t.\tA\tC\n", "v:4: POS '-5' is not a number"),
        (VCF.encode() + b"chr1\t5.0\t.\tA\tC\n", "v:4: POS '5.0' is not a number"),
        (VCF.encode() + b"chr1\t\t.\tA\tC\n", "v:4: POS '' is not a number"),
        (MAF.encode() + b"TP53\t1\t6\n", "v:4: is not a record of a MAF: it has 3 columns"),
        (MAF.encode() + b"TP53\t1\tx\tA\tC\n", "v:4: Start_Position 'x' is not a number"),
        (gzip.compress(VCF.encode() * 50)[:-20], "v: truncated gzip file"),
    ],
)
def test_what_is_no_file_of_variants_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "v"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(open_variants(path).read())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_of_any_length_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "v.vcf"
    path.write_text(VCF + f"chr1\t{'9' * 5000}\t.\tA\tC\nchr1\t{'0' * 5000}7\t.\tA\tC\nchr1\t0\t.\tN\tC\n")
    starts = [record.start for record in open_variants(path).read()]
    assert starts[0] == 4
    assert starts[1] > 10**17
    assert starts[2:] == [6, -1]


def test_bytes_that_are_no_text_come_back(tmp_path: Path) -> None:
    path = tmp_path / "v.vcf"
    path.write_bytes(VCF.encode().replace(b"X=1", b"X=caf\xe9"))
    (record,) = open_variants(path).read()
    assert record.fields[-1].encode("utf-8", "surrogateescape") == b"X=caf\xe9"


def test_a_pipe_is_read_as_often_as_needed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(VCF), daemon=True)
    writer.start()
    with copied_streams():
        file = open_variants(pipe)
        for _ in range(2):
            assert contents(file) == [("chr1", 4, "A", ("C", "<DEL>"))]
    writer.join(5)
