"""Write files whole or not at all: a file of results is complete whenever a run ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files


def write(path: Path, text: str) -> None:
    """Replace the file by ``text``, or leave it unchanged if writing fails.

    A link stays, and its target is replaced; a pipe or device is written to.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        write_files({path: text.encode()}, make_folders=True)
    except InputError as error:
        raise (error.__cause__ if isinstance(error.__cause__, OSError) else OSError(str(error))) from None


def write_json(path: Path, content: Any) -> None:
    """Replace the file by a JSON document."""
    write(path, json.dumps(content, indent=1) + "\n")
