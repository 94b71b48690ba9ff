"""``embedding`` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import EmbeddingInputs
from hyena_kernels.common.vocabulary import MAX_VOCABULARY

# Positions whose gradients are added one by one. Sums of several such slices are more exact than a single sum.
_POSITIONS = 1 << 12


def forward(inputs: EmbeddingInputs) -> Tensor:
    """As ``hyena_kernels::embedding_fwd``."""
    return F.embedding(inputs.ids.long(), inputs.weight)


def backward(dy: Tensor, inputs: EmbeddingInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::embedding_bwd``."""
    ids, weight = inputs
    dids, dweight = gradients_like(inputs, needs)
    if not needs[1]:
        return dids, dweight
    if dy.device.type != "cpu" or weight.shape[0] > MAX_VOCABULARY:
        return dids, torch.ops.aten.embedding_dense_backward(dy, ids.long(), weight.shape[0], -1, False)
    ids, dy = sizes.as_rows((ids, 0), (dy, 1))
    total = weight.new_zeros(weight.shape, dtype=sizes.accumulator(weight))
    for rows, positions in sizes.blocks(ids.shape[0], ids.shape[1], _POSITIONS):
        # Torch's own backward pass would add up 16-bit gradients in 16 bits.
        part = dy[rows, positions].flatten(0, 1).to(total.dtype)
        total += torch.zeros_like(total).index_add_(0, ids[rows, positions].flatten().long(), part)
    return dids, dweight.copy_(total)
