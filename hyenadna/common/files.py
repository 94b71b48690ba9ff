"""Files and folders that are written whole or not at all, and the folder that keeps the parts of an unfinished run.

A path may also name what is no regular file. A link is followed, so that its target is replaced and the link stays. A
pipe or device is written to, and never renamed over; :mod:`hyenadna.common.streams` finds them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hyenadna.common.errors import InputError
from hyenadna.common.streams import is_output_stream, open_output_stream
from hyenadna.common.world import world


def write_error(
    place: Path,
    error: Exception,
    *,
    advice: str = "choose another place",
    if_full: str = "free some space or choose another place",
) -> InputError:
    """The InputError that says why ``place`` cannot be written, and what to do.

    Args:
        place: file or folder that the message begins with.
        error: what the system or safetensors raised.
        advice: what to do, unless the disk is full.
        if_full: what to do when the disk is full.
    """
    text, full = getattr(error, "strerror", None) or str(error), os.strerror(errno.ENOSPC)
    if getattr(error, "errno", None) == errno.ENOSPC or full in text:
        text, advice = full, if_full
    return InputError(f"{place}: cannot be written ({text}); {advice}")


@contextmanager
def atomic_file(path: Path, *, make_folders: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and is removed otherwise.

    The new file keeps the permissions of the old one. If ``path`` is a link, the file that it leads to is replaced. To
    a pipe, device or standard output the content is written at the end of the block.

    Args:
        path: the file.
        make_folders: make the missing folders above it; they are removed again if the block fails.

    Yields:
        The path to write to.

    Raises:
        InputError: the folder does not exist or cannot be written to, the file is write-protected, or the disk is
            full.
    """
    if is_output_stream(path):
        with _writing(path), tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / f"draft{path.suffix}"
            yield draft
            with open_output_stream(path) as stream, draft.open("rb") as content:
                shutil.copyfileobj(content, stream)
        return
    place = real_place(path)
    draft = _beside(place, "tmp")
    with _writing(path), _parents(place) if make_folders else ExitStack():
        try:
            yield draft
            put(draft, place)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


def output_problem(path: Path) -> str:
    """Why a file cannot be written at ``path``, as the end of a message; empty if nothing is known to be wrong."""
    try:
        mode = path.stat().st_mode
    except OSError:
        # It does not exist yet, or cannot be reached, which the attempt to write it reports.
        return ""
    if stat.S_ISDIR(mode):
        return "is a folder; choose a file"
    if is_output_stream(path):
        return ""
    if not stat.S_ISREG(mode):
        return "is neither a file nor a pipe; choose a file"
    # Who may write everywhere does not mean to lose a protected file either.
    if not mode & 0o222 or not os.access(path, os.W_OK):
        return "is write-protected; choose another place, or allow writing to it"
    return ""


def partial_place(out: Path) -> Path:
    """The file or folder ``OUT.partial`` that holds what an unfinished run has written."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}.partial")


def real_place(path: Path) -> Path:
    """The place of the file that ``path`` names: what a link leads to, even if nothing is there yet.

    Raises:
        InputError: what is there cannot be replaced by a file.
    """
    if problem := output_problem(path):
        raise InputError(f"{path}: {problem}")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def put(draft: Path, place: Path) -> None:
    """Rename a finished file to ``place``. It takes over owner and permissions of the file that is there."""
    with suppress(FileNotFoundError):
        before = place.stat()
        if hasattr(os, "chown"):
            # Only root may give a file away.
            with suppress(PermissionError):
                os.chown(draft, before.st_uid, before.st_gid)
        draft.chmod(stat.S_IMODE(before.st_mode))
    draft.replace(place)


def write_files(contents: Mapping[Path, bytes], *, make_folders: bool = False) -> None:
    """Write files whole or not at all: none takes its place before the last one is complete.

    Args:
        contents: the bytes of each file; they take their places in this order.
        make_folders: make the missing folders; they are removed again if the writing fails.

    Raises:
        InputError: a folder does not exist or cannot be written to, or the disk is full.
    """
    with ExitStack() as stack:
        # A stack is left in reverse order.
        drafts = {
            path: stack.enter_context(atomic_file(path, make_folders=make_folders)) for path in reversed(list(contents))
        }
        for path, content in contents.items():
            with _writing(path):
                drafts[path].write_bytes(content)


@contextmanager
def atomic_dir(target: Path, *, merge: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends well, and is removed otherwise.

    Missing folders above ``target`` are made, and removed again if the block fails.

    Args:
        target: the folder.
        merge: move the files into ``target`` one by one; its other files stay. Otherwise the whole folder is replaced,
            once the files are flushed to the disk.

    Yields:
        The folder to write into.

    Raises:
        InputError: the folder cannot be written: a full disk, no permission.
    """
    with _writing(target):
        place = target.resolve()
        draft = _beside(place, "tmp")
        with _parents(place):
            try:
                draft.mkdir()
                yield draft
                if merge:
                    place.mkdir(exist_ok=True)
                    for file in draft.iterdir():
                        _merge(file, place / file.name)
                else:
                    put_dir(draft, place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)


def draft_beside(place: Path) -> Path:
    """A name for a temporary folder beside ``place``, for code that cannot be a block of :func:`atomic_dir`."""
    return _beside(place, "tmp")


def put_dir(draft: Path, place: Path) -> None:
    """Flush a finished folder to the disk, and rename it to ``place``. A folder that is there is replaced."""
    for file in draft.rglob("*"):
        _flush(file)
    _replace_dir(draft, place)


