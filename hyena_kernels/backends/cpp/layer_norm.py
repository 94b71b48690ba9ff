"""``layer_norm`` and ``add_layer_norm`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import AddLayerNormInputs, LayerNormInputs

# The gradients of weight and bias are summed in chunks of rows, each into one row of float64.
_ROWS = 256
_MOST_CHUNKS = 64


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, or ``(N, D)`` if it is not contiguous, copied only if the strides allow no such view."""
    return tensor if tensor.is_contiguous() else tensor.reshape(-1, tensor.shape[-1])


def forward(inputs: LayerNormInputs, eps: float, dtype: torch.dtype) -> Tensor:
    """As ``hyena_kernels::layer_norm_fwd``."""
    residual, weight, bias = inputs
    y = torch.empty_like(residual, dtype=dtype, memory_format=torch.contiguous_format)
    wide = sizes.accumulator(*inputs) == torch.float64
    ops.layer_norm_fwd(y, None, _rows(residual), None, weight, bias, eps, wide)
    return y


def add_forward(inputs: AddLayerNormInputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As ``hyena_kernels::add_layer_norm_fwd``."""
    x, residual, weight, bias = inputs
    y = torch.empty_like(residual, dtype=dtype, memory_format=torch.contiguous_format)
    total = torch.empty_like(y, dtype=torch.promote_types(residual.dtype, x.dtype))
    wide = sizes.accumulator(*inputs) == torch.float64
    ops.layer_norm_fwd(y, total, _rows(residual), _rows(x), weight, bias, eps, wide)
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
    # Of no rows there are no chunks, so the sums over rows are zero from the start.
    grads = gradients_like(inputs, needs, zeros=inputs.residual.numel() == 0)
    dresidual, dweight, dbias = only_needed(grads, needs)
    copied = inputs.residual.new_empty(0 if copy is None else inputs.residual.shape, dtype=copy)
    residual, weight = inputs.residual, inputs.weight
    width = residual.shape[-1]
    count = residual.numel() // width
    # Chunks depend on sizes alone, so the sums do not depend on the number of threads.
    chunk = max(_ROWS, -(-count // _MOST_CHUNKS))
    sums = None
    if dweight is not None or dbias is not None:
        sums = residual.new_empty((-(-count // chunk), 2, width), dtype=torch.float64)
    ops.layer_norm_bwd(
        dresidual,
        None if copy is None else copied,
        dweight,
        dbias,
        sums,
        _rows(dy),
        None if dsum is None else _rows(dsum),
        _rows(residual),
        weight,
        eps,
        chunk,
        sizes.accumulator(*inputs) == torch.float64,
    )
    return *grads, copied
