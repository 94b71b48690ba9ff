"""Damaged files: each is read, or refused with an InputError of one line, and leaves nothing behind.

Every kind of file has a small sound example. It is damaged 300 times, the same in every run: cut off, bytes changed,
marks and line ends put in, lines repeated, columns deleted, parts exchanged. What comes out twice is read once.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.data.contig_names import read_aliases
from hyenadna.data.genome import Genome, open_genome, prepare
from hyenadna.data.intervals import read_bed
from hyenadna.data.sources import open_sequences
from hyenadna.data.tables import read_table
from hyenadna.data.variant_files import open_variants
from hyenadna.data.variants import alleles
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.locate import find

COUNT = 300

FASTA = b">chrI first\nACGTNRYACGT\nacgtnn\n>chrII\r\nGATTACA\r\nGATTACA\r\n>chrM\nACGT\n"
BED = b"# intervals\ntrack name=x\nchrI\t0\t5\tgene 1\t0\t+\nII\t2\t9\tb\t1\t-\nchrMT\t0\t4\tc\t0\t.\n"
VCF = (
    b"##fileformat=VCFv4.2\n##contig=<ID=chrI,length=17>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    b'chrI\t2\t.\tC\tT,CA\t.\tPASS\tA=1;B="x"\nII\t3\trs1\tTTA\tT\t9\t.\t.\nchrM\t1\t.\tA\t<DEL>\t.\t.\t.\n'
)
MAF = (
    b"#version 2.4\nHugo_Symbol\tChromosome\tStart_Position\tEnd_Position\tReference_Allele\tTumor_Seq_Allele1\t"
    b"Tumor_Seq_Allele2\nX\tchrI\t2\t2\tC\tC\tT\nY\tII\t3\t4\tTT\tTT\t-\nZ\tchrM\t1\t2\t-\t-\tAC\n"
)
TSV = b'sequence\tlabel\tnote\nACGT\t1\tplain\nGATTACA\tNA\t"a\tb"\nacgtn\t0\t\n'
ALIASES = b"# ucsc\tensembl\trefseq\nchrI\tI\tNC_1.1\nchrII\tII\tNC_2.1\nchrM\tMT\t\n"


def damaged(content: bytes, seed: int) -> bytes:
    """One of the ways to damage a file, chosen by the seed."""
    rng = np.random.default_rng(seed)

    def place() -> int:
        return int(rng.integers(0, len(content) + 1))

    def insert(what: bytes) -> bytes:
        at = place()
        return content[:at] + what + content[at:]

    lines = content.split(b"\n")
    row = int(rng.integers(0, len(lines)))
    fields = lines[row].split(b"\t")
    column = int(rng.integers(0, len(fields)))
    first, last = sorted((place(), place()))
    flipped = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        flipped[int(rng.integers(0, len(flipped)))] = int(rng.integers(0, 256))
    ways: list[Callable[[], bytes]] = [
        lambda: content[: place()],
        lambda: content[place() :],
        lambda: bytes(flipped),
        lambda: insert(rng.choice([b"\xef\xbb\xbf", b"\0", b"\r", b"\xff\xfe", b"\t", b'"', b"\n", b"-", b"9", b">"])),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r"),
        lambda: b"\n".join([*lines[: row + 1], lines[row], *lines[row + 1 :]]),
        lambda: b"\n".join(lines[:row] + lines[row + 1 :]),
        lambda: b"\n".join([*lines[:row], b"\t".join(fields[:column] + fields[column + 1 :]), *lines[row + 1 :]]),
        lambda: content[first:last] + content[:first] + content[last:],
        lambda: content[:first] + content[first:last] * int(rng.integers(2, 40)) + content[last:],
        lambda: gzip.compress(content, mtime=0)[: int(rng.integers(1, 60))],
        lambda: content.decode("latin-1").encode("utf-16"),
    ]
    return ways[int(rng.integers(0, len(ways)))]()


def all_damaged(content: bytes) -> list[bytes]:
    """Every different content that the seeds give."""
    return list(dict.fromkeys(damaged(content, seed) for seed in range(COUNT)))


def read_fasta(path: Path) -> object:
    return [genome_of(path), sequences_of(path)]


def genome_of(path: Path) -> object:
    try:
        genome = prepare(path, path.with_name("made"), progress=False)
    except InputError as error:
        return one_line(error)
    return [(contig.name, genome.tokens(contig.name).tobytes()) for contig in genome.contigs]


def sequences_of(path: Path) -> object:
    with open_sequences(fasta=path, progress=False) as sequences:
        found = [(record.name, record.ids.tobytes()) for record in sequences]
    assert len(found) == len(sequences)
    return found


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


class Readers:
    """A reader for each kind of file. It returns what it read."""

    def __init__(self, genome: Genome, checkpoint: Path) -> None:
        self.genome = genome
        self.checkpoint = checkpoint

    def fasta(self, path: Path) -> object:
        """The genome that is prepared from it, and its sequences."""
        return read_fasta(path)

    def bed(self, path: Path) -> object:
        """Its intervals, all within their contigs."""
        found = read_bed(path, self.genome, stranded=True)
        for interval in found:
            assert len(self.genome.tokens(interval.contig, interval.start, interval.end)) == len(interval) > 0
            assert interval.strand in "+-"
        return found

    def variants(self, path: Path) -> object:
        """The alleles of a VCF or MAF. One without a problem has the bases of the genome."""
        found = []
        for record in open_variants(path).read():
            for allele in alleles(record, self.genome):
                if not allele.problem:
                    end = allele.start + len(allele.ref)
                    assert self.genome.tokens(allele.contig, allele.start, end).tobytes() == allele.ref.tobytes()
                found.append(allele)
        return found

    def table(self, path: Path) -> object:
        """Its columns, all of one length."""
        columns = read_table(path, ["sequence"])
        assert len({len(values) for values in columns.values()}) == 1
        return columns

    def aliases(self, path: Path) -> object:
        """Other names of the genome's contigs."""
        found = read_aliases(path, {contig.name: contig.length for contig in self.genome.contigs})
        assert set(found.values()) <= set(self.genome.names)
        return found

    def config(self, path: Path) -> object:
        """The model of a configuration, which is made."""
        folder = path.with_name("model")
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((self.checkpoint / "model.safetensors").read_bytes())
        (folder / "config.json").write_bytes(path.read_bytes())
        return self._load(folder)

    def weights(self, path: Path) -> object:
        """The weights of a checkpoint."""
        folder = path.with_name("model")
        folder.mkdir()
        (folder / "config.json").write_bytes((self.checkpoint / "config.json").read_bytes())
        (folder / "model.safetensors").write_bytes(path.read_bytes())
        return self._load(folder)

    def _load(self, folder: Path) -> object:
        try:
            find(folder)
            with without_transformers_bars():
                return HyenaDNAForCausalLM.from_pretrained(folder)
        finally:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[..., Path]) -> Iterator[Readers]:
    path = tmp_path_factory.mktemp("sound") / "g.fa"
    path.write_bytes(FASTA)
    with open_genome(path, progress=False) as genome:
        yield Readers(genome, tiny_checkpoint())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("fasta", "f.fa", FASTA),
        ("bed", "f.bed", BED),
        ("variants", "f.vcf", VCF),
        ("variants", "f.maf", MAF),
        ("table", "f.tsv", TSV),
        ("table", "f.csv", TSV.replace(b"\t", b",")),
        ("aliases", "f.txt", ALIASES),
    ],
    ids=["fasta", "bed", "vcf", "maf", "tsv", "csv", "aliases"],
)
def test_a_damaged_file_is_read_or_refused(
    readers: Readers, tmp_path: Path, kind: str, name: str, content: bytes
) -> None:
    read = getattr(readers, kind)
    path = tmp_path / name
    outcomes = [outcome(read, path, each) for each in all_damaged(content)]
    # A reader that refuses everything, or nothing, checks nothing here.
    assert {True, False} == set(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["config", "weights"])
def test_a_damaged_checkpoint_is_read_or_refused(readers: Readers, tmp_path: Path, kind: str) -> None:
    name = {"config": "config.json", "weights": "model.safetensors"}[kind]
    content = (readers.checkpoint / name).read_bytes()
    read = getattr(readers, kind)
    # The operator, which knows no files, refuses sizes with a ValueError.
    outcomes = [outcome(read, tmp_path / name, each, refused=ValueError) for each in all_damaged(content)]
    assert {True, False} == set(outcomes)


def outcome(read: Callable[[Path], Any], path: Path, content: bytes, refused: type[Exception] = InputError) -> bool:
    """Whether a file was read; False if it was refused."""
    path.write_bytes(content)
    try:
        read(path)
    except refused as error:
        one_line(error)
        return False
    except Exception as error:
        raise AssertionError(f"{path.name} with {content[:2000]!r}: {error!r}") from error
    finally:
        made = [entry for entry in path.parent.iterdir() if entry != path]
        for entry in made:
            # What a verb has finished is whole; nothing else is there.
            assert entry.name == "made"
            Genome.open(entry)
            for file in entry.iterdir():
                file.unlink()
            entry.rmdir()
    return True
