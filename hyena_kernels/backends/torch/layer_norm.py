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


def _normalised(rows: Tensor, inputs: LayerNormInputs | AddLayerNormInputs, eps: float) -> Tensor:
    weight, bias = inputs.weight.to(rows.dtype), inputs.bias.to(rows.dtype)
    return torch.nn.functional.layer_norm(rows, weight.shape, weight, bias, eps)


def forward(inputs: LayerNormInputs, eps: float, dtype: torch.dtype) -> Tensor:
    """As ``hyena_kernels::layer_norm_fwd``."""
    wide = sizes.accumulator(*inputs)
    if inputs.residual.dtype == dtype == wide:
        return _normalised(inputs.residual, inputs, eps).contiguous()
    y = torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)
    residual, result = _rows(inputs.residual), _rows(y)
    for rows in _row_slices(residual, wide):
        result[rows] = _normalised(residual[rows].to(wide), inputs, eps)
    return y


def add_forward(inputs: AddLayerNormInputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As ``hyena_kernels::add_layer_norm_fwd``."""
    x, residual, weight, bias = inputs
    total = torch.empty_like(
        residual, dtype=torch.promote_types(residual.dtype, x.dtype), memory_format=torch.contiguous_format
    )
    torch.add(residual, x, out=total)
    return forward(LayerNormInputs(total, weight, bias), eps, dtype), total


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
    shape, weight, bias = inputs.weight.shape, inputs.weight.to(wide), inputs.bias.to(wide)
    weight_sum, bias_sum = torch.zeros_like(weight), torch.zeros_like(bias)
    mask = [needs[0] or copy is not None, needs[1], needs[2]]
    for rows in _row_slices(sums, wide):
        g, row = grad[rows].to(wide), sums[rows].to(wide)
        _, mean, scale = torch.native_layer_norm(row, shape, None, None, eps)
        g, weight_part, bias_part = torch.ops.aten.native_layer_norm_backward(
            g, row, shape, mean, scale, weight, bias, mask
        )
        if needs[1]:
            weight_sum += weight_part
        if needs[2]:
            bias_sum += bias_part
        if mask[0] and more is not None:
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
