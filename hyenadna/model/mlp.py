"""The MLP of a block on a CPU: slices of positions, with backward written out.

PyTorch's autograd would keep the normalised residual, and the hidden layer before and after its activation. Here a
slice of the hidden layer stays in the cache of the processor. Backward computes the hidden layer again, but not the
second Linear layer, whose result it does not need. Where the hidden layer of all positions is small, it is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from hyena_kernels import backend, gelu, layer_norm
from hyena_kernels.modules import is_plain

_BACKENDS = ("cpp", "torch")

POSITIONS = 1 << 11
"""Positions of a slice: a few MB of hidden layer."""

KEPT_BYTES = 32 << 20
"""Bytes of hidden layer that a block keeps for backward. Above this it is computed again."""


def can_add_mlp(residual: Tensor, mixed: Tensor, norm: nn.LayerNorm, fc1: nn.Module, fc2: nn.Module) -> bool:
    """Whether :func:`add_mlp` can take ``residual + mixed``: on a CPU, in one dtype, with nothing that listens.

    Args:
        residual: ``(…, D)``.
        mixed: what is added to it.
        norm: is plain.
        fc1: any module in the place of the first Linear layer.
        fc2: and of the second.
    """
    if torch.compiler.is_compiling() or type(residual) is not Tensor or residual.device.type != "cpu":
        return False
    if not all(isinstance(layer, nn.Linear) and is_plain(layer, nn.Linear) for layer in (fc1, fc2)):
        return False
    tensors = residual, mixed, norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias
    dtypes = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}
    if any(tensor is None for tensor in tensors) or dtypes not in ({torch.float32}, {torch.float64}):
        return False
    if torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active():
        return False
    # Nothing records the call, or computes on something else than values.
    traced = torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0
    return not traced and forward_ad._current_level < 0


def add_mlp(residual: Tensor, norm: nn.LayerNorm, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """``residual + fc2(gelu(fc1(norm(residual))))``, with gradients, where :func:`can_add_mlp` allows it.

    Args:
        residual: ``(…, D)`` of the dtype of all weights, float32 or float64.
        norm: of the last dimension.
        fc1: from D features to those of the hidden layer.
        fc2: back to D.
    """
    weights = (norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    added: Tensor = _AddMLP.apply(residual, *weights, norm.eps)
    return added


class _AddMLP(torch.autograd.Function):
    """:func:`add_mlp` as an op. Its result is no view, on which the hooks of FSDP could be lost."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        eps: float,
    ) -> Tensor:
        chosen = backend.requested(None, _BACKENDS)
        rows = _rows(residual)
        keeps = rows.shape[0] * w1.shape[0] * rows.element_size() <= KEPT_BYTES
        hidden = rows.new_empty((rows.shape[0], w1.shape[0])) if keeps else None
        scratch = None if keeps else rows.new_empty((min(POSITIONS, rows.shape[0]), w1.shape[0]))
        result = torch.empty_like(residual, memory_format=torch.contiguous_format)
        added = _rows(result)
        for part in _slices(rows):
            normed = layer_norm(rows[part], norm_weight, norm_bias, eps, backend=_named(chosen))
            linear = _hidden(normed, w1, b1, _place(hidden, scratch, part))
            torch.addmm(b2, gelu(linear, backend=_named(chosen)), w2.t(), out=added[part])
            added[part] += rows[part]
        ctx.eps, ctx.backend = eps, chosen
        ctx.save_for_backward(residual, norm_weight, norm_bias, w1, b1, w2, b2, hidden)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs. A slice of the hidden layer and its gradient exist at a time."""
        residual, norm_weight, norm_bias, w1, b1, w2, b2, hidden = ctx.saved_tensors
        rows, grad = _rows(residual), _rows(grad)
        _, *needed, _ = ctx.needs_input_grad
        grads = [torch.zeros_like(weight) for weight in (norm_weight, norm_bias, w1, b1, w2, b2)]
        dnorm_weight, dnorm_bias, dw1, db1, dw2, db2 = grads
        scratch = None if hidden is not None else rows.new_empty((min(POSITIONS, rows.shape[0]), w1.shape[0]))
        drows = torch.empty_like(rows)
        ops = torch.ops.hyena_kernels
        for part in _slices(rows):
            x, dy = rows[part], grad[part]
            linear = _place(hidden, scratch, part)
            if hidden is None or needed[2]:
                normed = layer_norm(x, norm_weight, norm_bias, ctx.eps, backend=_named(ctx.backend))
            if hidden is None:
                linear = _hidden(normed, w1, b1, linear)
            if needed[4]:
                dw2.addmm_(dy.t(), gelu(linear, backend=_named(ctx.backend)))
            if needed[5]:
                db2 += dy.sum(dim=0)
            dlinear = ops.gelu_bwd(dy @ w2, linear, ctx.backend)
            if needed[2]:
                dw1.addmm_(dlinear.t(), normed)
            if needed[3]:
                db1 += dlinear.sum(dim=0)
            # The gradient of the sum is added to that of the residual in the same pass.
            dx, dweight, dbias, _ = ops.add_layer_norm_bwd(
                dlinear @ w1, dy, x, norm_weight, norm_bias, ctx.eps, None, [True, *needed[:2]], ctx.backend
            )
            if needed[0]:
                dnorm_weight += dweight
            if needed[1]:
                dnorm_bias += dbias
            drows[part] = dx
        given = [each if wanted else None for each, wanted in zip(grads, needed, strict=True)]
        return drows.view(residual.shape), *given, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _named(name: str) -> str | None:
    """A backend as the argument of a public function: None for the automatic choice."""
    return None if name == backend.AUTO else name


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
