"""Gradual unfreezing: the head is trained first, then one more layer at a time, from the last one backwards.

Source: Howard and Ruder, "Universal language model fine-tuning for text classification", 2018 (arXiv 1801.06146),
section 3.3. Malusare et al. 2024 (arXiv 2311.02333) train ENBED so and give no schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from hyenadna.common.errors import InputError

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig

_LAYERS = {"hyenadna": "hyena.backbone.layers", "hyenadna-gpt2": "gpt.backbone.h", "enbed": "encoder.block"}
"""Where the classifiers of each ``model_type`` hold their layers."""


class Unfreezing:
    """Which parts of a model are trained in an epoch.

    Every stage trains the parts of the one before and one part more. Parts that are not trained keep their weights,
    get no gradient, and run in ``eval()``, without dropout.

    Args:
        config: the method, ``unfreeze_every``, ``unfreeze_layers`` and the epochs.
        model: the module that is trained. What needs no gradient here is never trained. Parameters that no stage trains
            need none afterwards.

    Attributes:
        last_start: the epoch with which the last stage begins, from 1.

    Raises:
        InputError: the model has fewer layers than are to be unfrozen, or the last stage comes after the last epoch.
    """

    def __init__(self, config: FinetuneConfig, model: Any) -> None:
        self._model = model
        self._every = config.unfreeze_every
        self._stages: list[list[nn.Module]] = [[model]]
        if config.method == "frozen":
            self._stages = [[model.score]]
        elif self._every:
            self._stages = _stages(model, config.unfreeze_layers)
        self.last_start = 1 + self._every * (len(self._stages) - 1)
        if self.last_start > config.epochs:
            fitting = (config.epochs - 1) // self._every
            raise InputError(
                f"`unfreeze_every` {self._every}: the last of {len(self._stages)} stages begins with epoch "
                f"{self.last_start}, and `epochs` is {config.epochs}: take at least {self.last_start} `epochs`"
                + (f", or `unfreeze_layers` {fitting}" if fitting else "")
            )
        self._learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._open(self._stages[-1])

    def stage(self, epoch: int) -> int:
        """The stage of an epoch, counted from 1. Stage 0 trains the head alone."""
        return min((epoch - 1) // self._every, len(self._stages) - 1) if self._every else 0

    def begin(self, epoch: int) -> None:
        """Set ``requires_grad`` and ``train()`` or ``eval()`` of all parts for an epoch, counted from 1."""
        parts = self._stages[self.stage(epoch)]
        self._open(parts)
        self._model.eval()
        for part in parts:
            part.train()

    def _open(self, parts: list[nn.Module]) -> None:
        trained = {id(parameter) for part in parts for parameter in part.parameters()}
        for parameter in self._learnt:
            parameter.requires_grad_(id(parameter) in trained)


def _stages(model: Any, layers: int) -> list[list[nn.Module]]:
    """The parts that each stage trains: the head, then layers from the last one. 0 ends with the whole model."""
    found = list(model.get_submodule(_LAYERS[model.config.model_type]))
    if layers > len(found):
        raise InputError(f"`unfreeze_layers` {layers}: the model has {len(found)} layers; take at most so many")
    backwards = found[::-1][: layers or None]
    stages = [[model.score, *backwards[:count]] for count in range(len(backwards) + 1)]
    return stages if layers else [*stages, [model]]
