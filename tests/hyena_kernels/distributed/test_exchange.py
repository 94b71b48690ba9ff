"""Every exchange moves values and rounds nothing. So results and gradients are compared bit for bit with the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

from hyena_kernels.distributed import (
    ContextShards,
    exchange,
    gather,
    halo,
    hyena_mixer_cp,
    shard,
    to_channels,
    to_sequence,
)
from hyena_kernels.distributed.exchange import Route
from tests.hyena_kernels.distributed.test_shards import raises
from tests.ranks import run_ranks

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
op = torch.ops.hyena_kernels
LENGTHS = {4: ((3, 1, 4, 2), (5, 5, 5, 5)), 2: ((2, 5), (3, 3))}


def whole(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers, the same on every rank."""
    return torch.randn(*shape).to(dtype)


def strided(tensor: Tensor) -> Tensor:
    """The same values in memory of another order, with gaps."""
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0).repeat_interleave(2, dim=-1)[..., ::2]


def poison() -> None:
    """Uninitialised memory holds NaN from here on, and what is not deterministic raises."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()


def check_channels_and_back(rank: int, size: int) -> None:
    for lengths in LENGTHS[size]:
        shards = ContextShards(lengths)
        for batch, D, dtype in (
            (2, 7, torch.float64),
            (1, 3, torch.float32),
            (3, 1, torch.bfloat16),
            (1, 1, torch.half),
        ):
            u, weights = (whole(batch, D, shards.total, dtype=dtype) for _ in range(2))
            for change in (Tensor.contiguous, strided):
                mine = change(shard(u, shards, 2)).detach().requires_grad_()
                found = to_channels(mine, shards)
                assert found.is_contiguous()
                assert torch.equal(found, u[:, shards.channels(D)])
                found.backward(change(weights[:, shards.channels(D)]))
                assert torch.equal(mine.grad, shard(weights, shards, 2))
                mine = change(u[:, shards.channels(D)]).detach().requires_grad_()
                found = to_sequence(mine, shards, D)
                assert found.is_contiguous()
                assert torch.equal(found, shard(u, shards, 2))
                found.backward(change(shard(weights, shards, 2)))
                assert torch.equal(mine.grad, weights[:, shards.channels(D)])
    # Whole numbers too, and no gradients in inference.
    ids = torch.arange(6 * shards.total).view(1, 6, -1)
    with torch.inference_mode():
        assert torch.equal(to_channels(shard(ids, shards, 2), shards), ids[:, shards.channels(6)])


def check_derivatives(rank: int, size: int) -> None:
    """An exchange is linear: it has derivatives of every order, in both modes and under transforms."""
    shards = ContextShards(LENGTHS[size][0])
    mine = shard(whole(2, 5, shards.total), shards, 2)
    for function in (lambda u: to_channels(u, shards), lambda u: halo(u, shards, 1)):
        leaf = mine.clone().requires_grad_()
        [first] = torch.autograd.grad(function(leaf).pow(3).sum(), leaf, create_graph=True)
        [second] = torch.autograd.grad(first.sum(), leaf)
        torch.testing.assert_close(first, leaf * second / 2)
        gradient = torch.func.grad(lambda u, function=function: function(u).pow(3).sum())
        torch.testing.assert_close(gradient(mine), first)
        torch.testing.assert_close(torch.func.grad(lambda u, of=gradient: of(u).sum())(mine), second)
        value, tangent = torch.func.jvp(function, (mine,), (2 * mine,))
        assert torch.equal(tangent, 2 * value)
        assert torch.equal(value, function(mine))
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(function(forward_ad.make_dual(mine, 3 * mine)))
            torch.testing.assert_close(found.tangent, 3 * value, rtol=1e-15, atol=0)
        together = torch.vmap(function, in_dims=-1)(torch.stack((mine, 2 * mine), -1))
        assert torch.equal(together, torch.stack((value, 2 * value)))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(mine, mine)
        raises(NotImplementedError, "no derivative in forward mode", op.halo_exchange, dual, shards.group_name, False)


def check_halo(rank: int, size: int) -> None:
    for lengths, n in (
        ((2, 3, 2, 1)[:size], 2),
        ((3, 1, 4, 2)[:size], 1),
        ((3, 3, 3, 3)[:size], 0),
        ((4, 5, 4, 6)[:size], 4),
    ):
        shards = ContextShards(lengths)
        for dtype in DTYPES:
            x = whole(2, 3, shards.total, dtype=dtype)
            padded = torch.nn.functional.pad(x, (n, 0))
            mine = strided(shard(x, shards, 2)).detach().requires_grad_()
            found = halo(mine, shards, n)
            assert torch.equal(found, padded[:, :, shards.offset : shards.offset + n + shards.length])
            # What each rank sends back, by rank and with zeros where it has nothing.
            all_weights = [torch.randn(2, 3, n + length).to(dtype) for length in lengths]
            found.backward(all_weights[rank])
            expected = all_weights[rank][:, :, n:].clone()
            if n and rank + 1 < size:
                expected[:, :, -n:] += all_weights[rank + 1][:, :, :n]
            assert torch.equal(mine.grad, expected)
    short = ContextShards((1, 3, 3, 3)[:size])
    raises(ValueError, r"n is 2: lengths \(1, 3", halo, torch.zeros(1, 1, short.length), short, 2)
    raises(ValueError, r"x has shape \(1, 1, 9\), expected \(B, W, L_r\) with", halo, torch.zeros(1, 1, 9), short, 1)


def check_gather(rank: int, size: int) -> None:
    shards = ContextShards(LENGTHS[size][0])
    for shape, dim in (((2, shards.total, 3), 1), ((shards.total,), 0), ((2, 3, shards.total), -1)):
        x = whole(*shape)
        mine = shard(x, shards, dim).clone().requires_grad_()
        found = gather(mine, shards, dim)
        assert torch.equal(found, x)
        weights = [torch.randn(*shape, dtype=torch.float64) for _ in range(size)]
        found.backward(weights[rank])
        torch.testing.assert_close(mine.grad, shard(sum(weights), shards, dim), rtol=1e-15, atol=1e-15)
    ids = torch.arange(shards.total)[None]
    assert torch.equal(gather(shard(ids, shards), shards), ids)
    raises(ValueError, r"dimension 1 of \(1, 99\) must have the", shard, torch.zeros(1, 99), shards)
    raises(ValueError, r"dimension 1 of \(1, 99\) must have the", gather, torch.zeros(1, 99), shards)
    raises(ValueError, "u has shape", to_channels, torch.zeros(1, 1, 99), shards)
    raises(
        ValueError, "with 1 in dimension 1|with 0 in", to_sequence, torch.zeros(1, 9, shards.total), shards, size - 1
    )


def check_halves(rank: int, size: int) -> None:
    """Several exchanges on their way at once arrive where they belong, and so do their gradients."""
    shards = ContextShards(LENGTHS[size][0])
    routes = [Route(shards.lengths, shards.channel_counts(D), shards.group_name, False) for D in (5, 2)]
    first, second = (whole(2, D, shards.total) for D in (5, 2))
    mine = [shard(u, shards, 2).clone().requires_grad_() for u in (first, second)]
    pending = [exchange.begin(u, route) for u, route in zip(mine, routes, strict=True)]
    found = [exchange.end(each) for each in pending]
    for u, whole_u in zip(found, (first, second), strict=True):
        assert torch.equal(u, whole_u[:, shards.channels(whole_u.shape[1])])
    back = [exchange.end(exchange.begin(2 * u, route.reverse)) for u, route in zip(found, routes, strict=True)]
    for _ in range(2):
        for u in mine:
            u.grad = None
        sum(u.square().sum() for u in back).backward(retain_graph=True)
        for u in mine:
            assert torch.equal(u.grad, 8 * u)
    raises(RuntimeError, "differentiate twice|once_differentiable", twice, found[0], mine[0])


class _FromAll(torch.autograd.Function):
    """A tensor that is the same on all ranks, whose gradient is the sum of what all ranks do with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


