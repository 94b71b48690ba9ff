"""Files that are written whole or not at all, and the folder of what a stopped run has finished."""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError


def write_files(contents: Mapping[Path, bytes], *, make_folders: bool = False) -> None:
    """Writes files whole or not at all: under temporary names beside them, renamed when the last one is complete.

    Args:
        contents: the bytes of each file.
        make_folders: make the folders that are missing; they go again if the writing fails.

    Raises:
        InputError: a folder does not exist or cannot be written to, or the disk is full.
    """
    drafts = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp") for path in contents}
    folders = [folder for path in contents for folder in path.parents] if make_folders else []
    missing = [folder for folder in folders if not folder.exists()]
    path: Path | None = None
    try:
        for path, content in contents.items():
            if make_folders:
                path.parent.mkdir(parents=True, exist_ok=True)
            drafts[path].write_bytes(content)
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException as error:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            advice = "free some space or choose" if error.errno == errno.ENOSPC else "choose"
            raise InputError(
                f"{path}: cannot be written ({error.strerror or error}); {advice} another place"
            ) from error
        raise


class PartialFolder:
    """A folder ``OUT.partial`` of what a run has finished, from which a stopped run goes on; it goes at the end.

    It is made by :meth:`begin`, when there is something to keep.

    Args:
        out: what the run makes.
        settings: whatever decides what comes out, as JSON knows it; a stopped run goes on only with the same.
        resume: go on with what is there.

    Raises:
        InputError: there is such a folder and no ``resume``, it is of a run with other settings, or of no run.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.out = out
        place = out if out.name not in ("", "..") else out.resolve()
        self.folder = place.with_name(f"{place.name}.partial")
        self._file = self.folder / "settings.json"
        self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        if not self._file.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise InputError(
                    f"{self.folder}: is in the way, and no run has made it; remove it, or choose another --out"
                )
            return
        if not resume:
            raise InputError(f"{self.folder}: holds parts of a stopped run; go on with --resume, or remove the folder")
        stored = json.loads(self._file.read_text(encoding="utf-8"))
        known = self._settings
        if differs := [
            f"{name}: {stored.get(name)!r} there, {known.get(name)!r} asked for"
            for name in sorted(known.keys() | stored.keys())
            if known.get(name) != stored.get(name)
        ]:
            raise InputError(
                f"{self.folder}: holds parts of a run with other options ({'; '.join(differs)}): give the same to go "
                "on with it, or remove the folder"
            )

    def begin(self) -> None:
        """Make the folder, if it is not there yet."""
        if not self._file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_files({self._file: json.dumps(self._settings, indent=1).encode()})

    def remove(self) -> None:
        """Remove the folder with all that it holds, if it is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
