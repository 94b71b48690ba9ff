"""``hyena_mixer_cp`` against the mixer of one process, on every rank, with all gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyena_kernels import backend as _backend, hyena_mixer
from hyena_kernels.distributed import ContextShards, exchange, gather, hyena_mixer_cp, shard
from hyena_kernels.testing import (
    Inputs,
    error_budget,
    hyena_mixer_inputs,
    oracle_hyena_mixer,
    reference_hyena_mixer,
    relative_error,
    value_and_gradients,
)
from tests.hyena_kernels.distributed.test_exchange import poison, strided
from tests.hyena_kernels.distributed.test_shards import raises
from tests.ranks import run_ranks


def own(inputs: Inputs, shards: ContextShards) -> Inputs:
    """What this rank has of a whole call: positions of the signal, channels of the long filters."""
    channels = shards.channels(inputs["k"].shape[1])
    mine = {name: tensor if tensor is None else tensor.detach() for name, tensor in inputs.items()}
    mine["x"] = shard(mine["x"], shards)
    for name in ("k", "D"):
        mine[name] = None if mine[name] is None else mine[name][:, channels]
    return {name: None if tensor is None else tensor.clone() for name, tensor in mine.items()}


def call(inputs: Inputs, shards: ContextShards, **options: Any) -> Tensor:
    """``hyena_mixer_cp`` with the arguments of ``hyena_mixer``."""
    arguments = {name: tensor for name, tensor in inputs.items() if name != "k"}
    return hyena_mixer_cp(**arguments, filters=inputs["k"], shards=shards, order=inputs["k"].shape[0] + 1, **options)


def results(inputs: Inputs, shards: ContextShards, dy: Tensor, change: Any = torch.clone, **options: Any) -> Inputs:
    """Results and gradients of the whole call, put together from those of all ranks."""
    mine = own(inputs, shards)
    mine["x"] = change(mine["x"])
    for tensor in mine.values():
        if tensor is not None:
            tensor.requires_grad_()
    y = call(mine, shards, **options)
    y.backward(shard(dy, shards))
    found = {"y": gather(y.detach(), shards), "dx": gather(mine["x"].grad, shards)}
    for name, tensor in mine.items():
        if tensor is None or name == "x":
            continue
        whole = torch.zeros_like(inputs[name])
        part = whole[:, shards.channels(whole.shape[1])] if name in ("k", "D") else whole
        part.copy_(tensor.grad)
        dist.all_reduce(whole)
        found[f"d{name}"] = whole
    return found


def closeness(found: Inputs, expected: Inputs) -> float:
    assert found.keys() == expected.keys()
    return max(relative_error(found[name], expected[name]) for name in expected)


FEW = [((300, 300), 32, 2, 2), ((301, 96), 32, 2, 2), ((5, 700), 31, 1, 2), ((300, 97), 6, 2, 4)]
MANY = [((128,) * 4, 32, 2, 2), ((301, 3, 96, 200), 32, 2, 2), ((64, 2, 9, 511), 30, 1, 2), ((50, 60, 70, 80), 3, 1, 3)]
"""Positions of every rank, channels, samples and order."""


def check_equal_to_one_process(rank: int, size: int) -> None:
    for lengths, d, batch, order in FEW if size == 2 else MANY:
        shards = ContextShards(lengths)
        plain = {"bias": order != 3, "skip": order != 4}
        inputs = hyena_mixer_inputs(batch, shards.total, d, order=order, dtype=torch.float64, **plain)
        dy = torch.randn(batch, shards.total, d, dtype=torch.float64)
        expected = value_and_gradients(hyena_mixer, inputs, dy)
        expected = {name: value for name, value in expected.items() if value is not None}
        first = results(inputs, shards, dy, chunks=2)
        assert closeness(first, expected) < 1e-13, (lengths, closeness(first, expected))
        # Groups change which channels travel together, and strides where they lie: no bit of any result.
        for options in ({"chunks": 1}, {"chunks": 5}, {"change": strided, "chunks": 2}):
            again = results(inputs, shards, dy, **options)
            assert all(torch.equal(again[name], first[name]) for name in ("y", "dk")), (lengths, options)
            assert closeness(again, first) < 1e-13


def check_few_taps(rank: int, size: int) -> None:
    """Filters shorter than the sequence, and short filters of 1 and of 8 taps."""
    for short_taps, lengths in ((1, (1, 2, 1, 3)), (8, (7, 9, 8, 2))):
        shards = ContextShards(lengths[:size])
        inputs = hyena_mixer_inputs(1, shards.total, 5, taps=2, short_taps=short_taps, dtype=torch.float64)
        dy = torch.randn(1, shards.total, 5, dtype=torch.float64)
        assert closeness(results(inputs, shards, dy), value_and_gradients(hyena_mixer, inputs, dy)) < 1e-13


def check_dtypes(rank: int, size: int) -> None:
    """The error against float64 is at most twice that of plain PyTorch, and a band of one rounding to the wire."""
    shards = ContextShards((61, 40, 2, 30)[:size])
    for dtype, wire in (
        (torch.float32, None),
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ):
        inputs = hyena_mixer_inputs(2, shards.total, 6, dtype=dtype)
        dy = torch.randn(2, shards.total, 6).to(dtype)
        found = results(inputs, shards, dy, wire=wire)
        assert found["y"].dtype == found["dx"].dtype == dtype
        exact = value_and_gradients(oracle_hyena_mixer, {n: t.double() for n, t in inputs.items()}, dy.double())
        coarse = wire if wire == torch.bfloat16 else dtype
        narrow = {name: tensor.to(coarse) if name == "x" else tensor for name, tensor in inputs.items()}
        plain = value_and_gradients(reference_hyena_mixer, narrow, dy.to(coarse))
        for name, value in found.items():
            error, budget = relative_error(value, exact[name]), error_budget(plain[name].to(coarse), exact[name])
            assert error <= budget, (dtype, wire, name, error, budget)


def check_bits(rank: int, size: int) -> None:
    """Every run has the same bits, and so has a run that is computed again in backward."""
    shards = ContextShards((20, 9, 31, 4)[:size])
    inputs = hyena_mixer_inputs(2, shards.total, 7, order=3)
    dy = torch.randn(2, shards.total, 7)
    first = results(inputs, shards, dy, chunks=3)
    for _ in range(3):
        again = results(inputs, shards, dy, chunks=3)
        assert all(torch.equal(again[name], first[name]) for name in first)
    mine = own(inputs, shards)
    for tensor in mine.values():
        tensor.requires_grad_()
    y = checkpoint(
        lambda *args: call(dict(zip(mine, args, strict=True)), shards, chunks=3).sin(),
        *mine.values(),
        use_reentrant=False,
    )
    plain = own(inputs, shards)
    for tensor in plain.values():
        tensor.requires_grad_()
    expected = call(plain, shards, chunks=3).sin()
    for result in (y, expected):
        result.backward(shard(dy, shards))
    assert torch.equal(y, expected)
    for name, tensor in mine.items():
        assert torch.equal(tensor.grad, plain[name].grad), name
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(call(own(inputs, shards), shards, chunks=3).sin(), expected)


@contextmanager
def counted(rank: int) -> Iterator[Counter[str]]:
    """Bytes that leave this rank, and transfers."""
    found: Counter[str] = Counter()
    before = exchange.transfer

    def transfer(flat: Tensor, receive: list[int], send: list[int], name: str) -> Tensor:
        found["bytes"] += flat.element_size() * (sum(send) - send[rank])
        found["transfers"] += 1
        return before(flat, receive, send, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "transfer", transfer)
        yield found


def check_bytes(rank: int, size: int) -> None:
    """Nothing crosses but the product, the gates of an order above 2, the result, and the positions before a shard."""
    for order, wire, lengths in (
        (2, None, (30, 30, 30, 30)),
        (2, torch.bfloat16, (5, 40, 9, 13)),
        (4, None, (5, 9, 9, 7)),
    ):
        shards = ContextShards(lengths[:size])
        batch, d, taps = 2, 8, 3
        inputs = hyena_mixer_inputs(batch, shards.total, d, order=order, dtype=torch.float64)
        mine = own(inputs, shards)
        with torch.no_grad():
            call(mine, shards, wire=wire)
        bytes_of = torch.float64.itemsize if wire is None else wire.itemsize
        of_rank = shards.channel_counts(d)[rank]
        there = (order - 1) * batch * (d - of_rank) * shards.length
        back = batch * of_rank * (shards.total - shards.length)
        before = (order + 1) * d * (taps - 1) * batch * 8
        with counted(rank) as found:
            y = call({name: tensor.requires_grad_() for name, tensor in mine.items()}, shards, wire=wire)
        assert found["bytes"] == (there + back) * bytes_of + before * (rank + 1 < size)
        assert found["transfers"] == 1 + 2 * 2
        with counted(rank) as found:
            y.sum().backward()
        # What had come now goes.
        there = (order - 1) * batch * of_rank * (shards.total - shards.length)
        back = batch * (d - of_rank) * shards.length
        assert found["bytes"] == (there + back) * bytes_of + before * (rank > 0)
        assert found["transfers"] == 1 + 2 * 2


def check_order_of_events(rank: int, size: int) -> None:
    """Each group but the first is on its way while the one before is convolved, and so are the gradients."""
    shards = ContextShards((9, 8, 7, 6)[:size])
    mine = own(hyena_mixer_inputs(1, shards.total, 12), shards)
    events = ""

    def logged(letter: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal events
            events += letter
            return function(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "transfer", logged("t", exchange.transfer))
        for name, letter in (("short_conv", "s"), ("fftconv", "c")):
            for direction in ("fwd", "bwd"):
                place = f"{name}_{direction}", "torch"
                patch.setitem(_backend._implementations, place, logged(letter, _backend._implementations[place]))
        y = call({name: t.requires_grad_() for name, t in mine.items()}, shards, chunks=3, backend="torch")
        # The positions before the shard, then three groups; the first positions are convolved when those are there.
        assert events == "tss" + "t" + "tct" + "tct" + "ct"
        events = ""
        y.sum().backward()
        assert events == "t" + "tct" + "tct" + "ct" + "sts"


def check_refusals(rank: int, size: int) -> None:
    shards = ContextShards((5, 4, 3, 2)[:size])
    mine = own(hyena_mixer_inputs(1, shards.total, 4), shards)
    raises(
        ValueError,
        r"N is 3: both must fit",
        hyena_mixer_cp,
        mine["x"][..., :7],
        mine["short_weight"],
        None,
        mine["k"],
        shards=shards,
        order=3,
    )
    raises(ValueError, "chunks must be at least 1, got 0", call, mine, shards, chunks=0)
    raises(TypeError, "wire is torch.int8, expected float16", call, mine, shards, wire=torch.int8)
    raises(TypeError, "x .* has dtype torch.int64", call, mine | {"x": mine["x"].long()}, shards)
    longer = mine | {"x": torch.cat([mine["x"]] * 2, 1)} if rank == 1 else mine
    message = raises(ValueError, "the ranks do not fit together", call, longer, shards)
    assert "rank 1: 8 positions of lengths (5, 4" in message
    short = ContextShards((1, 9, 9, 9)[:size])
    mine = own(hyena_mixer_inputs(1, short.total, 4), short)
    raises(ValueError, "a shard needs at least 2 positions", call, mine, short)
    even = ContextShards((4,) * size)
    mine = own(hyena_mixer_inputs(1, even.total, 4), even)
    for change, words in (
        ({"k": mine["k"][:, :0]}, r"k has shape \(1, 0, .*expected \(N-1, d_r, K\) = \(1, .* with 1 ≤ K ≤"),
        ({"k": torch.ones(1, 4 // size, even.total + 1)}, "with 1 ≤ K ≤"),
        ({"D": torch.ones(1, 4)}, r"D has shape \(1, 4\), expected \(N-1, d_r\)"),
    ):
        raises(ValueError, words, call, mine | change, even)


def checks(rank: int, size: int) -> None:
    poison()
    torch.set_default_dtype(torch.float32)
    for check in (
        check_equal_to_one_process,
        check_few_taps,
        check_dtypes,
        check_bits,
        check_bytes,
        check_order_of_events,
        check_refusals,
    ):
        torch.manual_seed(2)
        check(rank, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_shards_give_what_one_process_gives(size: int) -> None:
    run_ranks(size, checks, size, timeout=240)


def test_one_process_takes_the_mixer_of_one_process() -> None:
    inputs = hyena_mixer_inputs(2, 40, 3)
    shards = ContextShards.even(40)
    assert torch.equal(call(inputs, shards), hyena_mixer(**inputs))
    arguments = {name: tensor for name, tensor in inputs.items() if name not in ("k", "D")}
    made = hyena_mixer_cp(**arguments, filters=lambda own: (inputs["k"][:, own], inputs["D"][:, own]), shards=shards)
    assert torch.equal(made, hyena_mixer(**inputs))