class _ToAll(torch.autograd.Function):
    """The parts of all ranks, put together on all of them."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def check_numeric_derivatives(rank: int) -> None:
    """``gradcheck`` of each exchange as a function of the whole. All ranks perturb one element at the same time."""
    shards, size, D = ContextShards((2, 3)), 2, 3
    own = shards.channels(D)

    def to_all(part: Tensor, dim: int, start: int, total: int) -> Tensor:
        others = list(part.shape)
        before, others[dim] = start, total - start - part.shape[dim]
        first = part.new_zeros([before if i == dim else n for i, n in enumerate(part.shape)])
        return _ToAll.apply(torch.cat([first, part, part.new_zeros(others)], dim))

    def channels(x: Tensor) -> Tensor:
        return to_all(to_channels(shard(_FromAll.apply(x), shards, 2), shards), 1, own.start, D)

    def sequence(x: Tensor) -> Tensor:
        return to_all(to_sequence(_FromAll.apply(x)[:, own], shards, D), 2, shards.offset, shards.total)

    def behind(x: Tensor) -> Tensor:
        found = halo(shard(_FromAll.apply(x), shards, 2), shards, 1)
        return to_all(found, 2, shards.offset + rank, shards.total + size)

    def mixed(x: Tensor, weight: Tensor, k: Tensor) -> Tensor:
        x, weight, k = (_FromAll.apply(tensor) for tensor in (x, weight, k))
        found = hyena_mixer_cp(shard(x, shards), weight, None, k[:, own], shards=shards, backend="torch")
        return to_all(found, 1, shards.offset, shards.total)

    x = whole(1, D, shards.total).requires_grad_()
    for exchanged in (channels, sequence, behind):
        assert torch.autograd.gradcheck(exchanged, (x,))
    few = [whole(1, shards.total, 3 * D), whole(3 * D, 2), whole(1, D, shards.total)]
    assert torch.autograd.gradcheck(mixed, [tensor.requires_grad_() for tensor in few])


def twice(result: Tensor, u: Tensor) -> None:
    [first] = torch.autograd.grad(result.pow(3).sum(), u, create_graph=True)
    first.sum().backward()


def checks(rank: int, size: int) -> None:
    poison()
    for check in (check_channels_and_back, check_derivatives, check_halo, check_gather, check_halves):
        torch.manual_seed(1)
        check(rank, size)


@pytest.mark.slow
def test_exchanges_of_four_processes() -> None:
    run_ranks(4, checks, 4, timeout=240)


def check_ops(rank: int) -> None:
    """In one process, because opcheck makes calls of its own choice."""
    alone = [dist.new_group([each]) for each in range(2)][rank]
    if rank:
        return
    u = torch.randn(2, 3, 5, requires_grad=True)
    # What check_compiled does not do: it traces forward and backward.
    some = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op.all_to_all_channels.default, (u, (5,), (3,), alone.group_name, False), test_utils=some)
    torch.library.opcheck(op.halo_exchange.default, (u, alone.group_name, False), test_utils=some)


def there_and_back(u: Tensor, shards: ContextShards) -> Tensor:
    y = to_channels(halo(u, shards, 1)[:, :, 1:].sin(), shards)
    return gather(to_sequence(y.cos(), shards, u.shape[1]), shards, 2)


def check_compiled(rank: int) -> None:
    """One graph without a break for all lengths. A compiled process and others understand each other."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(there_and_back, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for lengths in ((5, 3), (4, 7), (9, 6)):
        shards = ContextShards(lengths)
        u = torch.randn(2, 3, shards.length)
        results = []
        for function in (compiled if rank == 0 else there_and_back, there_and_back):
            leaf = u.clone().requires_grad_()
            y = function(leaf, shards)
            y.square().sum().backward()
            results.append((y, leaf.grad))
        for found, expected in zip(*results, strict=True):
            assert torch.equal(found, expected)
        counts.append(counter.frame_count)
    assert counts == ([0, 0, 0] if rank else [1, 1, 1])


def check_with_a_compiler(rank: int) -> None:
    check_numeric_derivatives(rank)
    check_ops(rank)
    check_compiled(rank)


@pytest.mark.slow
def test_exchanges_are_ops_that_a_compiler_traces() -> None:
    run_ranks(2, check_with_a_compiler, timeout=240)
