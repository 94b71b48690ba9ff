"""A genome as one flat array of token ids: written once from a FASTA by `prepare`, memory-mapped by `Genome`."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.common.vocab import BYTE_TO_ID, IUPAC_AMBIGUITY, N_ID, UNK_ID

FORMAT = "hyenadna-genome"
VERSION = 1
TOKENS_FILE = "tokens.u8"
INDEX_FILE = "index.json"

_CHUNK = 1 << 20
# Names of contigs that a message lists, at most.
_MOST_LISTED = 30
_WHITESPACE = b" \t\r\n\v\f"
_FASTA_TABLE = BYTE_TO_ID.tobytes()
_N = bytes([N_ID])
_UNK = bytes([UNK_ID])
_GZIP_MAGIC = b"\x1f\x8b"
# The empty block that ends every complete bgzip file (SAM specification, section 4.1.2).
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


@dataclass(frozen=True)
class Contig:
    """One sequence of a prepared genome.

    ``offset`` is its first position in the token array and ``length`` its number of nucleotides. ``n_count`` counts
    the positions that hold N; ``iupac_count`` those among them that were another IUPAC ambiguity code in the FASTA.
    """

    name: str
    length: int
    offset: int
    n_count: int
    iupac_count: int


class Genome:
    """A prepared genome, memory-mapped read-only on first use.

    Workers may fork it or unpickle it: the map is opened again in each unpickled copy and never shared as a handle.

    Attributes:
        folder: where `prepare` wrote it.
        contigs: the contigs in the order of the FASTA.
        fingerprint: sha256 (hexadecimal) of the token array.
        source: base name of the FASTA.
    """

    def __init__(self, folder: Path, contigs: list[Contig], fingerprint: str, source: str) -> None:
        self.folder = folder
        self.contigs = contigs
        self.fingerprint = fingerprint
        self.source = source
        self._by_name = {contig.name: contig for contig in contigs}
        self._array: np.ndarray | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Genome:
        """Open what `prepare` wrote.

        Raises:
            InputError: no such folder, not a prepared genome, another format version, or a damaged one.
        """
        folder = Path(folder)
        index = _read_index(folder)
        try:
            contigs = [Contig(**entry) for entry in index["contigs"]]
            total, fingerprint, source = int(index["total"]), str(index["sha256"]), str(index["source"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / INDEX_FILE}: damaged index ({error!r}); prepare the genome again") from error
        tokens = folder / TOKENS_FILE
        size = tokens.stat().st_size if tokens.is_file() else 0
        if not size == total == sum(contig.length for contig in contigs):
            raise InputError(
                f"{tokens}: holds {size:,} tokens where {INDEX_FILE} says {total:,}; prepare the genome again"
            )
        return cls(folder, contigs, fingerprint, source)

    @property
    def names(self) -> list[str]:
        """The names of the contigs, in the order of the FASTA."""
        return list(self._by_name)

    def __len__(self) -> int:
        """Number of nucleotides of all contigs together."""
        return sum(contig.length for contig in self.contigs)

    def contig(self, name: str) -> Contig:
        """The contig of that name; an InputError that lists known names, or the nearest, where there is none."""
        found = self._by_name.get(name)
        if found is None:
            raise InputError(f"unknown contig {name!r}; {self._name_hint(name)}")
        return found

    def tokens(self, contig: str, start: int = 0, end: int | None = None) -> np.ndarray:
        """Token ids of the positions ``[start, end)`` of a contig, 0-based.

        Returns:
            uint8 (end - start,), a read-only view of the memory-mapped file.

        Raises:
            InputError: unknown contig, or a range that is not within it.
        """
        found = self.contig(contig)
        end = found.length if end is None else end
        if not 0 <= start <= end <= found.length:
            raise InputError(f"{contig}:{start}-{end} is not within contig {contig!r} of length {found.length}")
        if self._array is None:
            self._array = np.asarray(np.memmap(self.folder / TOKENS_FILE, dtype=np.uint8, mode="r"))
        return self._array[found.offset + start : found.offset + end]

    def describe(self) -> str:
        """One line: source, number of contigs, length, N and IUPAC codes."""
        n_count = sum(contig.n_count for contig in self.contigs)
        iupac_count = sum(contig.iupac_count for contig in self.contigs)
        return (
            f"{self.source}: {len(self.contigs):,} contigs, {len(self):,} nucleotides, {n_count:,} of them N "
            f"(with {iupac_count:,} other IUPAC codes read as N)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def _name_hint(self, name: str) -> str:
        for other in (f"chr{name}", name.removeprefix("chr")):
            if other != name and other in self._by_name:
                return f"the genome calls it {other!r}: names must match, 'chr' prefix included"
        if len(self.names) <= _MOST_LISTED:
            return f"the genome has {len(self.names):,}: {', '.join(self.names)}"
        near = difflib.get_close_matches(name, self.names, n=5)
        listed = f"the nearest are {', '.join(near)}" if near else f"{', '.join(self.names[:5])}, ..."
        return f"the genome has {len(self.names):,}: {listed}"


def prepare(fasta: str | Path, out: str | Path, *, overwrite: bool = False, progress: bool = True) -> Genome:
    """Tokenise a FASTA (plain, gzip or bgzip) once into a folder that `Genome.open` maps into memory.

    Lower case is read as upper case, U as T, and every other IUPAC ambiguity code becomes N and is counted. The file
    is streamed, so memory does not depend on the size of the genome. The folder appears under its name only when it
    is complete; nothing is left behind on any failure.

    Args:
        fasta: the file to read. A contig's name is its header up to the first blank.
        out: the folder to write: ``tokens.u8`` (uint8 ids, contigs one after another) and ``index.json``.
        overwrite: replace ``out`` where it is a prepared genome already.
        progress: show a progress bar over the bytes of the file.

    Raises:
        InputError: ``fasta`` is missing, empty, truncated, no FASTA or no nucleotide FASTA, has a contig without name
            or sequence or twice the same name; ``out`` exists already or cannot be written.
    """
    fasta, out = Path(fasta), Path(out)
    with atomic_dir(out) as draft:
        _check_target(out, overwrite)
        index = _write_tokens(fasta, draft / TOKENS_FILE, progress)
        (draft / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return Genome.open(out)


def read_chunks(path: Path, on_progress: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file chunk by chunk, decompressed where it is gzip or bgzip by content.

    Args:
        path: the file.
        on_progress: called with the number of bytes of the file itself that were read since the last call.

    Raises:
        InputError: the file is missing or unreadable, or its compressed data are truncated or corrupt.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: not a file")
    try:
        with path.open("rb") as raw:
            compressed = _check_compression(path, raw)
            stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if compressed else raw
            done = 0
            while chunk := stream.read(_CHUNK):
                if on_progress is not None:
                    on_progress(raw.tell() - done)
                    done = raw.tell()
                yield chunk
    except EOFError as error:
        raise InputError(f"{path}: truncated gzip file; download or compress it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: corrupt gzip file ({error}); download or compress it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _check_compression(path: Path, raw: BinaryIO) -> bool:
    head = raw.read(14)
    if not head.startswith(_GZIP_MAGIC):
        raw.seek(0)
        return False
    if head[3:4] == b"\x04" and head[12:14] == b"BC":
        # A bgzip file cut between two blocks is valid gzip; only the missing end block tells.
        raw.seek(max(0, path.stat().st_size - len(_BGZF_END)))
        if raw.read() != _BGZF_END:
            raise InputError(f"{path}: truncated bgzip file (no end-of-file block); download or compress it again")
    raw.seek(0)
    return True


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file; choose another folder")
    held = {entry.name for entry in out.iterdir()}
    if not held:
        return
    if INDEX_FILE not in held or held - {INDEX_FILE, TOKENS_FILE}:
        raise InputError(f"{out}: holds files that are not a prepared genome's; choose another folder")
    if not overwrite:
        raise InputError(
            f"{out}: holds a prepared genome already; overwrite it (--overwrite, overwrite=True) or choose another "
            "folder"
        )


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_FILE
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; make it with `hyenadna prepare GENOME.fa --out {folder}`")
    if not path.is_file():
        raise InputError(f"{folder}: not a prepared genome (no {INDEX_FILE}); make one with `hyenadna prepare`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged index (no JSON); prepare the genome again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{folder}: not a prepared genome ({INDEX_FILE} is another program's)")
    if index.get("version") != VERSION:
        raise InputError(
            f"{path}: format version {index.get('version')!r}, this program reads {VERSION}; prepare the genome again"
        )
    return index


@dataclass
class _Draft:
    name: str
    line: int
    offset: int
    length: int = 0
    n_count: int = 0
    iupac_count: int = 0


def _write_tokens(fasta: Path, path: Path, progress: bool) -> dict[str, Any]:
    drafts: dict[str, _Draft] = {}
    current: _Draft | None = None
    digest = hashlib.sha256()
    size = fasta.stat().st_size if fasta.is_file() else None
    # The delay keeps the bar from standing above the message of a file that is refused at once.
    bar = tqdm(
        total=size,
        desc=f"prepare {fasta.name}",
        unit="B",
        unit_scale=True,
        delay=0.2,
        disable=None if progress else True,
    )
    with bar, path.open("wb") as tokens:
        for is_header, line, piece in _split_fasta(read_chunks(fasta, bar.update)):
            if is_header:
                current = _start_contig(fasta, line, piece, drafts)
            elif current is None:
                if piece.strip():
                    raise _no_header(fasta, piece.strip())
            else:
                ids = piece.translate(_FASTA_TABLE, _WHITESPACE)
                if _UNK in ids:
                    raise _bad_letter(fasta, line, piece, current, ids.find(_UNK))
                n_count = ids.count(_N)
                current.length += len(ids)
                current.n_count += n_count
                current.iupac_count += n_count - piece.count(b"N") - piece.count(b"n")
                tokens.write(ids)
                digest.update(ids)
    if current is None:
        raise InputError(f"{fasta}: is empty; give a FASTA with at least one sequence")
    _check_sequence(fasta, current)
    contigs = [Contig(d.name, d.length, d.offset, d.n_count, d.iupac_count) for d in drafts.values()]
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": fasta.name,
        "total": sum(contig.length for contig in contigs),
        "sha256": digest.hexdigest(),
        "contigs": [asdict(contig) for contig in contigs],
    }


def _split_fasta(chunks: Iterable[bytes]) -> Iterator[tuple[bool, int, bytes]]:
    """Yield (is_header, number of its first line, bytes): whole headers without '>', sequence in pieces of any size."""
    line = 1
    header: bytes | None = None
    at_line_start = True
    for chunk in chunks:
        pos = 0
        while pos < len(chunk):
            if header is not None:
                end = chunk.find(b"\n", pos)
                if end < 0:
                    header += chunk[pos:]
                    break
                yield True, line, header + chunk[pos:end]
                header, at_line_start, line, pos = None, True, line + 1, end + 1
            elif at_line_start and chunk.startswith(b">", pos):
                header, pos = b"", pos + 1
            else:
                end = chunk.find(b"\n>", pos) + 1 or len(chunk)
                piece = chunk[pos:end]
                yield False, line, piece
                line += piece.count(b"\n")
                at_line_start, pos = piece.endswith(b"\n"), end
    if header is not None:
        yield True, line, header


def _start_contig(fasta: Path, line: int, header: bytes, drafts: dict[str, _Draft]) -> _Draft:
    offset = 0
    if drafts:
        last = next(reversed(drafts.values()))
        _check_sequence(fasta, last)
        offset = last.offset + last.length
    text = header.decode("utf-8", "backslashreplace")
    if not text.strip() or text[0].isspace():
        raise InputError(f"{fasta}:{line}: a header without a name; write the contig's name right after '>'")
    name = text.split()[0]
    if name in drafts:
        raise InputError(
            f"{fasta}:{line}: contig {name!r} is there twice (first in line {drafts[name].line}); rename or remove one"
        )
    drafts[name] = _Draft(name, line, offset)
    return drafts[name]


def _check_sequence(fasta: Path, contig: _Draft) -> None:
    if contig.length == 0:
        raise InputError(
            f"{fasta}:{contig.line}: contig {contig.name!r} has no sequence; remove its header or restore its sequence"
        )


def _no_header(fasta: Path, text: bytes) -> InputError:
    start = f"it begins with {repr(text.split()[0][:20])[1:]}"
    if text.startswith(b"@"):
        return InputError(f"{fasta}: no FASTA header ({start}); is this FASTQ? convert it to FASTA first")
    return InputError(f"{fasta}: no FASTA header ({start}); a FASTA begins with '>' and the name of a contig")


def _bad_letter(fasta: Path, line: int, piece: bytes, contig: _Draft, index: int) -> InputError:
    letter = piece.translate(None, _WHITESPACE)[index : index + 1]
    # An earlier occurrence of the same letter in the piece would have been the first bad one.
    line += piece.count(b"\n", 0, piece.find(letter))
    return InputError(
        f"{fasta}:{line}: {repr(letter)[1:]} at position {contig.length + index + 1} of contig {contig.name!r} is no "
        f"nucleotide code (ACGTU, N or {IUPAC_AMBIGUITY}); is this a protein FASTA?"
    )
