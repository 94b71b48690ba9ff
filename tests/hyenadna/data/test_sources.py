from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import LETTERS
from hyenadna.data.genome import Genome
from hyenadna.data.sequences import encode
from hyenadna.data.sources import open_sequences


@pytest.mark.parametrize("compress", [False, True])
def test_a_fasta_is_streamed_with_the_ids_of_a_prepared_genome(
    tiny_fasta: Path, tiny_genome: Path, tmp_path: Path, compress: bool
) -> None:
    fasta = tmp_path / "g.fa"
    fasta.write_bytes(gzip.compress(tiny_fasta.read_bytes()) if compress else tiny_fasta.read_bytes())
    genome = Genome.open(tiny_genome)
    with open_sequences(fasta=fasta, progress=False) as sequences:
        assert (sequences.columns, len(sequences)) == (["name"], 3)
        for _ in range(2):
            for record, contig in zip(sequences, genome.contigs, strict=True):
                assert (record.name, record.contig, record.start, record.end) == (
                    contig.name,
                    contig.name,
                    0,
                    contig.length,
                )
                assert record.where == f"{fasta}: {contig.name}"
                assert record.ids.tobytes() == genome.tokens(contig.name).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["g.fa"]


def test_a_table_keeps_its_columns(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("id\tdna\tkind\n7\tACGT\tx\n8\tGG\t\n")
    with open_sequences(table=table, sequence_column="dna", label_column="kind") as sequences:
        first, second = sequences
    assert sequences.columns == ["id", "dna", "kind"]
    assert (first.name, first.where, first.label) == ("1", f"{table}: row 1", "x")
    assert first.fields == {"id": "7", "dna": "ACGT", "kind": "x"}
    assert (second.contig, second.start, second.end, second.label) == ("", 0, 2, "")
    assert second.ids.tolist() == encode("GG", "").tolist()


@pytest.mark.parametrize("is_prepared", [True, False])
def test_intervals_come_from_their_genome(
    tiny_fasta: Path, tiny_genome: Path, tmp_path: Path, is_prepared: bool
) -> None:
    bed = tmp_path / "b.bed"
    bed.write_text("b\t5\t9\tgene\na\t998\t1003\n")
    with open_sequences(bed=bed, genome=tiny_genome if is_prepared else tiny_fasta, progress=False) as sequences:
        first, second = sequences
    assert (first.name, first.contig, first.start, first.end, first.label) == ("b:5-9", "b", 5, 9, "gene")
    assert (second.where, second.label) == (f"{bed}: a:998-1003", "")
    assert second.ids.tolist()[2:] == encode("NNN", "").tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.fa", f">a\n{'ACGT' * 500}\n>b\nACQT\n", r"s\.fa:4: 'Q' at position 3 of contig 'b' is not a nucleotide"),
        ("s.fa", ">a\n>b\n\n", "none of its 2 records has a sequence"),
        ("t.tsv", "sequence\nAC\nNA\n", r"t\.tsv: row 2: 'NA' stands for a missing sequence"),
        ("s.fa", "", "is empty"),
        ("t.tsv", "sequence\nAC\nAQ\n", r"t\.tsv: row 2: 'Q' at position 2 is not a nucleotide code"),
        ("t.tsv", "dna\nAC\n", "has no column 'sequence'"),
    ],
)
def test_the_whole_source_is_checked_before_the_first_record(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with (
        pytest.raises(InputError, match=message),
        open_sequences(**{"fasta" if name == "s.fa" else "table": path}, progress=False),
    ):
        pytest.fail("it was opened")


def test_a_folder_is_not_a_fasta(tiny_genome: Path) -> None:
    with pytest.raises(InputError, match="is a folder; give a file"), open_sequences(fasta=tiny_genome):
        pass


def test_an_interval_of_the_reverse_strand_is_the_reverse_complement(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(">1\nAACCNGTTTA\n")
    lines = ["chr1\t0\t4\tx y\t0\t-", "1\t0\t4\tx y\t0\t+", "1 4 10 z 0 .", "1\t0\t4\t-", "1\t5\t9\t\t\t-\t5\t9\t0"]
    (tmp_path / "b.bed").write_text("track name=a\n" + "\n".join(lines))
    with open_sequences(bed=tmp_path / "b.bed", genome=tmp_path / "g.fa", progress=False) as sequences:
        found = list(sequences)
    assert ["".join(LETTERS[i] for i in record.ids.tolist()) for record in found] == [
        *("GGTT", "AACC", "NGTTTA", "AACC", "AAAC"),
    ]
    assert [record.name for record in found] == ["1:0-4(-)", "1:0-4", "1:4-10", "1:0-4", "1:5-9(-)"]
    assert [record.label for record in found] == ["x y", "x y", "z", "-", ""]
    assert [record.strand for record in found] == ["-", "+", "+", "+", "-"]
    assert found[0].positions.tolist() == [3, 2, 1, 0]
    assert found[2].positions.tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("strand", ["x", "1", "-1", "+-"])
def test_another_strand_is_refused(tmp_path: Path, strand: str) -> None:
    (tmp_path / "g.fa").write_text(">1\nAACC\n")
    (tmp_path / "b.bed").write_text(f"1\t0\t4\ta\t0\t+\n1\t0\t4\ta\t0\t{strand}\n")
    with (
        pytest.raises(InputError, match=rf"b\.bed:2: '{re.escape(strand)}' in the sixth column is no strand"),
        open_sequences(bed=tmp_path / "b.bed", genome=tmp_path / "g.fa", progress=False),
    ):
        pytest.fail("it was opened")


@pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")
def test_strands_are_those_of_bedtools(tmp_path: Path, tiny_fasta: Path, tiny_genome: Path) -> None:
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 4000, 50).tolist()
    rows = [f"a\t{start}\t{start + 1 + i % 30}\tn{i}\t0\t{'+-.'[i % 3]}" for i, start in enumerate(starts)]
    (tmp_path / "b.bed").write_text("\n".join(rows) + "\n")
    fasta = tmp_path / "g.fa"
    fasta.write_bytes(tiny_fasta.read_bytes())
    command = ["bedtools", "getfasta", "-s", "-tab", "-fi", str(fasta), "-bed", str(tmp_path / "b.bed")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    with open_sequences(bed=tmp_path / "b.bed", genome=tiny_genome) as sequences:
        found = ["".join(LETTERS[i] for i in record.ids.tolist()) for record in sequences]
    assert found == [line.split("\t")[1] for line in lines]


def test_names_of_a_fasta_may_repeat_and_records_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta = tmp_path / "s.fa"
    fasta.write_text(">a 1\nAC\n>a 2\nG\nT\n>b\n>c\n\n>a 3\nTT\n")
    with open_sequences(fasta=fasta, progress=False) as sequences:
        found = [(record.name, "".join(LETTERS[i] for i in record.ids.tolist())) for record in sequences]
    assert found == [("a", "AC"), ("a", "GT"), ("b", ""), ("c", ""), ("a", "TT")]
    assert (len(sequences), sequences.empty) == (5, ["b", "c"])
    assert capsys.readouterr().err == f"note: {fasta}: 2 of 5 records have no sequence and get no result: b, c\n"


def test_a_bed_of_another_naming_lists_its_contigs(tiny_genome: Path, tmp_path: Path) -> None:
    (tmp_path / "b.bed").write_text("NC_1\t0\t4\nNC_2\t0\t4\n")
    with (
        pytest.raises(InputError, match=r"none of its contigs \(NC_1, NC_2\) is in the genome, which has a, b, c"),
        open_sequences(bed=tmp_path / "b.bed", genome=tiny_genome),
    ):
        pytest.fail("it was opened")
    (tmp_path / "names.txt").write_text("NC_1\tchra\nNC_2\tb\n")
    with open_sequences(bed=tmp_path / "b.bed", genome=tiny_genome, aliases=tmp_path / "names.txt") as sequences:
        assert [record.contig for record in sequences] == ["a", "b"]
