"""``implicit_filter`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import ImplicitFilterInputs

# Positions are summed in chunks, each into one row of float64. Chunks are multiples of this many positions.
_POSITIONS = 512
_MOST_CHUNKS = 64
_SUMS_BYTES = 32 << 20


def _chunk(length: int, parameters: int) -> int:
    """Positions of a chunk. It depends on sizes alone, so the sums do not depend on the number of threads."""
    chunks = max(1, min(_MOST_CHUNKS, _SUMS_BYTES // (8 * max(1, parameters))))
    return _POSITIONS * -(-length // (_POSITIONS * chunks))


def forward(inputs: ImplicitFilterInputs, shift: float) -> Tensor:
    """As ``hyena_kernels::implicit_filter_fwd``."""
    k = inputs.z.new_empty((inputs.w_out.shape[0], inputs.z.shape[0]))
    ops.implicit_filter_fwd(k, *inputs, shift)
    return k


def backward(dk: Tensor, inputs: ImplicitFilterInputs, shift: float, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::implicit_filter_bwd``."""
    z, *network, _, _ = inputs
    length, channels = z.shape[0], inputs.w_out.shape[0]
    grads = gradients_like(inputs, needs)
    # The decay rate of each channel has a place in the sums with and without a window.
    parameters = sum(tensor.numel() for tensor in network) + channels
    chunk = _chunk(length, parameters)
    sums = dk.new_empty((-(-length // chunk), parameters), dtype=torch.float64)
    ops.implicit_filter_bwd(*only_needed(grads, needs), sums, dk, *inputs, shift, chunk)
    return grads
