"""One process writes to a place at a time: a lock beside the place."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EAGAIN, EDEADLK
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_error
from hyenadna.common.streams import is_output_stream
from hyenadna.common.world import world

LOCK_FILE = ".lock"
"""The lock file within a folder."""

_held: set[int] = set()


@contextmanager
def only_writer(out: Path, *, inside: bool = False) -> Iterator[None]:
    """Hold the lock of ``out`` while the block runs. No other process can hold it, on this machine or over NFS.

    The system drops the lock of a process that has ended, however it ended. The lock file ``.NAME.lock`` holds its host
    and number. It is removed at the end, as are folders that were made for it and are still empty.

    Args:
        out: file or folder that is written. For the standard output, a device or a pipe there is no lock.
        inside: ``out`` is a folder, and its lock file is LOCK_FILE in it. Otherwise it lies beside ``out``.

    Raises:
        InputError: another process holds the lock, which the message names; or the lock file cannot be written.
    """
    if is_output_stream(out):
        yield
        return
    place = Path(os.path.realpath(out))
    path = place / LOCK_FILE if inside else place.with_name(f".{place.name}.lock")
    with ExitStack() as stack:
        try:
            made = [folder for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, made)
            file = _open_locked(path, out)
        except OSError as error:
            raise write_error(out, error, advice="choose another `out`") from error
        stack.callback(_release, path, file)
        yield


P = ParamSpec("P")
R = TypeVar("R")


def one_writer(*, inside: bool = False, make_folders: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function whose first argument has the field ``out``: it holds the lock of ``out`` meanwhile.

    Where several processes work together, the first one holds it for all.

    Args:
        inside: see :func:`only_writer`.
        make_folders: the function makes missing folders above ``out``. Otherwise it refuses them, without a lock.
    """

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(work)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            config: Any = args[0] if args else kwargs["config"]
            with ExitStack() as stack:

                def lock() -> None:
                    if make_folders or Path(config.out).absolute().parent.is_dir():
                        stack.enter_context(only_writer(Path(config.out), inside=inside))

                world().first(lock)
                return work(*args, **kwargs)

        return locked

    return decorate


def _open_locked(path: Path, out: Path) -> int:
    """The descriptor of the lock file, which is locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (EACCES, EAGAIN, EDEADLK):
                holder = os.read(file, 300).decode(errors="replace").strip()
                os.close(file)
                raise InputError(
                    f"{out}: {holder or 'another process'} is writing there; wait until it has ended, or choose "
                    "another `out`"
                ) from error
            print(
                f"warning: {out}: the file system has no locks ({error.strerror}); make sure that no other process "
                "writes there",
                file=sys.stderr,
            )
        # The holder before may have removed the file after it was opened here. Then it is no longer the lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)
    _held.add(file)
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def _release(path: Path, file: int) -> None:
    if file not in _held:
        # A forked child, which closed it.
        return
    _held.discard(file)
    # Before the file is closed, so that nobody else holds its lock yet. Windows removes no open file.
    if os.name != "nt":
        with suppress(OSError):
            path.unlink()
    os.close(file)
    if os.name == "nt":
        with suppress(OSError):
            path.unlink()


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        # Far behind the content, which others could not read otherwise.
        os.lseek(file, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _close_in_child() -> None:
        # A worker process that outlives its parent must not keep the lock.
        for descriptor in _held:
            with suppress(OSError):
                os.close(descriptor)
        _held.clear()

    os.register_at_fork(after_in_child=_close_in_child)
