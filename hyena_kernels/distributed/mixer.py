"""``hyena_mixer_cp``: ``hyena_mixer`` of a sequence whose positions are split over the processes of a group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from hyena_kernels.distributed import exchange
from hyena_kernels.distributed.exchange import Pending, Route
from hyena_kernels.distributed.shards import DTYPES, Call, ContextShards, parts
from hyena_kernels.distributed.short_conv import short_conv_cp
from hyena_kernels.fftconv import fftconv
from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.registration import checks, library

Filters = Tensor | tuple[Tensor, Tensor | None]
"""Long filters of a rank's channels, alone or with their skip weights."""


def hyena_mixer_cp(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    filters: Tensor | Callable[[slice], Filters],
    D: Tensor | None = None,
    *,
    shards: ContextShards,
    order: int = 2,
    chunks: int = 2,
    wire: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """:func:`~hyena_kernels.hyena_mixer` of this rank's positions of a sequence. A collective.

    The short convolution, the gates and ``v * x_{N-1}`` are computed by position. For the long convolutions each rank
    gets all positions of its channels: that product, and the gates ``x_1 … x_{N-2}`` if N is above 2. One result goes
    back. So ``N B d L_r (P-1)/P`` values leave a rank of P, and as many in backward. The positions before the shard
    are ``(N+1) d (Ks-1) B`` values.

    The channels travel in groups. One is on its way while another is convolved, in forward and in backward. All ranks
    must make the same calls in the same order. The result equals that of one process but for rounding.

    Args:
        x: ``(B, L_r, (N+1) d)``, the output of in_proj for the positions of this rank; dtypes and strides as for
            ``hyena_mixer``.
        short_weight: ``((N+1) d, Ks)``, as for ``hyena_mixer``. The same on all ranks.
        short_bias: ``((N+1) d,)`` or None. The same on all ranks.
        filters: ``(N-1, d_r, K)`` with K ≤ L: the long filters of the channels ``shards.channels(d)``. Or a function
            from that slice to them, or to them and to what else ``D`` would be. It is called while the first group
            travels.
        D: ``(N-1, d_r)`` skip weights of the same channels, or None.
        shards: which rank holds which positions.
        order: N, at least 2.
        chunks: number of groups of channels, at least 1.
        wire: dtype in which values cross, but for those before the shard. None is that of ``x``. ``torch.bfloat16``
            halves the bytes of float32, and rounds the product, the gates, the result, and their gradients.
        backend: as for ``hyena_mixer``.

    Returns:
        ``(B, L_r, d)``, of ``x``'s dtype.

    Raises:
        TypeError: as for ``hyena_mixer``, or ``wire`` is no dtype of a signal.
        ValueError: as for ``hyena_mixer``, ``order`` is below 2, ``chunks`` below 1, or ranks do not fit together,
            which all of them raise (:meth:`ContextShards.validate`).
        BackendError: ``backend`` cannot run here.

    Source: the recurrence of Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), algorithm 3.
    """
    op = "hyena_mixer_cp"
    checks.rank(op, "x", x, "(B, L_r, (N+1)d)")
    checks.rank(op, "short_weight", short_weight, "((N+1)d, Ks)")
    if order < 2 or x.shape[2] % (order + 1):
        raise ValueError(f"{op}: x (B, L_r, (N+1)d) has shape {tuple(x.shape)} and N is {order}: both must fit, N ≥ 2")
    if chunks < 1:
        raise ValueError(f"{op}: chunks must be at least 1, got {chunks}")
    if wire is not None and wire not in DTYPES:
        raise TypeError(f"{op}: wire is {wire}, expected float16, bfloat16, float32, float64 or None")
    x = library.to_autocast(x)
    # Tensors without values are in no group.
    if not torch.compiler.is_compiling() and not x.is_meta and not isinstance(x, FakeTensor):
        gradients = torch.is_grad_enabled()
        call = Call(x.shape[0], x.shape[2], x.dtype, short_weight.shape[1], chunks, wire, gradients)
        shards.validate(x.shape[1], call, x.device)
    d = x.shape[2] // (order + 1)
    if shards.size == 1:
        k, D = _local(filters, D, slice(0, d), order, shards.total)
        return hyena_mixer(x, short_weight, short_bias, k, D, backend=backend)
    x = x.transpose(1, 2)
    p = short_conv_cp(x, short_weight, short_bias, shards, backend)
    first, *gates, last, v = p.split(d, dim=1)
    wire = wire or x.dtype
    # The first gate and the last are applied here: neither crosses.
    product_dtype = torch.promote_types(x.dtype, wire)
    product = (v.to(product_dtype) * last.to(product_dtype)).to(wire)
    sent = torch.cat([product, *(gate.to(wire) for gate in gates)]) if gates else product
    # A single convolution computes in float32 or better whatever its signal is, and its result is rounded to the wire.
    dtype = x.dtype if gates or x.dtype == torch.float64 else wire
    y = _convolved(
        sent, lambda own: _local(filters, D, own, order, shards.total), shards, order, chunks, dtype, backend
    )
    return first.transpose(1, 2) * y.to(x.dtype).transpose(1, 2)


def _local(
    filters: Tensor | Callable[[slice], Filters], D: Tensor | None, own: slice, order: int, length: int
) -> tuple[Tensor, Tensor | None]:
    """The filters and the skip weights of this rank's channels."""
    found = filters if isinstance(filters, Tensor) else filters(own)
    k, D = found if isinstance(found, tuple) else (found, D)
    expected = (order - 1, own.stop - own.start)
    if tuple(k.shape[:-1]) != expected or not 1 <= k.shape[-1] <= length:
        raise ValueError(
            f"hyena_mixer_cp: k has shape {tuple(k.shape)}, expected (N-1, d_r, K) = {(*expected, length)} with "
            f"1 ≤ K ≤ {length} for the channels {own.start} to {own.stop} of this rank"
        )
    if D is not None:
        checks.shape("hyena_mixer_cp", "D", D, expected, "(N-1, d_r)")
    return k, D


def _convolved(
    sent: Tensor,
    filters: Callable[[slice], tuple[Tensor, Tensor | None]],
    shards: ContextShards,
    order: int,
    chunks: int,
    dtype: torch.dtype,
    backend: str | None,
) -> Tensor:
    """The recurrence between its first product and its last gate, by channel, one group of channels after the other.

    Args:
        sent: ``((N-1) B, d, L_r)``: the products, then the gates ``x_1 … x_{N-2}``.
        filters: from this rank's channels to their filters and skip weights.
        shards: which rank holds what.
        order: N.
        chunks: number of groups.
        dtype: dtype in which to compute.
        backend: backend of the convolutions.

    Returns:
        ``(B, d, L_r)`` in the dtype of ``sent``.
    """
    counts, name = shards.channel_counts(sent.shape[1]), shards.group_name
    assert name is not None
    chunks = min(chunks, max(counts))
    # Group g has the g-th part of every rank's channels.
    sizes = [parts(count, chunks) for count in counts]
    routes = [Route(shards.lengths, [size[g] for size in sizes], name, False) for g in range(chunks)]
    pieces = sent.split([part for size in sizes for part in size], dim=1)
    groups = [sent] if chunks == 1 else [torch.cat(pieces[g::chunks], 1) for g in range(chunks)]
    arriving = exchange.begin(groups[0], routes[0])
    k, D = filters(shards.channels(sent.shape[1]))
    ks = k.split(sizes[shards.rank], dim=1)
    Ds = [None] * chunks if D is None else D.split(sizes[shards.rank], dim=1)
    leaving: list[Pending] = []
    results: list[Tensor] = []
    # Backward takes the same way from its end, so that there a group travels while another is differentiated.
    for g in range(chunks):
        following = exchange.begin(groups[g + 1], routes[g + 1]) if g + 1 < chunks else None
        y = _recurrence(exchange.end(arriving).to(dtype), ks[g], Ds[g], order, backend)
        leaving.append(exchange.begin(y.to(sent.dtype), routes[g].reverse))
        if g:
            results.append(exchange.end(leaving[g - 1]))
        if following is not None:
            arriving = following
    results.append(exchange.end(leaving[-1]))
    if chunks == 1:
        return results[0]
    split = [result.split(list(route.channels), dim=1) for result, route in zip(results, routes, strict=True)]
    return torch.cat([split[g][rank] for rank in range(shards.size) for g in range(chunks)], 1)


def _recurrence(received: Tensor, k: Tensor, D: Tensor | None, order: int, backend: str | None) -> Tensor:
    """The long convolutions of ``((N-1) B, d, L)``, each but the last with the gate after it; ``(B, d, L)``."""
    v, *gates = received.chunk(order - 1)
    if v.shape[1] == 0:
        # Kernels are not launched for nothing. The filters take part, so that all ranks have the same gradients.
        return v + k.sum() if D is None else v + (k.sum() + D.sum())
    for o in range(order - 1):
        gate = gates[order - 3 - o] if o < order - 2 else None
        v = fftconv(v, k[o], None if D is None else D[o], post_gate=gate, backend=backend)
    return v
