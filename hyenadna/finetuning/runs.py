"""The runs of a fine-tuning, one for each seed and fold, and their folders while some of them are unfinished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyenadna.common.files import PartialFolder, atomic_dir
from hyenadna.finetuning.data import Splits
from hyenadna.finetuning.models import save_model

_RESULT_FILE = "run.json"
_MODEL_FOLDER = "model"


class Run(NamedTuple):
    """One run. ``fold`` counts from 1, and is 0 without cross-validation."""

    data: Splits
    seed: int
    fold: int

    @property
    def name(self) -> str:
        """Name of the run in messages."""
        return f"seed {self.seed}" + (f", fold {self.fold}" if self.fold else "")


class RunFolders(PartialFolder):
    """``OUT.partial``: a folder ``seed-0``, or ``seed-0-fold-1``, for each finished run, with its results and model.

    A folder appears when its run is finished. Processes may write different runs at the same time.

    Args:
        out: folder of the fine-tuning.
        settings: see :class:`PartialFolder`.
        resume: keep the finished runs that are there.
        lower_is_better: for the value on the validation split that decides on the best run.

    Raises:
        InputError: see :class:`PartialFolder`.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool, lower_is_better: bool) -> None:
        super().__init__(out, settings, resume=resume)
        self._best = min if lower_is_better else max

    def save(self, run: Run, model: Any, epochs: list[dict[str, Any]], result: dict[str, Any]) -> None:
        """Write the folder of a finished run."""
        self.begin()
        with atomic_dir(self._path(run)) as draft:
            save_model(model, draft / _MODEL_FOLDER)
            (draft / _RESULT_FILE).write_text(json.dumps({"epochs": epochs, "result": result}), encoding="utf-8")

    def is_finished(self, run: Run) -> bool:
        """Whether the run has a folder."""
        return (self._path(run) / _RESULT_FILE).is_file()

    def load(self, run: Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The epochs and the result of a finished run."""
        saved = json.loads((self._path(run) / _RESULT_FILE).read_text(encoding="utf-8"))
        return saved["epochs"], saved["result"]

    def keep_best_model(self, runs: Sequence[Run]) -> Path:
        """Remove the models of all finished runs but the best on the validation split, the first of equal ones.

        Returns:
            The model of that run.
        """
        finished = [run for run in runs if self.is_finished(run)]
        best = self._best(finished, key=lambda run: self.load(run)[1]["valid"])
        for run in finished:
            if run is not best:
                shutil.rmtree(self._path(run) / _MODEL_FOLDER, ignore_errors=True)
        return self._path(best) / _MODEL_FOLDER

    def _path(self, run: Run) -> Path:
        return self.folder / (f"seed-{run.seed}" + (f"-fold-{run.fold}" if run.fold else ""))
