"""The checkpoints of a run in either format: files of one process, or of all of them together."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hyenadna.baselines.loading import LanguageModel
from hyenadna.common.world import world
from hyenadna.model.gathering import gather, mesh_of
from hyenadna.model.locate import DCP_FOLDER
from hyenadna.model.tokenizer import DNATokenizer
from hyenadna.pretraining.config import PretrainConfig
from hyenadna.training.run_dir import RunFolder


class WholeModel:
    """A model whose weights the first process has in one piece, to be saved there. All processes make it.

    Args:
        model: the model, perhaps sharded.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        sharded = mesh_of(model.parameters()) is not None
        self._weights = gather(model, model.state_dict(), keep=world().is_first) if sharded else None

    def save_pretrained(self, folder: str, /) -> None:
        """As that of the model, in this process alone."""
        self._model.save_pretrained(folder, state_dict=self._weights)


class Checkpoints:
    """Writes and reads the checkpoints of a run. All processes call every method.

    Args:
        folder: the folder of the run.
        config: gives the format, the number to keep, and whether the processes go on while they write.
        tokenizer: the model's, for who loads a checkpoint with transformers.
    """

    def __init__(self, folder: RunFolder, config: PretrainConfig, tokenizer: DNATokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._keep, self._in_background = config.keep, config.async_checkpoint
        self._by_all = config.writes_together
        self._saving: Any = None

    def save(self, step: int, model: LanguageModel, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step, and remove older ones.

        Args:
            step: finished optimizer steps.
            model: the model.
            optimizer: its optimizer.
            state: the rest of the training's state, and ``optimizer.state_dict()`` as ``optimizer``.

        Raises:
            InputError: the folder cannot be written to, or the disk is full. Earlier checkpoints stay as they are.
        """
        self.finish()
        if not self._by_all:
            whole = WholeModel(model)
            if mesh_of(model.parameters()) is not None:
                from hyenadna.parallel.checkpoints import plain_optimizer_state

                state = {**state, "optimizer": plain_optimizer_state(model, optimizer)}
            tokenizer = self._tokenizer
            world().first(lambda: self._folder.save(step, whole, state, keep=self._keep, tokenizer=tokenizer))
            return
        from hyenadna.parallel import checkpoints

        save = checkpoints.save_async if self._in_background else checkpoints.save
        random = {name: base64.b64encode(bytes(value.tolist())).decode() for name, value in state["random"].items()}
        kept = {name: value for name, value in state.items() if name != "optimizer"} | {"random": random}
        kept |= {"processes": world().size, "torch": torch.__version__}
        with self._folder.writing_together():
            self._saving = save(self._folder.checkpoint(step), model, optimizer, kept, tokenizer=self._tokenizer)
        if not self._in_background:
            self._prune()

    def is_written(self) -> bool:
        """Whether a checkpoint is on its way, and this process has written its part."""
        return self._saving is not None and bool(self._saving.done())

    def finish(self) -> None:
        """Wait for a checkpoint that is on its way, and give it its name.

        Raises:
            InputError: it could not be written.
        """
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        with self._folder.writing_together():
            saving.wait()
        self._prune()

    def _prune(self) -> None:
        world().first(lambda: self._folder.prune(self._keep))

    def read(self, checkpoint: Path) -> dict[str, Any]:
        """The state of a checkpoint, as :meth:`save` took it. That of all processes has no ``optimizer``.

        Raises:
            InputError: it is damaged.
        """
        if not _is_of_all(checkpoint):
            with world().agreed():
                return self._folder.load_state(checkpoint)
        from hyenadna.parallel.checkpoints import read_state

        state = read_state(checkpoint)
        random = {name: base64.b64decode(text) for name, text in state["random"].items()}
        state["random"] = {name: torch.tensor(list(value), dtype=torch.uint8) for name, value in random.items()}
        return state

    def restore(
        self,
        checkpoint: Path,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
    ) -> None:
        """Give a model and its optimizer what processes share out. ``state`` keeps the rest, without it."""
        if _is_of_all(checkpoint):
            from hyenadna.parallel.checkpoints import load

            load(checkpoint, model, optimizer)
        elif mesh_of(model.parameters()) is not None:
            from hyenadna.parallel.checkpoints import load_plain_optimizer_state

            load_plain_optimizer_state(model, optimizer, state.pop("optimizer"))


def _is_of_all(checkpoint: Path) -> bool:
    """Whether all processes have written a checkpoint together."""
    return (checkpoint / DCP_FOLDER).is_dir()
