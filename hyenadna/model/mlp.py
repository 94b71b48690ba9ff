"""The MLP of a block on a CPU: slices of positions, with backward written out.

PyTorch's autograd would keep the normalised residual, the hidden layer before and after its activation, and compute the
latter from fresh memory. Here a slice of the hidden layer stays in the cache of the processor. Backward computes the
hidden layer again, but not the second Linear layer, whose result it does not need. Where the hidden layer of all
positions is small, it is kept instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyena_kernels import gelu

POSITIONS = 1 << 11
"""Positions of a slice: a few MB of hidden layer."""

KEPT_BYTES = 32 << 20
"""Bytes of hidden layer that a block keeps for backward. Above this it is computed again."""


def add_mlp(residual: Tensor, norm: nn.LayerNorm, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """``residual + fc2(gelu(fc1(norm(residual))))``, with gradients.

    Args:
        residual: ``(…, D)`` contiguous, of the dtype of all weights: float32 or float64.
        norm: of the last dimension.
        fc1: ``(D, d_inner)``.
        fc2: ``(d_inner, D)``.
    """
    rows = residual.reshape(-1, residual.shape[-1])
    weights = (norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    added: Tensor = _AddMLP.apply(rows, *weights, norm.eps)  # type: ignore[no-untyped-call]
    return added.view_as(residual)


class _AddMLP(torch.autograd.Function):
    """:func:`add_mlp` on rows."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        rows: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        eps: float,
    ) -> Tensor:
        weights = norm_weight, norm_bias, w1, b1, w2, b2
        keeps = rows.shape[0] * w1.shape[0] * rows.element_size() <= KEPT_BYTES
        hidden = rows.new_empty((rows.shape[0], w1.shape[0])) if keeps else None
        scratch = None if keeps else rows.new_empty((min(POSITIONS, rows.shape[0]), w1.shape[0]))
        added = torch.empty_like(rows)
        for part in _slices(rows):
            normed = torch.layer_norm(rows[part], (rows.shape[1],), norm_weight, norm_bias, eps)
            linear = _hidden(normed, w1, b1, _place(hidden, scratch, part))
            torch.addmm(b2, gelu(linear), w2.t(), out=added[part])
            added[part] += rows[part]
        ctx.eps = eps
        ctx.save_for_backward(rows, *weights, hidden)
        return added

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, norm_weight, norm_bias, w1, b1, w2, b2, hidden = ctx.saved_tensors
        _, *needed, _ = ctx.needs_input_grad
        grads = [torch.zeros_like(weight) for weight in (norm_weight, norm_bias, w1, b1, w2, b2)]
        dnorm_weight, dnorm_bias, dw1, db1, dw2, db2 = grads
        scratch = None if hidden is not None else rows.new_empty((min(POSITIONS, rows.shape[0]), w1.shape[0]))
        drows = torch.empty_like(rows)
        for part in _slices(rows):
            x, dy = rows[part], grad[part]
            normed, mean, rstd = torch.native_layer_norm(x, (x.shape[1],), norm_weight, norm_bias, ctx.eps)
            linear = _place(hidden, scratch, part)
            if hidden is None:
                _hidden(normed, w1, b1, linear)
            if needed[4]:
                dw2.addmm_(dy.t(), gelu(linear))
            if needed[5]:
                db2 += dy.sum(dim=0)
            dlinear = torch.ops.hyena_kernels.gelu_bwd(dy @ w2, linear, "auto")
            if needed[2]:
                dw1.addmm_(dlinear.t(), normed)
            if needed[3]:
                db1 += dlinear.sum(dim=0)
            dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
                dlinear @ w1, x, (x.shape[1],), mean, rstd, norm_weight, norm_bias, (True, *needed[:2])
            )
            if needed[0]:
                dnorm_weight += dweight
            if needed[1]:
                dnorm_bias += dbias
            torch.add(dx, dy, out=drows[part])
        given = [each if wanted else None for each, wanted in zip(grads, needed, strict=True)]
        return drows, *given, None


def _slices(rows: Tensor) -> list[slice]:
    return [slice(start, start + POSITIONS) for start in range(0, rows.shape[0], POSITIONS)]


def _place(hidden: Tensor | None, scratch: Tensor | None, part: slice) -> Tensor:
    """Where the hidden layer of a slice stands: in its place of all, or in the one that all slices share."""
    if hidden is not None:
        return hidden[part]
    assert scratch is not None
    return scratch


def _hidden(normed: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    return torch.addmm(bias, normed, weight.t(), out=out[: normed.shape[0]])
