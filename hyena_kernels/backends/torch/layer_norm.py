"""``layer_norm`` and ``add_layer_norm`` in plain PyTorch.

Rows are processed in slices. So what is widened to float32 is bounded, and on a CPU it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import AddLayerNormInputs, LayerNormInputs


def _row_slices(rows: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Slices of ``rows (N, D)`` for which some six temporaries of ``dtype`` fit the bound of scratch memory."""
    step, _ = sizes.tile(rows.shape[0], 1, 6 * rows.shape[1] * dtype.itemsize, rows.device)
    return sizes.slices(rows.shape[0], step)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _normalise(rows: Tensor, inputs: LayerNormInputs | AddLayerNormInputs, eps: float, y: Tensor) -> None:
    weight, bias = inputs.weight.to(rows.dtype), inputs.bias.to(rows.dtype)
    y.copy_(torch.nn.functional.layer_norm(rows, rows.shape[-1:], weight, bias, eps))


def forward(inputs: LayerNormInputs, eps: float, dtype: torch.dtype) -> Tensor:
    """As ``hyena_kernels::layer_norm_fwd``."""
    wide = sizes.accumulator(*inputs)
    y = torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)
    residual, normalised = _rows(inputs.residual), _rows(y)
    for rows in _row_slices(residual, wide):
        _normalise(residual[rows].to(wide), inputs, eps, normalised[rows])
    return y


def add_forward(inputs: AddLayerNormInputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As ``hyena_kernels::add_layer_norm_fwd``."""
    wide = sizes.accumulator(*inputs)
    y = torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)
    total = torch.empty_like(y, dtype=torch.promote_types(inputs.residual.dtype, inputs.x.dtype))
    x, residual, normalised, sums = (_rows(tensor) for tensor in (inputs.x, inputs.residual, y, total))
    for rows in _row_slices(residual, wide):
        torch.add(residual[rows], x[rows], out=sums[rows])
        _normalise(sums[rows].to(wide), inputs, eps, normalised[rows])
    return y, total


def backward(
    dy: Tensor, inputs: LayerNormInputs, eps: float, dtype: torch.dtype, needs: list[bool]
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::layer_norm_bwd``."""
    return add_backward(dy, None, inputs, eps, None, needs)[:3]


def add_backward(
    dy: Tensor, dsum: Tensor | None, inputs: LayerNormInputs, eps: float, copy: torch.dtype | None, needs: list[bool]
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::add_layer_norm_bwd``."""
    residual = inputs.residual
    wide = sizes.accumulator(*inputs)
    dresidual, dweight, dbias = grads = gradients_like(inputs, needs)
    copied = residual.new_empty(0 if copy is None else residual.shape, dtype=copy)
    grad, more, sums = _rows(dy), None if dsum is None else _rows(dsum), _rows(residual)
    weight = inputs.weight.to(wide)
    weight_sum, bias_sum = torch.zeros_like(weight), torch.zeros_like(weight)
    for rows in _row_slices(sums, wide):
        g, row = grad[rows].to(wide), sums[rows].to(wide)
        variance, mean = torch.var_mean(row, dim=-1, correction=0, keepdim=True)
        scale = (variance + eps).rsqrt_()
        normalised = (row - mean).mul_(scale)
        if needs[1]:
            weight_sum += (g * normalised).sum(dim=0)
        if needs[2]:
            bias_sum += g.sum(dim=0)
        if needs[0] or copy is not None:
            g = g * weight
            slope = (g * normalised).mean(dim=-1, keepdim=True)
            g = g.sub_(g.mean(dim=-1, keepdim=True)).sub_(normalised.mul_(slope)).mul_(scale)
            if more is not None:
                g += more[rows]
            if needs[0]:
                _rows(dresidual)[rows] = g
            if copy is not None:
                _rows(copied)[rows] = g
    if needs[1]:
        dweight.copy_(weight_sum)
    if needs[2]:
        dbias.copy_(bias_sum)
    return *grads, copied
