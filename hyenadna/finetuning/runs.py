"""The runs of a fine-tuning, one for each seed and fold, and their folders while some of them are unfinished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.common.files import PartialFolder, atomic_dir
from hyenadna.common.world import world
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

    A folder appears when its run is finished. Processes may write different runs at the same time, and the first one
    removes models. After an error a process leaves a file for the others, which look for it between two runs.

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

    def unfinished(self, runs: Sequence[Run]) -> list[int]:
        """The places in ``runs`` of those without a folder."""
        return [place for place, run in enumerate(runs) if not self.is_finished(run)]

    def begin_together(self) -> None:
        """As :meth:`PartialFolder.begin_together`. No process has stopped yet."""
        world().first(lambda: self._stopped().unlink(missing_ok=True))
        super().begin_together()

    @contextmanager
    def stop_others(self) -> Iterator[None]:
        """If the block fails, have the other processes end after their current runs."""
        try:
            yield
        except (InputError, OSError):
            if world().size > 1:
                with suppress(OSError):
                    self._stopped().touch()
            raise

    def others_stopped(self) -> bool:
        """Whether another process has failed."""
        return world().size > 1 and self._stopped().exists()

    def check_complete(self, runs: Sequence[Run]) -> None:
        """Raise InputError if this process does not see a run that another one has finished."""
        if missing := self.unfinished(runs):
            raise InputError(
                f"{self.folder}: the first process does not see {runs[missing[0]].name}, which another one has "
                "finished; all processes need one file system, which their machines share"
            )

    def load(self, run: Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The epochs and the result of a finished run."""
        saved = json.loads((self._path(run) / _RESULT_FILE).read_text(encoding="utf-8"))
        return saved["epochs"], saved["result"]

    def keep_best_model(self, runs: Sequence[Run]) -> Path:
        """Remove the models of all finished runs but the best on the validation split, the first of equal ones.

        Only the first process removes them, so that none looks for the best among folders that another one changes.

        Returns:
            The model of that run.
        """
        finished = [run for run in runs if self.is_finished(run)]
        best = self._best(finished, key=lambda run: self.load(run)[1]["valid"])
        for run in finished:
            if run is not best and world().is_first:
                shutil.rmtree(self._path(run) / _MODEL_FOLDER, ignore_errors=True)
        return self._path(best) / _MODEL_FOLDER

    def _stopped(self) -> Path:
        return self.folder / "stopped"

    def _path(self, run: Run) -> Path:
        return self.folder / (f"seed-{run.seed}" + (f"-fold-{run.fold}" if run.fold else ""))
