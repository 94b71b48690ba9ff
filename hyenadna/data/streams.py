"""Bytes and lines of text files, decompressed where they are gzip or bgzip, with clear errors for damaged ones."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from hyenadna.common.errors import InputError
from hyenadna.common.options import check_file
from hyenadna.common.streams import regular_file

_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
# The empty block that ends every complete bgzip file (SAM specification, section 4.1.2).
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
# The first bytes of files that are not the text they are taken for, and what to do.
_OTHER_KINDS = {
    _GZIP_MAGIC: "is compressed twice; decompress it once",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"BZh": "is compressed with bzip2; decompress it, or compress it with gzip",
    b"\xfd7zXZ\0": "is compressed with xz; decompress it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it, or compress it with gzip",
    b"BAM\1": "is a BAM; turn it into FASTA with samtools fasta",
    b"BCF\2": "is a BCF; turn it into VCF with bcftools view",
    b"\x43\x27\x41\x1a": "is a 2bit; turn it into FASTA with twoBitToFa",
    b"\x1a\x41\x27\x43": "is a 2bit; turn it into FASTA with twoBitToFa",
    # UTF-32 begins with the mark of UTF-16.
    codecs.BOM_UTF16_LE: "is in UTF-16 or UTF-32; save it as UTF-8",
    codecs.BOM_UTF16_BE: "is in UTF-16 or UTF-32; save it as UTF-8",
}

_LONGEST_MAGIC = max(map(len, _OTHER_KINDS))


def read_bytes(path: Path, on_progress: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file chunk by chunk, decompressed if its content is gzip or bgzip.

    Args:
        path: the file. A stream is copied first, see :func:`hyenadna.common.streams.regular_file`.
        on_progress: called with the number of bytes of the file itself that were read since the last call.

    Raises:
        InputError: the file is missing or unreadable, or its compressed data are truncated or corrupt.
    """
    check_file(path)
    file = regular_file(path)
    try:
        with file.open("rb") as raw:
            compressed = _check_compression(path, file, raw)
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


def read_chunks(path: Path, on_progress: Callable[[int], object] | None = None) -> Iterator[bytes]:
    r"""Yield the text of a file chunk by chunk: :func:`read_bytes` without a byte-order mark, each line with ``\n``.

    Lines may end as on Unix, Windows or the old Macintosh.

    Raises:
        InputError: as :func:`read_bytes`; or the file is no text, such as an archive, or text in UTF-16.
    """
    return _unix_lines(_checked_text(path, read_bytes(path, on_progress)))


def read_lines(path: Path, errors: str = "backslashreplace") -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers, from 1, without their ends.

    Args:
        path: the file.
        errors: what becomes of bytes that are not UTF-8, as for ``bytes.decode``. By default they are escaped.

    Raises:
        InputError: as :func:`read_chunks`.
    """
    number = 0
    # Joined at its end: a long line spans many chunks.
    parts: list[bytes] = []
    for chunk in read_chunks(path):
        first, *others = chunk.split(b"\n")
        parts.append(first)
        for following in others:
            number += 1
            yield number, b"".join(parts).decode("utf-8", errors)
            parts = [following]
    if last := b"".join(parts):
        yield number + 1, last.decode("utf-8", errors)


def check_text(path: Path, start: bytes) -> None:
    """Raise InputError if the first bytes of a file are those of an archive, or of another kind of file.

    Args:
        path: the file, for the message.
        start: at least its first 6 bytes, decompressed.
    """
    for magic, problem in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise InputError(f"{path}: {problem}")


def _checked_text(path: Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
    iterator, start = iter(chunks), b""
    while len(start) < _LONGEST_MAGIC and (chunk := next(iterator, b"")):
        start += chunk
    check_text(path, start)
    yield start.removeprefix(codecs.BOM_UTF8)
    yield from iterator


def _unix_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        text = held + chunk if held else chunk
        # The other half of a line's end may be in the next chunk.
        held = b"\r" if text.endswith(b"\r") else b""
        if b"\r" in text:
            text = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield text
    if held:
        yield b"\n"


def _check_compression(path: Path, file: Path, raw: BinaryIO) -> bool:
    head = raw.read(14)
    if not head.startswith(_GZIP_MAGIC):
        raw.seek(0)
        return False
    if head[3:4] == b"\x04" and head[12:14] == b"BC":
        # A bgzip file that was cut between two blocks is valid gzip. Only the end block is missing.
        raw.seek(max(0, file.stat().st_size - len(_BGZF_END)))
        if raw.read() != _BGZF_END:
            raise InputError(f"{path}: truncated bgzip file (no end-of-file block); download or compress it again")
    raw.seek(0)
    return True
