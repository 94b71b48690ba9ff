"""Options of ``hyenadna report``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from hyenadna.common.errors import InputError
from hyenadna.common.options import Input, Options, Output


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"{path}: {'is a file; give its folder' if path.exists() else 'no such folder'}")


def _problem(path: Path) -> str:
    return "is a file; choose a folder" if path.exists() and not path.is_dir() else ""


@dataclass
class ReportConfig(Options):
    """The results, and where their report goes.

    Args:
        out: Folder for report.md, report.html and their pictures. It may exist: the files of an earlier report are
            replaced.
        results: Folders of `hyenadna finetune`, `cancer`, `probe` or `enbed`, or folders above them. Without any, the
            published tables stand alone.
    """

    out: Annotated[Path, Output(_problem)]
    results: list[Annotated[Path, Input(_check_folder)]] = field(default_factory=list)
