"""Bytes and lines of files, decompressed where they are gzip or bgzip, with clear errors for damaged ones."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from hyenadna.common.errors import InputError
from hyenadna.common.options import check_file

_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
# The empty block that ends every complete bgzip file (SAM specification, section 4.1.2).
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def read_chunks(path: Path, on_progress: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file chunk by chunk, decompressed if its content is gzip or bgzip.

    Args:
        path: the file.
        on_progress: called with the number of bytes of the file itself that were read since the last call.

    Raises:
        InputError: the file is missing or unreadable, or its compressed data are truncated or corrupt.
    """
    check_file(path)
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


def read_lines(path: Path, errors: str = "backslashreplace") -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers, from 1, without their ends.

    Args:
        path: the file.
        errors: what becomes of bytes that are not UTF-8, as for ``bytes.decode``. By default they are escaped.

    Raises:
        InputError: as `read_chunks`.
    """
    number, rest = 0, b""
    for chunk in read_chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield number, line.rstrip(b"\r").decode("utf-8", errors)
    if rest:
        yield number + 1, rest.rstrip(b"\r").decode("utf-8", errors)


def _check_compression(path: Path, raw: BinaryIO) -> bool:
    head = raw.read(14)
    if not head.startswith(_GZIP_MAGIC):
        raw.seek(0)
        return False
    if head[3:4] == b"\x04" and head[12:14] == b"BC":
        # A bgzip file that was cut between two blocks is valid gzip. Only the end block is missing.
        raw.seek(max(0, path.stat().st_size - len(_BGZF_END)))
        if raw.read() != _BGZF_END:
            raise InputError(f"{path}: truncated bgzip file (no end-of-file block); download or compress it again")
    raw.seek(0)
    return True
