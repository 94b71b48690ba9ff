"""``implicit_filter`` and its gradients in NumPy's long double: an oracle that is more exact than float64.

In float32 and below, the oracle is plain PyTorch in float64. For float64 inputs its error would be as large as the
error to be measured. A long double has 80 bits on x86 and 128 bits on aarch64 Linux.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyena_kernels.common.inputs import ImplicitFilterInputs

AVAILABLE = sys.platform != "win32" and bool(np.finfo(np.longdouble).eps < np.finfo(np.float64).eps)
"""Whether the platform has a long double that is wider than float64."""


def implicit_filter(*, shift: float = 0.0, **tensors: Tensor | None) -> Tensor:
    """:func:`hyena_kernels.implicit_filter`, called by name. It rounds the result and each gradient to float64 once.

    Args:
        shift: what the window tends to.
        tensors: all fields of :class:`hyena_kernels.common.inputs.ImplicitFilterInputs`.
    """
    y: Tensor = _ImplicitFilter.apply(*ImplicitFilterInputs(**tensors), shift)  # type: ignore[arg-type]
    return y


class _ImplicitFilter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, ctx.shift = arguments
        ctx.values = [None if tensor is None else _wide(tensor) for tensor in tensors]
        ctx.like = tensors[0].new_empty(0)
        z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas = ctx.values
        ctx.inputs, ctx.phases = [z], []
        for weight, bias in zip([w_in, *w_hidden], [b_in, *b_hidden], strict=True):
            ctx.phases.append(ctx.inputs[-1] @ weight.T + bias)
            ctx.inputs.append(np.sin(freq * ctx.phases[-1]))
        ctx.k = ctx.inputs[-1] @ w_out.T
        if t is None or deltas is None:
            return _narrow(ctx.k.T, ctx.like)
        ctx.decay = np.exp(-t[:, None] * abs(deltas))
        return _narrow((ctx.k * (ctx.decay + ctx.shift)).T, ctx.like)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _, freq, w_in, _, w_hidden, _, w_out, t, deltas = ctx.values
        dk, dt, ddeltas = _wide(gradients[0]).T, None, None
        if t is not None and deltas is not None:
            dexponent = -dk * ctx.k * ctx.decay
            dt = dexponent @ abs(deltas)
            ddeltas = (t @ dexponent) * np.sign(deltas)
            dk = dk * (ctx.decay + ctx.shift)
        dh, dfreq, dweights, dbiases = dk @ w_out, np.zeros_like(freq), [], []
        layers = zip([w_in, *w_hidden], ctx.inputs[:-1], ctx.phases, strict=True)
        for weight, inputs, phases in reversed(list(layers)):
            dsine = dh * np.cos(freq * phases)
            dfreq += (dsine * phases).sum(0)
            dphases = dsine * freq
            dweights.append(dphases.T @ inputs)
            dbiases.append(dphases.sum(0))
            dh = dphases @ weight
        *dw_hidden, dw_in = dweights
        *db_hidden, db_in = dbiases
        results = [
            dh,
            dfreq,
            dw_in,
            db_in,
            np.stack(dw_hidden[::-1]) if dw_hidden else None,
            np.stack(db_hidden[::-1]) if db_hidden else None,
            dk.T @ ctx.inputs[-1],
            dt,
            ddeltas,
        ]
        return *(None if value is None else _narrow(value, ctx.like) for value in results), None


def _wide(tensor: Tensor) -> Any:
    return tensor.detach().double().cpu().numpy().astype(np.longdouble)


def _narrow(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(like)
