"""The finished runs of a fine-tuning, on the disk as each of them ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyenadna.common.files import PartialFolder, atomic_dir

_FILE = "run.json"
_MODEL = "model"


class FinishedRuns(PartialFolder):
    """A folder for each finished run in ``OUT.partial``: its epochs and results, and of the best run the model.

    Args:
        out: folder of the fine-tuning.
        settings: as in :class:`PartialFolder`.
        resume: go on with the runs that are there.
        lower_is_better: for the value on the validation split that decides on the best run.

    Attributes:
        found: epochs and results of the finished runs, by their number.

    Raises:
        InputError: as :class:`PartialFolder`.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool, lower_is_better: bool) -> None:
        super().__init__(out, settings, resume=resume)
        self.found: dict[int, tuple[list[dict[str, Any]], dict[str, Any]]] = {}
        self._sign = -1.0 if lower_is_better else 1.0
        # What begins with a dot was being written when a run was killed.
        for leftover in self.folder.glob(".run-*"):
            shutil.rmtree(leftover)
        for file in sorted(self.folder.glob(f"run-*/{_FILE}")):
            run = json.loads(file.read_text(encoding="utf-8"))
            self.found[int(file.parent.name.removeprefix("run-"))] = run["epochs"], run["result"]

    def add(
        self, number: int, save_model: Callable[[Path], None], epochs: list[dict[str, Any]], result: dict[str, Any]
    ) -> None:
        """Keep a run; ``save_model`` writes its model into the folder that it is given."""
        self.begin()
        with atomic_dir(self._run(number)) as draft:
            save_model(draft / _MODEL)
            (draft / _FILE).write_text(json.dumps({"epochs": epochs, "result": result}), encoding="utf-8")
        self.found[number] = epochs, result
        best = self.best_model()
        for other in self.found:
            if (model := self._run(other) / _MODEL) != best:
                shutil.rmtree(model, ignore_errors=True)

    def best_model(self) -> Path:
        """The model of the run with the best validation, the first of equal ones."""
        best = max(self.found, key=lambda number: (self._sign * self.found[number][1]["valid"], -number))
        return self._run(best) / _MODEL

    def _run(self, number: int) -> Path:
        return self.folder / f"run-{number:04}"
