"""``implicit_filter`` on the compiled extension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops

# Sums over positions are made in chunks of a multiple of so many, one row of float64 each.
_POSITIONS = 512
_MOST_CHUNKS = 64
_SUMS_BYTES = 32 << 20


def _chunk(length: int, parameters: int) -> int:
    """Positions of a chunk, from sizes alone: the same sums are made whatever the number of threads."""
    chunks = max(1, min(_MOST_CHUNKS, _SUMS_BYTES // (8 * max(1, parameters))))
    return _POSITIONS * -(-length // (_POSITIONS * chunks))


def forward(z: Tensor, *inputs: Any) -> Tensor:
    """As ``hyena_kernels::implicit_filter_fwd``."""
    w_out: Tensor = inputs[5]
    k = z.new_empty((w_out.shape[0], z.shape[0]))
    ops.implicit_filter_fwd(k, z, *inputs)
    return k


def backward(
    dk: Tensor,
    z: Tensor,
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    t: Tensor | None,
    deltas: Tensor | None,
    shift: float,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::implicit_filter_bwd``."""
    inputs = z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas
    grads = tuple(
        dk.new_empty(0)
        if tensor is None or not needed
        else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip(inputs, needs, strict=True)
    )
    outs = [grad if needed else None for grad, needed in zip(grads, needs, strict=True)]
    # One more for each channel: its decay rate, which has its place whether there is a window or not.
    parameters = sum(tensor.numel() for tensor in (freq, w_in, b_in, w_hidden, b_hidden, w_out)) + w_out.shape[0]
    chunk = _chunk(z.shape[0], parameters)
    sums = dk.new_empty((-(-z.shape[0] // chunk), parameters), dtype=torch.float64)
    ops.implicit_filter_bwd(*outs, sums, dk, *inputs, shift, chunk)
    return grads
