from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
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
