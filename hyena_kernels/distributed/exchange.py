"""Tensors between processes: from positions to channels and back, and the positions before a shard.

Two ops, both registered with fakes and derivatives, so that ``torch.compile`` traces them:

- ``hyena_kernels::all_to_all_channels``: ``(B, D, L_r)``, a rank's positions of all channels, to ``(B, D_r, L)``, all
  positions of a rank's channels, and ``back``. Each direction is the adjoint of the other.
- ``hyena_kernels::halo_exchange``: the last positions of a shard go to the next rank, and ``back`` to the one before.

Both are one all-to-all with uneven sizes. Every rank sends and receives in the same order, and nothing is summed.
So results have the same bits in every run.

:func:`begin` and :func:`end` are the first op in two halves. Between them the process goes on computing, in forward and
in backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from hyena_kernels.distributed.shards import ContextShards, group_named
from hyena_kernels.registration.library import LIBRARY


def transfer(flat: Tensor, receive: Sequence[int], send: Sequence[int], group_name: str) -> Tensor:
    """Begin an all-to-all of a flat tensor, of which ``send[s]`` elements go to rank s, and ``receive[s]`` come back.

    The result may be read after ``_c10d_functional.wait_tensor``. Everything that crosses goes through here.
    """
    return torch.ops._c10d_functional.all_to_all_single(flat, list(receive), list(send), group_name)


class Route(NamedTuple):
    """One direction of ``all_to_all_channels``: its arguments besides the tensor."""

    lengths: Sequence[int]
    channels: Sequence[int]
    group_name: str
    back: bool

    @property
    def reverse(self) -> Route:
        """The adjoint."""
        return self._replace(back=not self.back)

    def result(self, u: Tensor) -> tuple[int, int, int]:
        """The shape of the result for a tensor."""
        rank = group_named(self.group_name).rank()
        if self.back:
            return u.shape[0], sum(self.channels), self.lengths[rank]
        return u.shape[0], self.channels[rank], sum(self.lengths)

    def blocks(self, batch: int) -> tuple[list[int], list[int]]:
        """Elements of the blocks that each rank holds while the positions are split, and while the channels are."""
        rank = group_named(self.group_name).rank()
        split_positions = [batch * channels * self.lengths[rank] for channels in self.channels]
        split_channels = [batch * self.channels[rank] * length for length in self.lengths]
        return split_positions, split_channels

    def begin(self, u: Tensor) -> Tensor:
        """Send ``u``. The result is flat, and not there yet."""
        split_positions, split_channels = self.blocks(u.shape[0])
        if self.back:
            # One row is in order as it is, and so is one sample below.
            rows = u.shape[0] * u.shape[1]
            flat = u.reshape(-1) if rows == 1 else _flat(u.split(list(self.lengths), 2))
            return transfer(flat, split_positions, split_channels, self.group_name)
        flat = u.reshape(-1) if u.shape[0] == 1 else _flat(u.split(list(self.channels), 1))
        return transfer(flat, split_channels, split_positions, self.group_name)

    def end(self, flat: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Wait for what ``begin`` returned, and give it its shape."""
        flat = torch.ops._c10d_functional.wait_tensor(flat)
        batch, channels, length = shape
        split_positions, split_channels = self.blocks(batch)
        if self.back:
            if batch == 1:
                return flat.view(shape)
            pieces = zip(flat.split(split_positions), self.channels, strict=True)
            return torch.cat([piece.view(batch, count, length) for piece, count in pieces], 1)
        if batch * channels == 1:
            return flat.view(shape)
        pieces = zip(flat.split(split_channels), self.lengths, strict=True)
        return torch.cat([piece.view(batch, channels, count) for piece, count in pieces], 2)


