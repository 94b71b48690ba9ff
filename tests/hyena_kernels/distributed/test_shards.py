from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hyena_kernels.distributed import ContextShards, active_shards, sequence_shards
from hyena_kernels.distributed.shards import Call, parts
from tests.ranks import run_ranks

CALL = Call(2, 12, torch.float32, 3, 2, None, True)


def raises(
    error: type[Exception] | tuple[type[Exception], ...], words: str, function: Any, *args: Any, **more: Any
) -> str:
    """The function raises an error, whose message has the words. Returns the message."""
    with pytest.raises(error, match=words) as raised:
        function(*args, **more)
    return str(raised.value)


@pytest.mark.parametrize(("total", "count"), [(10, 3), (3, 4), (0, 2), (7, 7), (8, 1)])
def test_parts_are_those_of_numpy(total: int, count: int) -> None:
    assert parts(total, count) == tuple(len(part) for part in np.array_split(np.arange(total), count))


def test_one_process_is_a_shard_of_all() -> None:
    shards = ContextShards.even(7)
    assert (shards.lengths, shards.rank, shards.size, shards.offset, shards.length, shards.total) == (
        (7,),
        0,
        1,
        0,
        7,
        7,
    )
    assert (shards.group, shards.channels(5), shards.channel_counts(5)) == (None, slice(0, 5), (5,))
    shards.validate(7, CALL, torch.device("cpu"))
    raises(
        ValueError,
        r"rank 0: 6 positions of lengths \(7,\), B 2, width 12, float32, Ks 3",
        shards.validate,
        6,
        CALL,
        torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("error", "words", "lengths"),
    [
        (RuntimeError, r"2 lengths need a process group: call torch\.distributed\.init_process_group", (3, 4)),
        (ValueError, r"lengths \(0,\): every rank needs at least 1 position", (0,)),
        (ValueError, r"lengths \(\) has 0 entries, expected one for each of the 1 ranks", ()),
    ],
)
def test_lengths_that_do_not_fit_are_refused(error: type[Exception], words: str, lengths: tuple[int, ...]) -> None:
    raises(error, words, ContextShards, lengths)


def test_groups_that_are_none_are_refused() -> None:
    raises(TypeError, "group must be a process group, got str", ContextShards, (3,), group="0")
    raises(ValueError, "not both", ContextShards, (3,), group=1, device_mesh=2)
    raises(ValueError, "0 positions for 1 ranks", ContextShards.even, 0)


def test_blocks_of_shards_nest() -> None:
    outer, inner = ContextShards.even(3), ContextShards.even(4)
    assert active_shards() is None
    with sequence_shards(outer):
        with sequence_shards(inner):
            assert active_shards() is inner
            with sequence_shards(outer):
                assert active_shards() is outer
            assert active_shards() is inner
        assert active_shards() is outer
    assert active_shards() is None


def check_attributes(rank: int) -> None:
    shards = ContextShards((5, 1, 2, 3))
    assert (shards.rank, shards.size, shards.total) == (rank, 4, 11)
    assert (shards.offset, shards.length) == ((0, 5), (5, 1), (6, 2), (8, 3))[rank]
    for D in (2, 8, 11):
        own = shards.channels(D)
        assert list(range(D))[own] == np.array_split(np.arange(D), 4)[rank].tolist()
        assert shards.channel_counts(D)[rank] == own.stop - own.start
    assert ContextShards.even(10).lengths == (3, 3, 2, 2)
    for other in (copy.deepcopy(shards), pickle.loads(pickle.dumps(shards))):
        assert (other.lengths, other.rank, other.group) == (shards.lengths, rank, shards.group)
    raises(ValueError, r"has 2 entries, expected one for each of the 4 ranks", ContextShards, (3, 4))
    raises(ValueError, "3 positions for 4 ranks: every rank needs at least 1", ContextShards.even, 3)


def check_meshes(rank: int) -> None:
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
    shards = ContextShards((3, 4), device_mesh=mesh["context"])
    assert (shards.rank, shards.size, shards.offset) == (rank % 2, 2, 3 * (rank % 2))
    assert ContextShards.even(7, device_mesh=mesh["context"]).group is shards.group
    raises(ValueError, r"2 dimensions \('data', 'context'\): pass the one", ContextShards.even, 7, device_mesh=mesh)
    # A rank outside of a group has no shards of it.
    first = dist.new_group([0, 1])
    if rank > 1:
        raises((ValueError, TypeError), "not in the group|must be a process group", ContextShards, (3, 4), group=first)


def check_comparison(rank: int) -> None:
    """What a rank passes is compared once, and every rank says what is wrong."""
    device = torch.device("cpu")
    shards = ContextShards((5, 2, 2, 3))
    shards.validate(shards.length, CALL, device)
    # News to all ranks, because those that have made a call before do not compare it again.
    new = CALL._replace(batch=7)
    for changed in (
        new._replace(batch=7 + (rank == 3)),
        new._replace(width=12 + 3 * (rank == 1)),
        new._replace(dtype=torch.float64 if rank else torch.float32),
        new._replace(taps=3 - (rank == 2)),
        new._replace(chunks=1 + rank),
        new._replace(wire=torch.bfloat16 if rank else None),
        new._replace(gradients=rank > 0),
    ):
        message = raises(ValueError, "the ranks do not fit together", shards.validate, shards.length, changed, device)
        assert len(message.splitlines()) == 5
        assert f"rank {rank}: {shards.length} positions of lengths (5, 2, 2, 3), {changed}" in message
    # Another length than that of the shard, and other lengths than the others have.
    longer = CALL._replace(batch=3)
    raises(ValueError, "rank 2: 9 positions", shards.validate, 9 if rank == 2 else shards.length, longer, device)
    others = ContextShards((5, 2, 2, 3) if rank else (2, 5, 2, 3))
    raises(ValueError, r"rank 0: 2 positions of lengths \(2, 5, 2, 3\)", others.validate, others.length, longer, device)
    # A call that has been compared before is not sent again, but a wrong length is seen.
    raises(ValueError, rf"rank {rank}: 9 positions", shards.validate, 9, CALL, device)
    # The last shard may be short.
    ContextShards((3, 3, 3, 1)).validate((3, 3, 3, 1)[rank], CALL._replace(taps=4), device)
    raises(
        ValueError,
        r"lengths \(5, 2, 2, 3\): a shard needs at least 3 positions, because a short convolution of 4 taps",
        shards.validate,
        shards.length,
        CALL._replace(taps=4),
        device,
    )


def check_comparison_of_every_call(rank: int) -> None:
    """With HYENA_CHECK_SHARDS=1 a change is seen that one rank alone makes back to an earlier call."""
    shards = ContextShards((2, 2, 2, 2))
    device = torch.device("cpu")
    other = CALL._replace(batch=4)
    for call in (CALL, other):
        shards.validate(2, call, device)
    raises(ValueError, "the ranks do not fit", shards.validate, 2, other if rank == 1 else CALL, device)


def checks(rank: int) -> None:
    check_attributes(rank)
    check_meshes(rank)
    check_comparison(rank)


@pytest.mark.slow
def test_shards_of_four_processes() -> None:
    run_ranks(4, checks, timeout=240)


@pytest.mark.slow
def test_every_call_is_compared_if_the_environment_says_so() -> None:
    run_ranks(4, check_comparison_of_every_call, environment={"HYENA_CHECK_SHARDS": "1"}, timeout=240)
