"""Dropout of a model whose masks do not depend on how its batches are cut up.

The mask of an element follows from a seed, the number of its sample, its position and its channel, see
:func:`hyena_kernels.position_dropout`. So one process and many draw the same masks, with any batch size of each, with
accumulated gradients, and with sequences that are divided between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from hyenadna.common.errors import InputError
from hyenadna.model.layers import DroppedByPosition, HyenaDNABackbone


@contextmanager
def dropout_by_position(model: nn.Module, seed: int, samples: Tensor) -> Iterator[None]:
    """Let the dropout on the embedding take its masks from seed, sample, position and channel.

    This holds for forward passes inside of the block, in training; without dropout nothing changes. Backward may be
    called after it. Blocks may be nested: the innermost counts. The masks do not depend on the number of threads, the
    device or the dtype, and the state of random numbers is not used. A packed row counts as one sample.

    Args:
        model: a HyenaDNA model, or what contains one: a model with adapters, in ``DistributedDataParallel``, or under
            FSDP.
        seed: 64 bits, the same in all processes of a run.
        samples: ``(B,)`` int64 on the CPU or the device of the model, the number of each row of the batch. Samples that
            shall have different masks need different numbers. So the number of a window in a run of several epochs
            counts on from epoch to epoch.

    Raises:
        InputError: ``model`` contains no HyenaDNA backbone, ``seed`` has more than 64 bits, or ``samples`` is no tensor
            as described. In a forward pass: the batch has another number of rows than ``samples``, or the model has
            another dropout at work, such as that of ``hyena_dropout`` above 0.
    """
    backbones = [module for module in model.modules() if isinstance(module, HyenaDNABackbone)]
    if not backbones:
        raise InputError(f"dropout_by_position: {type(model).__name__} contains no HyenaDNA backbone: pass the model")
    if not -(1 << 63) <= seed < 1 << 64:
        raise InputError(f"dropout_by_position: seed {seed} has more than 64 bits: pass one from 0 to 2^64 - 1")
    if not isinstance(samples, Tensor) or samples.dtype != torch.int64 or samples.dim() != 1:
        given = f"{samples.dtype} {tuple(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        raise InputError(f"dropout_by_position: samples are {given}: pass an int64 tensor (B,), a number for each row")
    of_embedding = {backbone.embed_dropout for backbone in backbones}
    others = tuple(
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _DropoutNd) and module not in of_embedding
    )
    before = [backbone.dropped_by_position for backbone in backbones]
    try:
        for backbone in backbones:
            backbone.dropped_by_position = DroppedByPosition(seed, samples, others)
        yield
    finally:
        for backbone, state in zip(backbones, before, strict=True):
            backbone.dropped_by_position = state
