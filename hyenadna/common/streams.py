"""What is read or written only once: standard input and output, pipes and devices. ``-`` is one of the first two.

A command may read its inputs several times. So it copies a stream into a temporary file, and reads that.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, TextIO

from hyenadna.common.errors import InputError
from hyenadna.common.launch import Launch

STANDARD = Path("-")
"""Standard input where a file is read, standard output where one is written."""

_NAMES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
# The kernel follows as many links.
_MOST_LINKS = 40


class _Copies:
    """Copies of the streams that a command reads. The folder is made for the first one."""

    def __init__(self) -> None:
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.files: dict[object, Path] = {}


_COPIES: ContextVar[_Copies | None] = ContextVar("copies", default=None)


@contextmanager
def copied_streams() -> Iterator[None]:
    """Within the block :func:`regular_file` copies streams. The copies are removed at its end."""
    if _COPIES.get() is not None:
        yield
        return
    copies = _Copies()
    token = _COPIES.set(copies)
    try:
        yield
    finally:
        _COPIES.reset(token)
        if copies.folder is not None:
            copies.folder.cleanup()


def regular_file(path: Path) -> Path:
    """``path`` itself, or the copy of a stream, which is made on the first call.

    Raises:
        InputError: ``path`` is a stream, but no command is running that would keep the copy; several processes of
            torchrun would share it; or it cannot be copied.
    """
    if not is_input_stream(path):
        return path
    if (size := Launch.of().size) > 1:
        raise InputError(
            f"{path}: is no file, and {size} processes cannot all read it; save what it gives to a file first"
        )
    copies = _COPIES.get()
    if copies is None:
        raise InputError(f"{path}: is no file, and can be read only once; save what it gives to a file first")
    key = identity(path, is_input=True)
    if key not in copies.files:
        if copies.folder is None:
            copies.folder = tempfile.TemporaryDirectory(prefix="hyenadna-")
        copy = Path(copies.folder.name) / f"input-{len(copies.files)}"
        try:
            with _open_input(path) as stream, copy.open("wb") as file:
                shutil.copyfileobj(stream, file)
        except OSError as error:
            raise InputError(f"{path}: cannot be copied to {copy.parent} ({error.strerror or error})") from error
        copies.files[key] = copy
    return copies.files[key]


def is_input_stream(path: Path) -> bool:
    """Whether a path to read is standard input, a pipe or a device."""
    return path == STANDARD or _is_pipe_or_device(path)


def is_output_stream(path: Path) -> bool:
    """Whether a path to write is standard output, another open file such as /dev/fd/3, a pipe or a device."""
    return path == STANDARD or _descriptor(path) is not None or _is_pipe_or_device(path)


def is_standard_output(path: Path) -> bool:
    """Whether a path to write is standard output."""
    return path == STANDARD or _descriptor(path) == 1


@contextmanager
def open_output_stream(path: Path) -> Iterator[BinaryIO]:
    """Open what :func:`is_output_stream` is true for. What was written before stays, also in a redirected file."""
    sys.stdout.flush()
    number = _descriptor(path)
    if path == STANDARD:
        number = _number(sys.stdout)
        if number is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
    # Opened by its name, a file that standard output is redirected to would be emptied.
    with open(path if number is None else os.dup(number), "wb") as file:
        yield file


def identity(path: Path, *, is_input: bool) -> object:
    """A value that two paths share if they are the same file. It follows links, hard links and open files."""
    number = (0 if is_input else 1) if path == STANDARD else _descriptor(path)
    try:
        found = path.stat() if number is None else os.fstat(number)
    except OSError:
        return os.path.normcase(os.path.realpath(path))
    return found.st_dev, found.st_ino


def same_file(output: Path, source: Path) -> bool:
    """Whether writing to ``output`` changes what is read from ``source``. Devices such as /dev/null do not change."""
    place = identity(output, is_input=False)
    return place == identity(source, is_input=True) and not _is_device(source)


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode if path != STANDARD else os.fstat(0).st_mode)
    except OSError:
        return False


@contextmanager
def _open_input(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


def _number(stream: TextIO) -> int | None:
    """The number of an open file; None for one in memory."""
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


def _is_pipe_or_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _descriptor(path: Path) -> int | None:
    """The number of the open file that a path such as /dev/stdout or /dev/fd/3 stands for, also through links."""
    text = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        if match := re.fullmatch(r"/(?:dev|proc/(?:self|thread-self|(\d+)))/fd/(\d+)", text):
            return int(match[2]) if match[1] in (None, str(os.getpid())) else None
        if text in _NAMES:
            return _NAMES[text]
        if not os.path.islink(text):
            return None
        text = os.path.normpath(os.path.join(os.path.dirname(text), os.readlink(text)))
    return None
