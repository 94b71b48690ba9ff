"""Reads a FASTA as token ids, piece by piece, and checks it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, IUPAC_AMBIGUITY, N_ID, UNK_ID
from hyenadna.data.streams import read_chunks

_WHITESPACE = b" \t\r\n\v\f"
_TABLE = BYTE_TO_ID.tobytes()
_N = bytes([N_ID])
_UNK = bytes([UNK_ID])
# The letters of proteins that are no nucleotide codes, and the stop.
_AMINO_ACIDS = [bytes([letter]) for letter in b"EFIJLOPQXZ*"]


class FastaPiece(NamedTuple):
    """Part of a contig: token ids as bytes, how many are N, and how many of those were another IUPAC code.

    ``record`` counts the records of the file, from 0.
    """

    record: int
    contig: str
    ids: bytes
    n_count: int
    iupac_count: int


def read_pieces(
    fasta: Path, on_progress: Callable[[int], object] | None = None, *, is_genome: bool = True
) -> Iterator[FastaPiece]:
    """Yield the sequences of a FASTA (plain, gzip or bgzip) in pieces of any size, contig after contig.

    Lower case is read as upper case, U as T, and every other IUPAC ambiguity code as N. A contig's name is its header
    up to the first blank.

    Args:
        fasta: the file.
        on_progress: called with the number of bytes of the file that were read since the last call.
        is_genome: refuse a name that is there twice, and a contig without sequence. Otherwise such a contig is one
            piece without ids.

    Raises:
        InputError: the file is missing, damaged or empty, is not a nucleotide FASTA, or holds a contig without name; or
            what ``is_genome`` refuses.
    """
    lines: dict[str, int] = {}
    record, name, name_line, length = -1, "", 0, 0

    def end_record() -> Iterator[FastaPiece]:
        if length == 0 and record >= 0:
            if is_genome:
                raise InputError(
                    f"{fasta}:{name_line}: contig {name!r} has no sequence; remove its header or restore its sequence"
                )
            yield FastaPiece(record, name, b"", 0, 0)

    for is_header, line, text in _split(read_chunks(fasta, on_progress)):
        if is_header:
            yield from end_record()
            name, name_line = _contig_name(fasta, line, text), line
            if is_genome and name in lines:
                raise InputError(
                    f"{fasta}:{line}: contig {name!r} is there twice (first in line {lines[name]}); rename or remove "
                    "one"
                )
            if is_genome:
                lines[name] = line
            record, length = record + 1, 0
        elif record < 0:
            if text.strip():
                raise _no_header(fasta, text.strip())
        else:
            ids = text.translate(_TABLE, _WHITESPACE)
            if _UNK in ids:
                raise _bad_letter(fasta, line, text, name, length, ids.find(_UNK))
            length += len(ids)
            n_count = ids.count(_N)
            if not ids:
                continue
            yield FastaPiece(record, name, ids, n_count, n_count - text.count(b"N") - text.count(b"n"))
    if record < 0:
        raise InputError(f"{fasta}: is empty; give a FASTA with at least one sequence")
    yield from end_record()


def read_records(fasta: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and token ids, uint8 ``(L,)`` and read-only, of every record of a FASTA.

    Names may be there twice, and L may be 0.

    Raises:
        InputError: as :func:`read_pieces`, for a file that is no genome.
    """
    records = groupby(read_pieces(fasta, is_genome=False), key=lambda piece: (piece.record, piece.contig))
    for (_, name), pieces in records:
        yield name, np.frombuffer(b"".join(piece.ids for piece in pieces), dtype=np.uint8)


def _split(chunks: Iterable[bytes]) -> Iterator[tuple[bool, int, bytes]]:
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


def _contig_name(fasta: Path, line: int, header: bytes) -> str:
    text = header.decode("utf-8", "backslashreplace")
    if not text.strip() or text[0].isspace():
        raise InputError(f"{fasta}:{line}: a header without a name; write the contig's name right after '>'")
    return text.split()[0]


def _no_header(fasta: Path, text: bytes) -> InputError:
    start = f"it begins with {repr(text.split()[0][:20])[1:]}"
    if b"\0" in text:
        return InputError(f"{fasta}: no FASTA header ({start}), and bytes of 0: is no text; give a FASTA")
    if text.startswith(b"@"):
        return InputError(f"{fasta}: no FASTA header ({start}); is this FASTQ? convert it to FASTA first")
    return InputError(f"{fasta}: no FASTA header ({start}); a FASTA begins with '>' and the name of a contig")


def _bad_letter(fasta: Path, line: int, text: bytes, name: str, length: int, index: int) -> InputError:
    letter = text.translate(None, _WHITESPACE)[index : index + 1]
    # The first such letter in the text is the bad one: an earlier one would have been found first.
    line += text.count(b"\n", 0, text.find(letter))
    return InputError(
        f"{fasta}:{line}: {repr(letter)[1:]} at position {length + index + 1} of contig {name!r} is not a nucleotide "
        f"code (ACGTU, N or {IUPAC_AMBIGUITY}); {_advice(letter)}"
    )


def _advice(letter: bytes) -> str:
    """What a letter that is no nucleotide code tells of the file."""
    if letter.upper() in _AMINO_ACIDS:
        return "is this a protein FASTA?"
    if letter in (b"-", b"."):
        return "is this an alignment? remove its gaps"
    if letter.isdigit():
        return "are positions written between the bases? remove the numbers"
    if letter in (b"@", b"+"):
        return "is this FASTQ? convert it to FASTA"
    return "is the file damaged?" if letter < b" " or letter > b"~" else "correct or remove it"
