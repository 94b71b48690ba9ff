"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hyenadna.errors import InputError


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
