from __future__ import annotations

import bz2
import dataclasses
import errno
import gzip
import hashlib
import json
import lzma
import os
import pickle
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, N_ID, NUCLEOTIDE_IDS
from hyenadna.data import streams
from hyenadna.data.genome import Contig, Genome, open_genome, prepare

FASTA = b">one first contig\nACGTN\nacgtn\n\n>two\nRYKM\nUu\n"
BGZF_HEADER = bytes.fromhex("1f8b08040000000000ff060042430200")
YEAST_TOTAL = 12_157_105


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def bgzip(blocks: list[bytes], *, end: bool = True) -> bytes:
    out = b""
    for block in blocks:
        deflate = zlib.compressobj(wbits=-15)
        data = deflate.compress(block) + deflate.flush()
        size = len(BGZF_HEADER) + 2 + len(data) + 8
        crc = zlib.crc32(block).to_bytes(4, "little") + len(block).to_bytes(4, "little")
        out += BGZF_HEADER + (size - 1).to_bytes(2, "little") + data + crc
    return out + (bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000") if end else b"")


def decode(ids: np.ndarray) -> str:
    letters = {v: k for k, v in NUCLEOTIDE_IDS.items()}
    return "".join(letters[i] for i in ids.tolist())


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def prepared(tmp_path: Path) -> Genome:
    return prepare(write(tmp_path / "g.fa", FASTA), tmp_path / "g", progress=False)


def test_tokens_and_index(prepared: Genome) -> None:
    assert prepared.contigs == [Contig("one", 10, 0, 2, 0), Contig("two", 6, 10, 4, 4)]
    assert prepared.names == ["one", "two"]
    assert len(prepared) == 16
    assert decode(prepared.tokens("one")) == "ACGTNACGTN"
    assert decode(prepared.tokens("two")) == "NNNNTT"
    assert decode(prepared.tokens("one", 1, 4)) == "CGT"
    assert prepared.tokens("two", 6).shape == (0,)
    raw = (prepared.folder / "tokens.u8").read_bytes()
    assert prepared.fingerprint == hashlib.sha256(raw).hexdigest()
    assert sorted(p.name for p in prepared.folder.iterdir()) == ["index.json", "tokens.u8"]
    assert prepared.describe() == ("g.fa: 2 contigs, 16 nucleotides, 6 of them N (with 4 other IUPAC codes read as N)")


def test_tokens_are_a_read_only_view_of_the_file(prepared: Genome) -> None:
    ids = prepared.tokens("one")
    assert type(ids) is np.ndarray
    assert ids.dtype == np.uint8
    assert np.shares_memory(ids, prepared.tokens("one", 2, 5))
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 0


@pytest.mark.parametrize(
    "content",
    [
        FASTA.replace(b"\n", b"\r\n"),
        FASTA.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + FASTA,
        gzip.compress(b"\xef\xbb\xbf" + FASTA.replace(b"\n", b"\r\n")),
        FASTA.lower(),
        FASTA.rstrip(b"\n"),
        b"\n\n" + FASTA,
        FASTA.replace(b"ACGTN", b"AC GT\tN "),
        gzip.compress(FASTA),
        gzip.compress(FASTA[:20]) + gzip.compress(FASTA[20:]),
        bgzip([FASTA[:20], FASTA[20:]]),
    ],
    ids=[
        "crlf",
        "cr",
        "byte-order-mark",
        "mark-crlf-gzip",
        "lower",
        "no-last-newline",
        "blank-lines",
        "blanks",
        "gzip",
        "gzip-members",
        "bgzip",
    ],
)
def test_same_genome_from_every_form(prepared: Genome, tmp_path: Path, content: bytes) -> None:
    other = prepare(write(tmp_path / "other", content), tmp_path / "other.genome", progress=False)
    assert other.fingerprint == prepared.fingerprint
    assert other.contigs == prepared.contigs


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_chunk_borders_anywhere(prepared: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(streams, "_CHUNK", chunk)
    for number, content in enumerate(
        (FASTA, b"\xef\xbb\xbf" + FASTA.replace(b"\n", b"\r\n"), FASTA.replace(b"\n", b"\r"))
    ):
        path = write(tmp_path / "g.fa", content)
        other = prepare(path, tmp_path / f"other{number}", progress=False)
        assert (other.contigs, other.fingerprint) == (prepared.contigs, prepared.fingerprint)


BAD_FASTA = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n", "is empty"),
    "empty-gzip": (gzip.compress(b""), "is empty"),
    "no-header": (b"ACGT\nACGT\n", r"no FASTA header \(it begins with 'ACGT'\); a FASTA begins with '>'"),
    "binary": (b"\x7fELF\x00\x01", r"no FASTA header \(it begins with '\\x7fELF"),
    "fastq": (b"@read1\nACGT\n+\nIIII\n", r"no FASTA header \(it begins with '@read1'\); is this FASTQ\?"),
    "duplicate": (
        b">a\nAC\n>b\nGT\n>a x\nAA\n",
        r"bad\.fa:5: contig 'a' is there twice \(first in line 1\); rename or remove one",
    ),
    "no-name": (b">a\nAC\n>\nGT\n", r"bad\.fa:3: a header without a name"),
    "blank-name": (b"> a\nAC\n", r"bad\.fa:1: a header without a name"),
    "no-sequence": (b">a\n>b\nAC\n", r"bad\.fa:1: contig 'a' has no sequence"),
    "no-sequence-last": (b">a\nAC\n>b", r"bad\.fa:3: contig 'b' has no sequence"),
    "protein": (
        b">a\nACGT\n>p53\nACGT\nMTAMEESQ\n",
        r"bad\.fa:5: 'E' at position 9 of contig 'p53' is not a nucleotide code .* is this a protein FASTA\?",
    ),
    "gap": (b">a\nAC-T\n", r"bad\.fa:2: '-' at position 3 of contig 'a' .*; is this an alignment\? remove its gaps$"),
    "dot": (b">a\nAC.T\n", r"; is this an alignment\? remove its gaps$"),
    "numbers": (
        b">a\n1 ACGT\n",
        r"'1' at position 1 .*; are positions written between the bases\? remove the numbers$",
    ),
    "quality": (b">a\nACGT\n+\n", r"'\+' at position 5 .*; is this FASTQ\?"),
    "zero": (b">a\nAC\0T\n", r"'\\x00' at position 3 .*; is the file damaged\?$"),
    "comment": (b">a\nAC;T\n", r"';' at position 3 .*; correct or remove it$"),
    "zeros": (b"\0\0\0", "is no text"),
    "utf-16": (">a\nACGT\n".encode("utf-16"), "is in UTF-16 or UTF-32; save it as UTF-8"),
    "utf-32": (">a\nACGT\n".encode("utf-32"), "is in UTF-16 or UTF-32; save it as UTF-8"),
    "zip": (b"PK\3\4" + bytes(40), "is a zip archive; unpack it"),
    "bzip2": (bz2.compress(FASTA), "is compressed with bzip2"),
    "xz": (lzma.compress(FASTA), "is compressed with xz"),
    "twice": (gzip.compress(gzip.compress(FASTA)), "is compressed twice"),
    "bam": (bgzip([b"BAM\1" + bytes(40)]), "is a BAM"),
    "gzip-garbage": (gzip.compress(FASTA) + b"garbage", "corrupt gzip file"),
    "header-mid-line": (b">a\nAC>b\n", r"bad\.fa:2: '>' at position 3 of contig 'a'"),
    "truncated-gzip": (gzip.compress(FASTA * 50)[:-20], "truncated gzip file; download or compress it again"),
    "corrupt-gzip": (gzip.compress(FASTA)[:-8] + b"\0" * 8, "corrupt gzip file"),
    "corrupt-deflate": (gzip.compress(FASTA)[:10] + b"\xff" * 40, "corrupt gzip file"),
    "bgzip-cut-between-blocks": (bgzip([FASTA], end=False), "truncated bgzip file"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FASTA.values(), ids=BAD_FASTA)
def test_bad_fasta(tmp_path: Path, content: bytes, message: str) -> None:
    fasta = write(tmp_path / "bad.fa", content)
    with unchanged(tmp_path), pytest.raises(InputError, match=message) as caught:
        prepare(fasta, tmp_path / "new" / "folders" / "out", progress=False)
    assert str(caught.value).startswith(str(fasta))
    assert "\n" not in str(caught.value)


def test_line_and_position_of_a_bad_letter_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_CHUNK", 4)
    fasta = write(tmp_path / "bad.fa", b">a\nACGT\nAC\nACGTQ\n")
    with pytest.raises(InputError, match=r"bad\.fa:4: 'Q' at position 11 of contig 'a'"):
        prepare(fasta, tmp_path / "out", progress=False)


@pytest.mark.parametrize(("name", "message"), [("none.fa", "no such file"), (".", "is a folder; give a file")])
def test_no_file(tmp_path: Path, name: str, message: str) -> None:
    with unchanged(tmp_path), pytest.raises(InputError, match=message):
        prepare(tmp_path / name, tmp_path / "out", progress=False)


def test_refused_input_shows_no_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        prepare(write(tmp_path / "bad.fa", b"ACGT"), tmp_path / "out", progress=True)
    assert capfd.readouterr() == ("", "")


def failing_write(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    opened = Path.open

    class Failing:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, data: bytes) -> None:
            self.stream.write(data[:1])
            raise error

    def open_failing(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = opened(path, mode, *args, **kwargs)
        return Failing(stream) if mode == "wb" else stream

    monkeypatch.setattr(Path, "open", open_failing)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fasta = write(tmp_path / "g.fa", FASTA)
    failing_write(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    message = r"out: cannot be written \(No space left on device\); free some space"
    with unchanged(tmp_path), pytest.raises(InputError, match=message):
        prepare(fasta, tmp_path / "new" / "out", progress=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_noticed_only_when_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fasta = write(tmp_path / "g.fa", FASTA)
    opened = Path.open

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return opened(Path("/dev/full") if mode == "wb" else path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    with unchanged(tmp_path), pytest.raises(InputError, match="No space left on device"):
        prepare(fasta, tmp_path / "out", progress=False)


def test_interrupt_leaves_nothing_and_stays_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fasta = write(tmp_path / "g.fa", FASTA)
    failing_write(monkeypatch, KeyboardInterrupt())
    with unchanged(tmp_path), pytest.raises(KeyboardInterrupt):
        prepare(fasta, tmp_path / "new" / "out", progress=False)


def test_refuses_to_overwrite_unless_asked(prepared: Genome, tmp_path: Path) -> None:
    other = write(tmp_path / "other.fa", b">x\nACGTACGT\n")
    with unchanged(tmp_path), pytest.raises(InputError, match="holds a prepared genome already"):
        prepare(other, prepared.folder, progress=False)
    assert Genome.open(prepared.folder).fingerprint == prepared.fingerprint
    with unchanged(tmp_path):
        replaced = prepare(other, prepared.folder, overwrite=True, progress=False)
    assert replaced.names == Genome.open(prepared.folder).names == ["x"]


def test_failed_overwrite_keeps_the_old_genome(prepared: Genome, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.fa", b">x\nACGTQ\n")
    with unchanged(tmp_path), pytest.raises(InputError, match="'Q'"):
        prepare(bad, prepared.folder, overwrite=True, progress=False)
    assert decode(Genome.open(prepared.folder).tokens("one")) == "ACGTNACGTN"


def test_overwrite_that_fails_at_the_last_step_keeps_the_old_genome(
    prepared: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    other = write(tmp_path / "other.fa", b">x\nACGTACGT\n")
    with unchanged(tmp_path), pytest.raises(InputError, match=r"cannot be written \(Input/output error\)"):
        prepare(other, prepared.folder, overwrite=True, progress=False)
    assert Genome.open(prepared.folder).names == ["one", "two"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_never_replaces_what_is_not_a_prepared_genome(prepared: Genome, tmp_path: Path, overwrite: bool) -> None:
    write(prepared.folder / "notes.txt", b"mine")
    file = write(tmp_path / "file", b"mine")
    for out, message in [(prepared.folder, "not a prepared genome's"), (file, "is a file")]:
        with unchanged(tmp_path), pytest.raises(InputError, match=message):
            prepare(tmp_path / "g.fa", out, overwrite=overwrite, progress=False)


def test_empty_folder_is_taken(prepared: Genome, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert prepare(tmp_path / "g.fa", tmp_path / "empty", progress=False).fingerprint == prepared.fingerprint


@pytest.mark.parametrize(
    ("contig", "start", "end", "message"),
    [
        ("one", -1, 3, r"one:-1-3 is not within contig 'one' of length 10"),
        ("one", 0, 11, r"one:0-11 is not within"),
        ("one", 5, 4, r"one:5-4 is not within"),
        ("three", 0, 1, r"unknown contig 'three'; the genome has 2: one, two"),
    ],
)
def test_tokens_outside(prepared: Genome, contig: str, start: int, end: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared.tokens(contig, start, end)


@pytest.mark.parametrize(("asked", "held"), [("7", "chr7"), ("chr7", "7")])
def test_contigs_are_found_with_and_without_chr(tmp_path: Path, asked: str, held: str) -> None:
    genome = prepare(write(tmp_path / "g.fa", f">{held}\nACGT\n".encode()), tmp_path / "g", progress=False)
    assert genome.contig(asked) == genome.contigs[0]
    assert genome.tokens(asked).tolist() == genome.tokens(held).tolist()


@pytest.mark.parametrize(
    ("count", "asked", "hint"),
    [
        (30, "scaffold_5", ", ".join(f"scaffold{i:02}" for i in range(30))),
        (31, "scaffold_05", "the nearest are scaffold05, "),
        (31, "z", "scaffold00, scaffold01, scaffold02, scaffold03, scaffold04, ..."),
    ],
)
def test_unknown_contig_names_all_or_the_nearest(tmp_path: Path, count: int, asked: str, hint: str) -> None:
    fasta = write(tmp_path / "g.fa", "".join(f">scaffold{i:02}\nACGT\n" for i in range(count)).encode())
    with pytest.raises(InputError) as caught:
        prepare(fasta, tmp_path / "g", progress=False).contig(asked)
    assert f"unknown contig '{asked}'; the genome has {count}: {hint}" in str(caught.value)


def edit_index(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, **changes}))

    return edit


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-index": (lambda folder: (folder / "index.json").unlink(), "not a prepared genome"),
    "no-json": (lambda folder: (folder / "index.json").write_text("{"), "damaged index"),
    "not-an-object": (lambda folder: (folder / "index.json").write_text("[]"), "not a prepared genome"),
    "foreign": (edit_index(format="other"), "not a prepared genome"),
    "version": (edit_index(version=2), "format version 2, this program reads 1"),
    "contigs": (edit_index(contigs=[{"name": "one"}]), "damaged index"),
    "total": (edit_index(total=17), r"holds 16 tokens where index\.json says 17"),
    "no-tokens": (lambda folder: (folder / "tokens.u8").unlink(), r"holds 0 tokens where index\.json says 16"),
    "cut-tokens": (lambda folder: os.truncate(folder / "tokens.u8", 7), "holds 7 tokens"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_open_bad_folder(prepared: Genome, damage: Callable[[Path], object], message: str) -> None:
    damage(prepared.folder)
    with pytest.raises(InputError, match=message) as caught:
        Genome.open(prepared.folder)
    assert "\n" not in str(caught.value)


def test_open_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such folder; make it with `hyenadna prepare"):
        Genome.open(tmp_path / "none")


def test_pickle_carries_no_tokens(tmp_path: Path) -> None:
    genome = prepare(write(tmp_path / "g.fa", b">a\n" + b"ACGT" * 5000), tmp_path / "g", progress=False)
    ids = genome.tokens("a")
    pickled = pickle.dumps(genome)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).tokens("a"), ids)


def test_contig_is_frozen(prepared: Genome) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepared.contigs[0].length = 3  # type: ignore[misc]


def test_yeast(shared: Path, tmp_path: Path) -> None:
    fasta = shared / "data" / "sacCer3.fa.gz"
    began = time.perf_counter()
    genome = prepare(fasta, tmp_path / "yeast", progress=False)
    assert time.perf_counter() - began < 5
    assert len(genome.contigs) == 17
    assert len(genome) == YEAST_TOTAL
    assert genome.source == "sacCer3.fa.gz"
    text = gzip.decompress(fasta.read_bytes())
    for record in text.split(b">")[1:]:
        name, _, sequence = record.partition(b"\n")
        expected = BYTE_TO_ID[np.frombuffer(sequence.replace(b"\n", b""), np.uint8)]
        np.testing.assert_array_equal(genome.tokens(name.decode()), expected)
        contig = genome.contig(name.decode())
        assert (contig.length, contig.n_count, contig.iupac_count) == (len(expected), (expected == N_ID).sum(), 0)


def test_yeast_truncated(shared: Path, tmp_path: Path) -> None:
    content = (shared / "data" / "sacCer3.fa.gz").read_bytes()
    fasta = write(tmp_path / "cut.fa.gz", content[: len(content) // 2])
    with unchanged(tmp_path), pytest.raises(InputError, match="truncated gzip file"):
        prepare(fasta, tmp_path / "out", progress=False)


def test_memory_does_not_follow_the_contig(tmp_path: Path) -> None:
    fasta = write(tmp_path / "long.fa", b">one-line contig\n" + b"ACGTACGT" * (4 << 20))
    tracemalloc.start()
    try:
        genome = prepare(fasta, tmp_path / "g", progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(genome) == 32 << 20
    assert peak < 8 << 20


def test_a_fasta_is_read_as_a_prepared_genome_is(tiny_fasta: Path, tiny_genome: Path) -> None:
    with open_genome(tiny_fasta, progress=False) as genome, open_genome(tiny_genome) as prepared:
        assert genome.fingerprint == prepared.fingerprint
        folder = genome.folder
    assert not folder.exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no list of mapped files")
def test_a_temporary_genome_is_not_mapped_when_its_folder_goes(
    tiny_fasta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_mapped(folder: str) -> bool:
        return folder in Path("/proc/self/maps").read_text()

    mapped: list[bool] = []
    remove = tempfile.TemporaryDirectory.cleanup

    def cleanup(self: tempfile.TemporaryDirectory[str]) -> None:
        mapped.append(is_mapped(self.name))
        remove(self)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", cleanup)
    with open_genome(tiny_fasta, progress=False) as genome:
        assert genome.tokens("a", 0, 1).tolist()
        assert is_mapped(str(genome.folder))
    assert mapped == [False]


def test_five_names_that_are_near_are_listed(tmp_path: Path) -> None:
    names = [f"scaffold{number:02}" for number in range(31)]
    folder = tmp_path / "g"
    genome = prepare(write(tmp_path / "g.fa", "".join(f">{n}\nACGT\n" for n in names).encode()), folder, progress=False)
    with pytest.raises(InputError, match=r"the nearest are scaffold\d\d(, scaffold\d\d){4};"):
        genome.contig("scaffold_05")
