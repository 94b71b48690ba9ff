"""``linear_cross_entropy`` in plain PyTorch.

Positions are processed in slices, so the logits of all positions never exist. Backward computes them again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import LinearCrossEntropyInputs


def _slices(inputs: LinearCrossEntropyInputs, dtype: torch.dtype) -> Iterator[tuple[slice, slice]]:
    hidden, weight, _ = inputs
    batch, length, width = hidden.shape
    row_bytes = (width + 3 * weight.shape[0]) * dtype.itemsize
    scratch = sizes.SCRATCH_BYTES.get(hidden.device.type, sizes.SCRATCH_BYTES_ELSEWHERE)
    return sizes.blocks(batch, length, max(1, scratch // row_bytes))


def _as_rows(inputs: LinearCrossEntropyInputs, *more: Tensor) -> tuple[LinearCrossEntropyInputs, tuple[Tensor, ...]]:
    hidden, targets, *others = sizes.as_rows((inputs.hidden, 1), (inputs.targets, 0), *((each, 0) for each in more))
    return LinearCrossEntropyInputs(hidden, inputs.weight, targets), tuple(others)


def forward(
    inputs: LinearCrossEntropyInputs, ignore_index: int, label_smoothing: float, every_position: bool
) -> Tensor:
    """As ``hyena_kernels::linear_cross_entropy_fwd``."""
    dtype = sizes.accumulator(inputs.hidden)
    losses = inputs.hidden.new_zeros(inputs.targets.shape if every_position else (), dtype=dtype)
    inputs, (each,) = _as_rows(inputs, losses.expand(inputs.targets.shape))
    weight = inputs.weight.to(dtype)
    for rows, positions in _slices(inputs, dtype):
        logits = F.linear(inputs.hidden[rows, positions].flatten(0, 1).to(dtype), weight)
        targets = inputs.targets[rows, positions].flatten().long()
        found = F.cross_entropy(
            logits,
            targets,
            ignore_index=ignore_index,
            reduction="none" if every_position else "sum",
            label_smoothing=label_smoothing,
        )
        if every_position:
            each[rows, positions] = found.view(each[rows, positions].shape)
        else:
            losses += found
    return losses


def backward(
    dy: Tensor,
    inputs: LinearCrossEntropyInputs,
    ignore_index: int,
    label_smoothing: float,
    every_position: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::linear_cross_entropy_bwd``."""
    dtype = sizes.accumulator(inputs.hidden)
    dhidden, dweight, dtargets = gradients_like(inputs, needs)
    inputs, (dy,) = _as_rows(inputs, dy.expand(inputs.targets.shape))
    each = dhidden.view(inputs.hidden.shape) if needs[0] else dhidden
    weight = inputs.weight.to(dtype)
    total = torch.zeros_like(weight)
    for rows, positions in _slices(inputs, dtype):
        hidden = inputs.hidden[rows, positions].flatten(0, 1).to(dtype)
        targets = inputs.targets[rows, positions].flatten().long()
        counted = targets != ignore_index
        grad = F.linear(hidden, weight).softmax(dim=1)
        if label_smoothing:
            grad -= label_smoothing / weight.shape[0]
        expected = grad.new_full((len(targets), 1), label_smoothing - 1)
        grad.scatter_add_(1, targets.where(counted, 0)[:, None], expected)
        # Not a product with 0, which would keep a NaN.
        grad.mul_(dy[rows, positions].flatten()[:, None]).masked_fill_(~counted[:, None], 0)
        if needs[0]:
            place = each[rows, positions]
            if place.dtype == dtype and place.is_contiguous():
                torch.mm(grad, weight, out=place.view(-1, place.shape[2]))
            else:
                place.copy_((grad @ weight).view_as(place))
        if needs[1]:
            total.addmm_(grad.t(), hidden)
    if needs[1]:
        dweight.copy_(total)
    return dhidden, dweight, dtargets
