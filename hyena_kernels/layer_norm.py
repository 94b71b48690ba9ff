"""``layer_norm`` and ``add_layer_norm``: LayerNorm of a residual stream that is wider than what is computed from it.

A block adds the result of a layer to the residual and normalises the sum for the next layer. The second op does both in
one pass, and rounds the normalised rows once, to the dtype that the next layer takes.

Mean and deviation of a row are not saved for backward, which has the row in registers anyway and computes them again.
At D = 128 saving them would write and read 16 bytes a row, beside the 2,048 bytes that backward moves. It would also
keep 8 bytes a row in memory, and two more results in the schema.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import layer_norm as torch_layer_norm
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import AddLayerNormInputs, LayerNormInputs
from hyena_kernels.registration import checks, library

BACKENDS = ("triton", "cpp", "torch")
"""The backends that have the ops."""

for _op, _prefix in (("layer_norm", ""), ("add_layer_norm", "add_")):
    _backend.register_op(
        _op,
        torch_layer_norm,
        supports={"triton": triton_support.layer_norm},
        backends=BACKENDS,
        prefix=_prefix,
    )


def _fake(inputs: LayerNormInputs, eps: float, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)


_layer_norm_fwd = library.define_op(
    "layer_norm", "Tensor residual, Tensor weight, Tensor bias, float eps, ScalarType dtype", LayerNormInputs, _fake
)


def _add_fake(inputs: AddLayerNormInputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(inputs.residual, dtype=dtype, memory_format=torch.contiguous_format)
    return y, torch.empty_like(y, dtype=torch.promote_types(inputs.residual.dtype, inputs.x.dtype))


def _add_backward_fake(
    dy: Tensor, dsum: Tensor | None, inputs: LayerNormInputs, eps: float, copy: torch.dtype | None, needs: list[bool]
) -> tuple[Tensor, ...]:
    residual = inputs.residual
    return *gradients_like(inputs, needs), residual.new_empty(0 if copy is None else residual.shape, dtype=copy)


_add_layer_norm_bwd = library.define(
    "add_layer_norm_bwd",
    # ``residual`` is the sum. ``copy`` is the dtype in which its gradient is wanted a second time, for x.
    "Tensor dy, Tensor? dsum, Tensor residual, Tensor weight, Tensor bias, float eps, ScalarType? copy, bool[] needs",
    LayerNormInputs,
    _add_backward_fake,
    gradients=2,
    results=4,
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, bias, ctx.eps, _, ctx.backend = inputs
    ctx.dtypes = x.dtype, residual.dtype
    # Zeros for the gradient of an unused sum would be as large as the residual.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], weight, bias)


def _derivative(ctx: Any, dy: Tensor | None, dsum: Tensor | None) -> tuple[Tensor | None, ...]:
    needs_x, needs_residual, *needs_affine = ctx.needs_input_grad[:4]
    total, weight, bias = ctx.saved_tensors
    x_dtype, residual_dtype = ctx.dtypes
    if dy is None:
        wide = copied = dsum
        affine: tuple[Tensor | None, ...] = (None, None)
    else:
        # Summand and sum have the same gradient. It is written twice only if they differ in dtype.
        copies = needs_x and x_dtype != total.dtype
        needs = [needs_residual or (needs_x and not copies), *needs_affine]
        copy = x_dtype if copies else None
        *grads, copied = _add_layer_norm_bwd(dy, dsum, total, weight, bias, ctx.eps, copy, needs, ctx.backend)
        wide, *rest = only_needed(grads, needs)
        affine, copied = tuple(rest), copied if copies else wide
    dx = copied.to(x_dtype) if needs_x and copied is not None else None
    dresidual = wide.to(residual_dtype) if needs_residual and wide is not None else None
    return dx, dresidual, *affine, None, None, None


_add_layer_norm_fwd = library.define(
    "add_layer_norm_fwd",
    "Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps, ScalarType dtype",
    AddLayerNormInputs,
    _add_fake,
    results=2,
    derivative=(_derivative, _save),
)


def _check(
    op: str, residual: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None, x: Tensor | None = None
) -> torch.dtype:
    """Refuse wrong arguments, and return the dtype of the normalised rows."""
    checks.rank(op, "residual", residual, "(…, D)")
    width = residual.shape[-1]
    if width < 1:
        raise ValueError(f"{op}: residual (…, D) has shape {tuple(residual.shape)}: expected D ≥ 1")
    if x is not None:
        checks.shape(op, "x", x, tuple(residual.shape), "(…, D)")
    checks.shape(op, "weight", weight, (width,), "(D,)")
    checks.shape(op, "bias", bias, (width,), "(D,)")
    checks.same_device(op, residual=residual, x=x, weight=weight, bias=bias)
    if dtype is None:
        dtype = library.autocast_dtype(residual)
        return weight.dtype if dtype is None else dtype
    if dtype not in checks.SIGNAL_DTYPES:
        raise TypeError(f"{op}: dtype is {dtype}, expected float16, bfloat16, float32 or float64")
    return dtype


def layer_norm(
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """``(residual - mean) / sqrt(variance + eps) * weight + bias``, with mean and variance over the last dimension.

    Computed in float32, or in float64 if an input is float64, from the deviations of a row and not from its squares.
    Rounded once, to ``dtype``. Differentiable once in every tensor. Only the inputs are saved for backward.

    Args:
        residual: ``(…, D)``; float16, bfloat16, float32 or float64. Rows that do not lie at one stride, or whose
            elements are not neighbours, are copied.
        weight: ``(D,)``; any of these dtypes.
        bias: ``(D,)``; any of these dtypes.
        eps: added to the variance.
        dtype: dtype of the result. By default that of autocast where autocast is on, unless ``residual`` is float64.
            Otherwise that of ``weight``.
        backend: ``"triton"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(…, D)``, contiguous, of ``dtype``.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above, or ``dtype`` is none of these.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, or
            ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Ba et al., "Layer Normalization", 2016 (arXiv 1607.06450), equation 4.
    """
    dtype = _check("layer_norm", residual, weight, bias, dtype)
    result: Tensor = _layer_norm_fwd(residual, weight, bias, float(eps), dtype, _backend.requested(backend, BACKENDS))
    return result


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """``residual + x`` and the :func:`layer_norm` of it, in one pass over both.

    The norm is that of the sum as it is returned. Backward gives the gradient of ``residual`` and that of ``x``, which
    is a copy of it in another dtype, in one pass. Where both have one dtype, it is one tensor. The sum is saved for
    backward, and neither summand. Differentiable once in every tensor.

    Args:
        x: ``(…, D)``, of ``residual``'s shape; float16, bfloat16, float32 or float64.
        residual: as for :func:`layer_norm`.
        weight: as for :func:`layer_norm`.
        bias: as for :func:`layer_norm`.
        eps: as for :func:`layer_norm`.
        dtype: as for :func:`layer_norm`.
        backend: as for :func:`layer_norm`.

    Returns:
        The normalised sum ``(…, D)`` of ``dtype``, and the sum ``(…, D)``, of the dtype that torch gives
        ``residual + x``. Both are contiguous.

    Raises:
        TypeError: as for :func:`layer_norm`.
        ValueError: as for :func:`layer_norm`.
        BackendError: as for :func:`layer_norm`.

    Source: as for :func:`layer_norm`.
    """
    dtype = _check("add_layer_norm", residual, weight, bias, dtype, x)
    y, total = _add_layer_norm_fwd(x, residual, weight, bias, float(eps), dtype, _backend.requested(backend, BACKENDS))
    return y, total


# See the end of fftconv.py.
layer_norm.layer_norm = layer_norm  # type: ignore[attr-defined]
layer_norm.add_layer_norm = add_layer_norm  # type: ignore[attr-defined]