def _flat(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _all_to_all_channels(u: Tensor, *route: Any) -> Tensor:
    way = Route(*route)
    return way.end(way.begin(u), way.result(u))


def _all_to_all_channels_fake(u: Tensor, *route: Any) -> Tensor:
    return u.new_empty(Route(*route).result(u))


def _all_to_all_channels_adjoint(*route: Any) -> Route:
    return Route(*route).reverse


def begin_halo(tail: Tensor, group_name: str, back: bool) -> Tensor:
    """The first half of ``halo_exchange``, without a derivative. The result is flat, and not there yet."""
    group = group_named(group_name)
    rank, size, count = group.rank(), group.size(), tail.numel()
    target, source = (rank - 1, rank + 1) if back else (rank + 1, rank - 1)
    send = [count * (other == target) for other in range(size)]
    receive = [count * (other == source) for other in range(size)]
    return transfer(tail.reshape(-1)[: sum(send)], receive, send, group_name)


def end_halo(flat: Tensor, tail: Tensor) -> Tensor:
    """What :func:`begin_halo` receives, in the shape of what it has sent; zeros if there is no rank to send it."""
    flat = torch.ops._c10d_functional.wait_tensor(flat)
    return flat.view(tail.shape) if flat.numel() == tail.numel() else tail.new_zeros(tail.shape)


def _halo_exchange(tail: Tensor, group_name: str, back: bool) -> Tensor:
    return end_halo(begin_halo(tail, group_name, back), tail)


def _halo_exchange_fake(tail: Tensor, group_name: str, back: bool) -> Tensor:
    return tail.new_empty(tail.shape)


def _halo_exchange_adjoint(group_name: str, back: bool) -> tuple[str, bool]:
    return group_name, not back


def _define(
    name: str,
    arguments: str,
    run: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    adjoint: Callable[..., tuple[Any, ...]],
) -> Callable[..., Tensor]:
    """Define a linear op of one tensor, ``hyena_kernels::<name>``, and return it.

    Args:
        name: its name.
        arguments: its arguments in torch's schema language, the tensor first.
        run: the op.
        fake: the op on fake tensors.
        adjoint: from the other arguments to those of its adjoint, which is the same op.
    """

    def checked(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def checked_run(tensor: Tensor, *others: Any) -> Tensor:
            # Whoever calls the op itself would get a result without a tangent, and no error.
            if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
                raise NotImplementedError(
                    f"hyena_kernels::{name} has no derivative in forward mode when called as an op"
                )
            return run(tensor, *others)

        return checked_run

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.others = inputs[1:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return call(grad, *adjoint(*ctx.others)), *(None for _ in ctx.others)

    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Tensor:
        return call(tangent, *ctx.others)

    def vmap(info: Any, in_dims: tuple[Any, ...], tensor: Tensor, *others: Any) -> tuple[Tensor, int]:
        return torch.stack([call(entry, *others) for entry in tensor.unbind(in_dims[0])]), 0

    LIBRARY.define(f"{name}({arguments}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, checked(run), "CompositeExplicitAutograd")
    torch.library.register_fake(f"hyena_kernels::{name}", checked(fake), lib=LIBRARY)
    torch.library.register_autograd(f"hyena_kernels::{name}", backward, setup_context=save, lib=LIBRARY)
    op = getattr(torch.ops.hyena_kernels, name).default
    # torch.func refuses the derivative that register_autograd makes (see registration/library.py).
    functions = {"forward": op, "setup_context": save, "backward": backward, "jvp": jvp, "vmap": vmap}
    methods = {method: staticmethod(function) for method, function in functions.items()}
    transformed: Any = type("Transformed", (torch.autograd.Function,), methods)

    def call(tensor: Tensor, *others: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return op(tensor, *others)
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return transformed.apply(tensor, *others)
        return op(tensor, *others)

    return call


_all_to_all = _define(
    "all_to_all_channels",
    "Tensor u, SymInt[] lengths, SymInt[] channels, str group_name, bool back",
    _all_to_all_channels,
    _all_to_all_channels_fake,
    _all_to_all_channels_adjoint,
)
_halo = _define(
    "halo_exchange",
    "Tensor tail, str group_name, bool back",
    _halo_exchange,
    _halo_exchange_fake,
    _halo_exchange_adjoint,
)


def all_to_all(
    tensor: Tensor, lengths: Sequence[int], channels: Sequence[int], shards: ContextShards, *, back: bool = False
) -> Tensor:
    """:func:`to_channels`, or :func:`to_sequence` with ``back``, for any number of positions and channels of each rank.

    A number may be 0 here.
    """
    return _all_to_all(tensor, lengths, channels, shards.group_name, back)


def to_channels(u: Tensor, shards: ContextShards) -> Tensor:
    """All positions of this rank's channels, from this rank's positions of all channels. A collective.

    Args:
        u: ``(B, D, L_r)`` of any dtype and strides, with ``L_r = shards.length``.
        shards: which rank holds what.

    Returns:
        ``(B, D_r, L)``, contiguous, with ``L = shards.total`` and the channels ``shards.channels(D)``. Differentiable
        any number of times.

    Raises:
        ValueError: ``u`` has another shape.
    """
    _check("to_channels", u, "(B, D, L_r)", 2, shards.length)
    if shards.group_name is None:
        return u.contiguous()
    return all_to_all(u, shards.lengths, shards.channel_counts(u.shape[1]), shards)


def to_sequence(y: Tensor, shards: ContextShards, D: int) -> Tensor:
    """This rank's positions of all D channels, from all positions of this rank's channels. A collective.

    Args:
        y: ``(B, D_r, L)`` of any dtype and strides, as :func:`to_channels` returns it.
        shards: which rank holds what.
        D: number of all channels, which ``y`` does not tell.

    Returns:
        ``(B, D, L_r)``, contiguous. Differentiable any number of times.

    Raises:
        ValueError: ``y`` has another shape.
    """
    counts = shards.channel_counts(D)
    _check("to_sequence", y, "(B, D_r, L)", 2, shards.total)
    _check("to_sequence", y, "(B, D_r, L)", 1, counts[shards.rank])
    if shards.group_name is None:
        return y.contiguous()
    return all_to_all(y, shards.lengths, counts, shards, back=True)


def halo(x: Tensor, shards: ContextShards, n: int) -> Tensor:
    """A shard behind the n positions before it, which are zero before the first shard. A collective.

    Args:
        x: ``(B, W, L_r)`` of any dtype and strides.
        shards: which rank holds what. Every shard but the last needs at least n positions.
        n: number of positions, at least 0.

    Returns:
        ``(B, W, n + L_r)``. In backward the gradient of the first n goes back to the rank that they came from.

    Raises:
        ValueError: ``x`` has another shape, n is negative, or a shard is too short.
    """
    _check("halo", x, "(B, W, L_r)", 2, shards.length)
    return torch.cat([before(x, shards, n), x], 2) if n else x


def before(x: Tensor, shards: ContextShards, n: int) -> Tensor:
    """The n positions before a shard ``x (B, W, L_r)`` alone, ``(B, W, n)``."""
    if not 0 <= n <= shards.shortest:
        raise ValueError(f"halo: n is {n}: lengths {shards.lengths}: it must be 0 to the shortest before the last")
    end = tail(x, n)
    if shards.group_name is None:
        return torch.zeros_like(end)
    return _halo(end, shards.group_name, False)


def tail(x: Tensor, n: int) -> Tensor:
    """The last n positions of ``x (B, W, L_r)``, padded if the last rank has fewer: nobody reads those."""
    length = x.shape[2]
    return x[:, :, length - n :] if length >= n else torch.nn.functional.pad(x, (n - length, 0))


def _check(op: str, tensor: Tensor, meaning: str, dim: int, expected: int) -> None:
    name = "x" if op == "halo" else "y" if op == "to_sequence" else "u"
    if tensor.dim() != 3 or tensor.shape[dim] != expected:
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}, expected {meaning} with {expected} in dimension {dim}, as "
            "the shards have it"
        )


def shard(tensor: Tensor, shards: ContextShards, dim: int = 1) -> Tensor:
    """This rank's positions of a whole sequence, as a view.

    Args:
        tensor: any tensor with ``shards.total`` positions in dimension ``dim``.
        shards: which rank holds what.
        dim: the dimension of positions.

    Raises:
        ValueError: the dimension has another size.
    """
    if tensor.shape[dim] != shards.total:
        raise ValueError(
            f"shard: dimension {dim} of {tuple(tensor.shape)} must have the {shards.total} positions of the shards"
        )
    return tensor.narrow(dim, shards.offset, shards.length)


def gather(tensor: Tensor, shards: ContextShards, dim: int = 1) -> Tensor:
    """The whole sequence on every rank, from the positions of each: the inverse of :func:`shard`. A collective.

    In backward, each rank gets the gradients of its positions from all ranks, summed in the order of ranks.

    Args:
        tensor: any tensor with ``shards.length`` positions in dimension ``dim``. The others are equal on all ranks.
        shards: which rank holds what.
        dim: the dimension of positions.

    Returns:
        The same with ``shards.total`` positions.

    Raises:
        ValueError: the dimension has another size.
    """
    if tensor.shape[dim] != shards.length:
        raise ValueError(
            f"gather: dimension {dim} of {tuple(tensor.shape)} must have the {shards.length} positions of this rank"
        )
    if shards.group_name is None:
        return tensor
    moved = tensor.movedim(dim, -1)
    rows = moved.reshape(1, 1, -1, shards.length)
    # Every rank gets all rows as its channels.
    copies = rows.expand(1, shards.size, -1, -1).reshape(1, -1, shards.length)
    counts = [rows.shape[2]] * shards.size
    whole = all_to_all(copies, shards.lengths, counts, shards)
    return whole.view(*moved.shape[:-1], shards.total).movedim(-1, dim)


class Flight:
    """An exchange on its way: what :func:`begin` has sent and :func:`end` will receive, and its gradient likewise.

    It is no tensor, because autograd must not read what has not arrived.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.shapes: tuple[tuple[int, int, int], tuple[int, int, int]] = (0, 0, 0), (0, 0, 0)
        self.flat: Tensor | None = None

    def land(self, route: Route, shape: tuple[int, int, int]) -> Tensor:
        """Wait for the transfer, and give its result a shape."""
        flat, self.flat = self.flat, None
        assert flat is not None, "an exchange is received once"
        return route.end(flat, shape)


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, flight: Flight) -> Tensor:
        ctx.flight = flight
        sent, (batch, channels, length) = u.shape, flight.route.result(u)
        flight.shapes = (sent[0], sent[1], sent[2]), (batch, channels, length)
        flight.flat = flight.route.begin(u)
        return u.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.flight.land(ctx.flight.route.reverse, ctx.flight.shapes[0]), None


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: Tensor, flight: Flight) -> Tensor:
        ctx.flight = flight
        return flight.land(flight.route, flight.shapes[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.flight.flat = ctx.flight.route.reverse.begin(grads[0])
        return grads[0].new_empty(0), None


class Pending(NamedTuple):
    """What :func:`begin` returns and :func:`end` takes."""

    ticket: Tensor
    flight: Flight | Route


def begin(u: Tensor, route: Route) -> Pending:
    """The first half of ``all_to_all_channels``: it returns while the tensor travels.

    In backward the halves change places: :func:`end` sends the gradient and this waits for it. Autograd goes backward
    in the reverse order of the calls, so that what was computed between them is differentiated between them.

    Under ``torch.compile`` it is the whole op, and the compiler has the order in its hands.
    """
    if torch.compiler.is_compiling():
        return Pending(_all_to_all(u, *route), route)
    flight = Flight(route)
    return Pending(_Begin.apply(u, flight), flight)


def end(pending: Pending) -> Tensor:
    """The result of ``all_to_all_channels`` that :func:`begin` has begun."""
    if not isinstance(pending.flight, Flight):
        return pending.ticket
    return _End.apply(pending.ticket, pending.flight)
