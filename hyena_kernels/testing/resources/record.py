"""What earlier compilations gave, kept in the repository: a test compiles only the kernels that have changed.

A result is kept under a hash of everything that decides it, so one that is found is the result of a compilation. Some
are compiled again all the same, and have to be equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "records"

AGAIN = "0"
"""First digit of the hashes of what is compiled again: a sixteenth, and another one after every change."""


class Record:
    """Results by label, each with the hash of what was compiled.

    Args:
        path: the JSON file. Without one, and with one that does not exist, there are no results at first.
    """

    def __init__(self, path: Path | None = None) -> None:
        text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else "{}"
        self._kept: dict[str, list[Any]] = json.loads(text)

    def get(self, label: str, key: str) -> Any:
        """The result that was kept under this label, or None if another hash or nothing was."""
        kept = self._kept.get(label)
        return kept[1] if kept is not None and kept[0] == key else None

    def put(self, label: str, key: str, result: Any) -> None:
        """Keep a result, as JSON can hold it."""
        self._kept[label] = [key, result]

    def write(self, path: Path) -> None:
        """Write the file, a result a line."""
        lines = [
            f"{json.dumps(label, ensure_ascii=False)}: {json.dumps(kept)}" for label, kept in sorted(self._kept.items())
        ]
        path.parent.mkdir(exist_ok=True)
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
