"""The folder of a training run: its configuration, metrics and checkpoints, each written whole or not at all.

It holds ``config.yaml``, ``splits.bed``, ``metrics.jsonl`` and the newest checkpoints ``step-XXXXXXXX/``, each with the
model in the ``-hf`` format and ``state.pt``, or with the files of all processes. ``model/`` appears once the run has
ended. A name that begins with a dot is a leftover of a run that was killed while writing. The next start removes it.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from safetensors import SafetensorError

from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir, leftovers, remove_dir, write_error, write_files
from hyenadna.common.options import Options
from hyenadna.common.run_layout import (
    CONFIG_FILE,
    FINAL_KEY,
    METRICS_FILE,
    MODEL_FOLDER,
    SPLITS_FILE,
    STATE_FILE,
    plain,
    read_metrics,
)
from hyenadna.common.world import SharedError
from hyenadna.common.writers import LOCK_FILE

_LEFTOVER = leftovers(rf"step-\d{{8,}}|{MODEL_FOLDER}|{CONFIG_FILE}|{METRICS_FILE}|{SPLITS_FILE}")


class _Saves(Protocol):
    """A model or tokenizer of transformers."""

    def save_pretrained(self, save_directory: str, /) -> Any:
        """Write its files into a folder."""


class RunFolder:
    """A training run's folder. The docstring of the module lists its content.

    Attributes:
        path: the folder.
        metrics: the JSONL file of metrics, with a row every few steps and one for every validation.
        splits: BED of the training, validation and test intervals.
        model: the folder of the finished model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / METRICS_FILE
        self.splits = path / SPLITS_FILE
        self.model = path / MODEL_FOLDER

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first. A folder has this name only while it is complete."""
        found = [p for p in self.path.glob("step-*") if p.name[5:].isdigit() and p.is_dir()]
        return sorted(found, key=lambda p: int(p.name[5:]))

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` steps."""
        return self.path / f"step-{step:08d}"

    def start(self, config: Options, *, resume: bool) -> Path | None:
        """Make the folder ready for a run.

        Args:
            config: the options, a dataclass.
            resume: whether the folder may hold a run of the same configuration.

        Returns:
            The checkpoint to continue from, or None for a run from the start.

        Raises:
            InputError: the folder holds a run and ``resume`` is False; a run of another configuration, whose
                differences are named; parts of a run without its configuration; or it cannot be written to.
        """
        with self._writing():
            saved = self.path / CONFIG_FILE
            if saved.exists():
                if not resume:
                    raise InputError(
                        f"{self.path}: already holds a run; continue with `resume`, or choose another `out`"
                    )
                self._check_same(config)
            elif self.path.exists():
                names = {entry.name for entry in self.path.iterdir() if not _LEFTOVER.fullmatch(entry.name)} - {
                    LOCK_FILE
                }
                if {METRICS_FILE, MODEL_FOLDER} & names or self.checkpoints() or (resume and names):
                    raise InputError(
                        f"{self.path}: holds files, but no run to resume ({CONFIG_FILE} is missing); choose another "
                        "`out`"
                    )
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in self.path.iterdir():
                if _LEFTOVER.fullmatch(leftover.name):
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            if not saved.exists():
                write_files({saved: yaml.safe_dump(plain(config), sort_keys=False).encode()})
            found = self.checkpoints()
        return found[-1] if found else None

    def _check_same(self, config: Options) -> None:
        saved = self.path / CONFIG_FILE
        try:
            before = yaml.safe_load(saved.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError):
            before = None
        if not isinstance(before, dict):
            raise InputError(f"{saved}: damaged, holds no configuration; choose another `out`")
        now = plain(config)
        changed = [n for n in sorted((before.keys() | now.keys()) - {*config.runtime}) if before.get(n) != now.get(n)]
        if changed:
            values = "; ".join(f"{n}: {before.get(n)!r} there, {now.get(n)!r} now" for n in changed)
            options = ", ".join(f"`{name}`" for name in changed)
            raise InputError(
                f"{self.path}: holds a run of another configuration ({values}): to continue it, pass `config` "
                f"{self.path / CONFIG_FILE} and leave out {options}; or choose another `out`"
            )

    def save(
        self, step: int, model: _Saves, state: Mapping[str, Any], *, keep: int, tokenizer: _Saves | None = None
    ) -> Path:
        """Write the checkpoint of a step, and remove older ones.

        Args:
            step: finished optimizer steps.
            model: the model.
            state: the rest of the training's state: tensors, numbers and strings.
            keep: number of newest checkpoints to keep.
            tokenizer: the model's tokenizer, for who loads the checkpoint with transformers.

        Returns:
            The folder of the checkpoint.

        Raises:
            InputError: the folder cannot be written to, or the disk is full. Earlier checkpoints stay as they are.
        """
        final = self.checkpoint(step)
        # Through memory: torch's own zip writer reports a full disk as a RuntimeError.
        pickled = io.BytesIO()
        torch.save(dict(state), pickled)
        with self._writing(), atomic_dir(final) as partial:
            model.save_pretrained(str(partial))
            if tokenizer is not None:
                tokenizer.save_pretrained(str(partial))
            (partial / STATE_FILE).write_bytes(pickled.getbuffer())
        self.prune(keep)
        return final

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest ``keep``.

        Raises:
            InputError: one cannot be removed.
        """
        with self._writing():
            for old in self.checkpoints()[:-keep]:
                remove_dir(old)

    def save_model(self, model: _Saves, tokenizer: _Saves) -> Path:
        """Write the finished model and its tokenizer, and replace an earlier one.

        Raises:
            InputError: the folder cannot be written to. The checkpoints stay as they are.
        """
        with self._writing(), atomic_dir(self.model) as partial:
            model.save_pretrained(str(partial))
            tokenizer.save_pretrained(str(partial))
        return self.model

    def load_state(self, checkpoint: Path) -> dict[str, Any]:
        """The state saved with a checkpoint.

        Raises:
            InputError: the file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(
                f"{checkpoint / STATE_FILE}: damaged ({type(error).__name__}); remove {checkpoint} to continue from "
                "an earlier checkpoint"
            ) from error
        return state

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to the metrics. JSON has no NaN and no infinity: both become null.

        Raises:
            InputError: the file cannot be written to.
        """
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self._writing(), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drop the rows that a run resumed after ``step`` writes again: later ones and the final validation.

        Raises:
            InputError: the file is damaged or cannot be written to.
        """
        if self.metrics.exists():
            rows = [r for r in read_metrics(self.metrics) if r["step"] <= step and FINAL_KEY not in r]
            with self._writing():
                write_files({self.metrics: "".join(json.dumps(row) + "\n" for row in rows).encode()})

    @contextmanager
    def writing_together(self) -> Iterator[None]:
        """A block in which all processes write a checkpoint, and an InputError is raised by all of them.

        Raises:
            InputError: the same in every process, with the advice of the other methods.
        """
        try:
            with self._writing():
                yield
        except InputError as error:
            raise SharedError(str(error)) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn failures to write, also those that other code has wrapped, into one InputError with advice."""
        try:
            yield
        except (OSError, InputError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError | SafetensorError):
                raise
            raise write_error(
                self.path, reason, advice="choose another `out`", if_full="free some space and continue with `resume`"
            ) from error
