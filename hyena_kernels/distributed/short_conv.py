"""``short_conv`` of a sequence whose positions are split over the processes of a group.

The positions before the shard travel while the others are convolved. In backward their gradient does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyena_kernels import backend as _backend
from hyena_kernels.distributed import exchange
from hyena_kernels.distributed.shards import ContextShards
from hyena_kernels.short_conv import short_conv


class _ShortConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, group_name: str, backend: str | None
    ) -> Tensor:
        before = weight.shape[1] - 1
        tail = exchange.tail(x, before)
        sent = exchange.begin_halo(tail, group_name, False)
        y = short_conv(x, weight, bias, backend=backend)
        state = exchange.end_halo(sent, tail)
        y[:, :, :before] = short_conv(x[:, :, :before], weight, bias, initial_state=state, backend=backend)
        ctx.save_for_backward(x, weight, bias, state)
        ctx.group_name, ctx.backend = group_name, backend
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state = ctx.saved_tensors
        options = False, _backend.requested(ctx.backend)
        before = weight.shape[1] - 1
        gradients = torch.ops.hyena_kernels.short_conv_bwd
        wanted = ctx.needs_input_grad[:3]

        def some(dy: Tensor, x: Tensor, *needs: bool) -> tuple[Tensor, ...]:
            return gradients(dy, x, weight, bias, state, options[0], list(needs), options[1])

        if wanted[0]:
            # No other position reads those before the shard.
            dstate = some(dy[:, :, :before], x[:, :, :before], False, False, False, True)[3]
            sent = exchange.begin_halo(dstate, ctx.group_name, True)
        found = some(dy, x, *wanted, False)
        dx, dweight, dbias = (gradient if need else None for gradient, need in zip(found, wanted, strict=False))
        if dx is not None:
            own = min(before, x.shape[2])
            dx[:, :, x.shape[2] - own :] += exchange.end_halo(sent, dstate)[:, :, before - own :]
        return dx, dweight, dbias, None, None


def short_conv_cp(
    x: Tensor, weight: Tensor, bias: Tensor | None, shards: ContextShards, backend: str | None = None
) -> Tensor:
    """:func:`~hyena_kernels.short_conv` of a shard ``x (B, W, L_r)`` behind the positions before it. A collective.

    Args:
        x: ``(B, W, L_r)``, as for ``short_conv``.
        weight: ``(W, Ks)``; every shard but the last has at least Ks - 1 positions.
        bias: ``(W,)`` or None.
        shards: which rank holds which positions.
        backend: as for ``short_conv``.

    Returns:
        ``(B, W, L_r)`` in the order of memory of ``x``.
    """
    before = weight.shape[1] - 1
    if before == 0 or shards.group_name is None:
        return short_conv(x, weight, bias, backend=backend)
    if torch.compiler.is_compiling():
        return short_conv(x, weight, bias, initial_state=exchange.before(x, shards, before), backend=backend)
    return _ShortConv.apply(x, weight, bias, shards.group_name, backend)