def remove_dir(folder: Path) -> None:
    """Remove a folder. A kill meanwhile leaves it complete, or under the name of a leftover."""
    shutil.rmtree(folder.rename(_beside(folder, "old")))


def leftovers(names: str) -> re.Pattern[str]:
    """Matches what a killed process may leave beside files and folders whose names match the expression ``names``.

    A model that is saved within an `atomic_dir` has a temporary folder of its own, hence two dots and two endings.
    """
    return re.compile(rf"\.{{1,2}}({names})(\.[0-9a-f]{{32}}\.(tmp|old))+")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{ending}")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise write_error(path, error) from error


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the missing folders above ``path``; remove them if the block fails."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _replace_dir(draft: Path, place: Path) -> None:
    if place.exists():
        old = place.rename(_beside(place, "old"))
        try:
            draft.rename(place)
        except BaseException:
            old.rename(place)
            raise
        shutil.rmtree(old)
    else:
        draft.rename(place)
    _flush(place.parent)


def _merge(draft: Path, target: Path) -> None:
    """Move a file or folder of a draft to its place. A link at the place stays, and its target is replaced."""
    if draft.is_dir():
        draft.replace(target)
        return
    with atomic_file(target) as content:
        # A link may lead to another disk.
        shutil.move(draft, content)


def _flush(path: Path) -> None:
    """Have the system write a file or folder to the disk, so that a power failure cannot leave holes in it."""
    if os.name == "nt":
        # Windows flushes only files that are open for writing, and no folders.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SETTINGS_FILE = "settings.json"


class PartialFolder:
    """A folder ``OUT.partial`` with the finished parts of a run, so that it can be resumed. Deleted on success.

    A run that writes to a pipe, a device or standard output has a temporary folder instead, and cannot be resumed.

    :meth:`begin` makes it, when there is a first part to keep. Several processes have one folder: the first of them
    looks for it, and removes it. All make this object together.

    Args:
        out: file or folder that the run writes.
        settings: the options that decide the result, as JSON values. A run is resumed only with equal settings.
        resume: resume from the parts in the folder. torchrun's restart of failed processes resumes too.

    Raises:
        InputError: the folder exists and ``resume`` is False, it belongs to a run with other settings, or to no run.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.out = out
        self._is_kept = not is_output_stream(out)
        if resume and not self._is_kept:
            raise InputError(f"`resume`: {out} is no file that parts of a stopped run could lie beside")
        self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.folder = world().first(lambda: self._find(resume=resume))
        self._file = self.folder / _SETTINGS_FILE

    def _find(self, *, resume: bool) -> Path:
        """The folder, which may not exist yet."""
        if not self._is_kept:
            return partial_place(Path(tempfile.gettempdir()) / f"hyenadna-{uuid.uuid4().hex}")
        folder = partial_place(self.out)
        self._check(folder, resume=resume or world().has_begun(self.out))
        world().begin(self.out)
        return folder

    def _check(self, folder: Path, *, resume: bool) -> None:
        file = folder / _SETTINGS_FILE
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"{folder}: is in the way and was made by no run; remove it, or choose another `out`")
            return
        if not resume:
            raise InputError(f"{folder}: holds parts of a stopped run; continue it with `resume`, or remove the folder")
        try:
            stored = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}: is damaged ({error}); remove {folder}") from error
        known = self._settings
        if differs := [
            f"{name}: {stored.get(name)!r} there, {known.get(name)!r} now"
            for name in sorted(known.keys() | stored.keys())
            if known.get(name) != stored.get(name)
        ]:
            raise InputError(
                f"{folder}: holds parts of a run with other options ({'; '.join(differs)}): give the same options "
                "to resume it, or remove the folder"
            )

    def begin(self) -> None:
        """Make the folder if it does not exist."""
        if not self._file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_files({self._file: json.dumps(self._settings, indent=1).encode()})

    def begin_together(self) -> None:
        """Make the folder before several processes write into it. A process alone does so when it has a part to keep.

        Raises:
            InputError: another process does not see the folder.
        """
        if world().size == 1:
            return
        world().first(self.begin)
        with world().agreed():
            if not self._file.is_file():
                raise InputError(
                    f"{self.folder}: process {world().rank} does not see this folder of the first process; all "
                    "processes need one file system, which their machines share"
                )

    @contextmanager
    def keep(self, finished: Callable[[], str]) -> Iterator[None]:
        """If the block fails, add to its error what is finished and kept. If nothing is, remove the folder.

        The first process does so for all.

        Args:
            finished: what is finished, such as "5 sequences"; "" if nothing is. It is called after the failure.

        Raises:
            InputError: the block raised one, or an OSError.
            KeyboardInterrupt: the block was interrupted.
        """
        try:
            yield
        except (InputError, OSError, KeyboardInterrupt) as error:
            if not world().is_first:
                raise
            kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError
            if not (self._is_kept and (kept := finished())):
                self.remove()
                raise kind(str(error) or "nothing was finished, and nothing is kept") from error
            reason = f"{error}; " if str(error) else ""
            raise kind(
                f"{reason}{kept} are finished and kept in {self.folder}: the same command with `resume` continues with "
                "the others"
            ) from error

    def remove(self) -> None:
        """Remove the folder and everything in it, if it exists."""
        shutil.rmtree(self.folder, ignore_errors=True)
