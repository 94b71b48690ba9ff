"""The gradients that a backward pass returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients_like(
    tensors: Sequence[Tensor | None], needs: Sequence[bool], *, zeros: bool = False
) -> tuple[Tensor, ...]:
    """Contiguous gradients of ``tensors``, in their order.

    Args:
        tensors: the inputs of an op, the first of which is always present. None stands for an absent one.
        needs: for each input whether its gradient is needed.
        zeros: whether they are zero. By default they are uninitialised.

    Returns:
        A tensor of the input's shape and dtype, or one of length 0 where none is needed.
    """
    first = tensors[0]
    assert first is not None, "the first input of an op is its signal"
    allocate = torch.zeros_like if zeros else torch.empty_like
    return tuple(
        allocate(tensor, memory_format=torch.contiguous_format) if tensor is not None and needed else first.new_empty(0)
        for tensor, needed in zip(tensors, needs, strict=True)
    )


def only_needed(values: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """``values`` with None in the place of each that is not needed."""
    return tuple(value if needed else None for value, needed in zip(values, needs, strict=True))
