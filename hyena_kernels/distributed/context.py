"""``context_parallel``: lets the operators of a model take sequences that are split over processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hyena_kernels.distributed.shards import DTYPES, FILTERS, ContextSettings, group_of
from hyena_kernels.operator import HyenaOperator

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def context_parallel(
    model: nn.Module,
    group: ProcessGroup | DeviceMesh | None = None,
    *,
    filters: str = "channels",
    chunks: int = 2,
    wire: torch.dtype | None = None,
) -> nn.Module:
    """Let every :class:`~hyena_kernels.HyenaOperator` of a model take this rank's positions of a sequence.

    It sets the attribute ``context`` of the operators and changes nothing else: parameters, ``state_dict()`` and
    configuration stay. Which rank holds which positions comes with a call, ``shards=`` of the operator, or with a block
    of :func:`sequence_shards`. An operator with a context refuses a call without either.

    Gradients are those of this rank's positions and channels. They have to be summed over the group, as those of ranks
    with other sequences are.

    Args:
        model: an operator, or any model that holds some.
        group: the process group over which sequences are split, or a mesh of one dimension. None is the default group.
        filters: who computes the long filters. With ``"channels"`` each rank computes all taps of its own channels, and
            nothing crosses. With ``"sequence"`` it computes its share of the taps of all channels, and an all-to-all
            brings them to their ranks: the network of the filter then runs once, not once a rank.
        chunks: number of groups in which the channels travel.
        wire: dtype in which values cross. None is that of the operator's input.

    Returns:
        The model.

    Raises:
        ValueError: the model holds no operator, the mesh has several dimensions, or ``filters`` or ``chunks`` has
            another value.
        TypeError: ``group`` is neither a group nor a mesh, or ``wire`` is no dtype of a signal.
    """
    if filters not in FILTERS:
        raise ValueError(f"context_parallel: filters is {filters!r}, expected one of {FILTERS}")
    if chunks < 1:
        raise ValueError(f"context_parallel: chunks must be at least 1, got {chunks}")
    if wire is not None and wire not in DTYPES:
        raise TypeError(f"context_parallel: wire is {wire}, expected float16, bfloat16, float32, float64 or None")
    operators = [module for module in model.modules() if isinstance(module, HyenaOperator)]
    if not operators:
        raise ValueError(f"context_parallel: {type(model).__name__} holds no HyenaOperator")
    process_group = group_of(group)
    name = None if process_group is None else process_group.group_name
    for operator in operators:
        operator.context = ContextSettings(name, filters, chunks, wire)
    return model
