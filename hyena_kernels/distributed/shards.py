"""``ContextShards``: which process holds which positions of a sequence, and which channels while it is convolved."""

from __future__ import annotations

import itertools
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of signals, by the number under which processes tell each other theirs."""


FILTERS = ("channels", "sequence")
"""Who computes the long filters, as :func:`.context.context_parallel` describes it."""


class ContextSettings(NamedTuple):
    """What :func:`.context.context_parallel` sets on an operator. It has no group: models are copied and pickled."""

    group_name: str | None
    filters: str = "channels"
    chunks: int = 2
    wire: torch.dtype | None = None


class Call(NamedTuple):
    """What every process has to pass alike to a call, as it is compared by :meth:`ContextShards.validate`."""

    batch: int
    width: int
    dtype: torch.dtype
    taps: int
    chunks: int
    wire: torch.dtype | None
    gradients: bool

    def numbers(self) -> list[int]:
        """The same as integers."""
        dtype, wire = (-1 if dtype is None else DTYPES.index(dtype) for dtype in (self.dtype, self.wire))
        return [self.batch, self.width, dtype, self.taps, self.chunks, wire, int(self.gradients)]

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Call:
        """The inverse of :meth:`numbers`."""
        batch, width, dtype, taps, chunks, wire, gradients = numbers
        return cls(batch, width, DTYPES[dtype], taps, chunks, None if wire < 0 else DTYPES[wire], bool(gradients))

    def __str__(self) -> str:
        dtype, wire = (str(dtype).removeprefix("torch.") for dtype in (self.dtype, self.wire))
        values = f"B {self.batch}, width {self.width}, {dtype}, Ks {self.taps}, chunks {self.chunks}, wire {wire}"
        return f"{values}, gradients {'on' if self.gradients else 'off'}"


class ContextShards:
    """The positions of one sequence over the processes of a group: rank r holds ``lengths[r]`` of them, in order.

    The shards are contiguous and may differ in length. While a sequence is convolved, each process holds all positions
    of some channels instead (:meth:`channels`). Their number need be no multiple of the processes, and may be less.

    Args:
        lengths: number of positions of every rank, each at least 1. They are the same on all ranks.
        group: the process group. None is the default group, or a single process without any group.
        device_mesh: a mesh of one dimension in place of ``group``, such as ``mesh["context"]``.

    Raises:
        ValueError: ``lengths`` has another number than the group has ranks, a length is below 1, both ``group`` and
            ``device_mesh`` are given, or the mesh has several dimensions.
        RuntimeError: several lengths without a process group.

    Attributes:
        lengths: number of positions of every rank.
        rank: rank of this process in the group.
        size: number of ranks.
        offset: first position of this rank.
        length: number of positions of this rank.
        total: number of all positions.
        shortest: number of positions of the shortest shard that another one follows.
        group_name: name under which torch has registered the group, or None without a group.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        group: ProcessGroup | None = None,
        device_mesh: DeviceMesh | None = None,
    ) -> None:
        process_group = group_of(group, device_mesh)
        self.lengths = tuple(int(length) for length in lengths)
        self.rank, self.size = (0, 1) if process_group is None else (process_group.rank(), process_group.size())
        self.group_name: str | None = None if process_group is None else process_group.group_name
        if process_group is None and len(self.lengths) > 1:
            raise RuntimeError(
                f"ContextShards: {len(self.lengths)} lengths need a process group: call "
                "torch.distributed.init_process_group first, or start the program with torchrun"
            )
        if self.rank < 0:
            raise ValueError("ContextShards: this process is not in the group")
        if len(self.lengths) != self.size:
            raise ValueError(
                f"ContextShards: lengths {self.lengths} has {len(self.lengths)} entries, expected one for each of "
                f"the {self.size} ranks of the group"
            )
        if min(self.lengths) < 1:
            raise ValueError(f"ContextShards: lengths {self.lengths}: every rank needs at least 1 position")
        self.offset = sum(self.lengths[: self.rank])
        self.length = self.lengths[self.rank]
        self.total = sum(self.lengths)
        self.shortest = min(self.lengths[:-1], default=sys.maxsize)

    @classmethod
    def even(
        cls, total: int, *, group: ProcessGroup | None = None, device_mesh: DeviceMesh | None = None
    ) -> ContextShards:
        """Shards of ``total`` positions, of which the first ``total mod size`` ranks hold one more.

        Raises:
            ValueError: ``total`` is below the number of ranks, or as for the class.
        """
        process_group = group_of(group, device_mesh)
        size = 1 if process_group is None else process_group.size()
        if total < size:
            raise ValueError(f"ContextShards: {total} positions for {size} ranks: every rank needs at least 1")
        return cls(parts(total, size), group=process_group)

    @cached_property
    def group(self) -> ProcessGroup | None:
        """The process group, or None for a single process without one."""
        return None if self.group_name is None else group_named(self.group_name)

    def __getstate__(self) -> dict[str, Any]:
        # A process group cannot be copied. Its name finds it again.
        return {name: value for name, value in self.__dict__.items() if name != "group"}

    def __repr__(self) -> str:
        return f"ContextShards({self.lengths}, rank={self.rank})"

    def channel_counts(self, D: int) -> tuple[int, ...]:
        """Number of channels of every rank: the first ``D mod size`` ranks have one more. It may be 0."""
        return parts(D, self.size)

    def channels(self, D: int) -> slice:
        """The channels of this rank, of D."""
        counts = self.channel_counts(D)
        start = sum(counts[: self.rank])
        return slice(start, start + counts[self.rank])

    def validate(self, length: int, call: Call, device: torch.device) -> None:
        """Check that all ranks make the same call on the same shards. A collective.

        It runs once for each new call, and every time where the environment has ``HYENA_CHECK_SHARDS=1``. So it is not
        seen here if one rank repeats an earlier call while another makes a new one.

        Args:
            length: number of positions that this rank's tensor has.
            call: what else has to be alike.
            device: device of the tensor.

        Raises:
            ValueError: on every rank, with what each has passed: ranks differ, a tensor has another length than its
                shard, or a shard is shorter than the ``call.taps - 1`` positions that the next rank needs of it.
        """
        own = [length, *self.lengths, *call.numbers()]
        news = (self.lengths, call, device.type)
        known: set[Any] = set()
        if self.group is not None:
            known = _validated.setdefault(self.group, known)
        if news in known and os.environ.get("HYENA_CHECK_SHARDS", "") in ("", "0"):
            if length != self.length:
                raise ValueError(
                    f"ContextShards: a tensor must have the {self.length} positions of its shard, got "
                    f"{_line(self.rank, own)}"
                )
            return
        found = [own] if self.group is None else self._from_all(torch.tensor(own, dtype=torch.int64, device=device))
        same = all(row[1:] == own[1:] for row in found)
        if not same or [row[0] for row in found] != list(self.lengths):
            table = "\n".join(f"  {_line(rank, row)}" for rank, row in enumerate(found))
            raise ValueError(f"ContextShards: the ranks do not fit together:\n{table}")
        halo = call.taps - 1
        if self.shortest < halo:
            raise ValueError(
                f"ContextShards: lengths {self.lengths}: a shard needs at least {halo} positions, because a short "
                f"convolution of {call.taps} taps reads so many of the rank before"
            )
        known.add(news)

    def _from_all(self, own: torch.Tensor) -> list[list[int]]:
        every = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(every, own, group=self.group)
        rows: list[list[int]] = torch.stack(every).tolist()
        return rows


def _line(rank: int, row: Sequence[int]) -> str:
    """What one rank has passed, as a line of a table."""
    length, *numbers = row
    count = len(numbers) - len(Call._fields)
    return f"rank {rank}: {length} positions of lengths {tuple(numbers[:count])}, {Call.of_numbers(numbers[count:])}"


# The calls that have been compared, by group. A group that is made again under the same name compares anew.
_validated: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


def parts(total: int, count: int) -> tuple[int, ...]:
    """``total`` in ``count`` parts as ``numpy.array_split`` has them: the first ``total mod count`` have one more."""
    return tuple(total // count + (part < total % count) for part in range(count))


def starts(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where parts of these sizes begin."""
    return (0, *itertools.accumulate(sizes))[: len(sizes)]


def group_of(group: Any, device_mesh: Any = None) -> ProcessGroup | None:
    """The process group of a group, a mesh of one dimension, or the default. None in a single process without one.

    Raises:
        ValueError: both are given, or the mesh has several dimensions.
        TypeError: ``group`` is neither a group nor a mesh.
    """
    if not torch.distributed.is_available():
        return None
    from torch.distributed import ProcessGroup, group as default
    from torch.distributed.device_mesh import DeviceMesh

    if group is not None and device_mesh is not None:
        raise ValueError("ContextShards: pass a group or a device_mesh, not both")
    chosen = device_mesh if group is None else group
    if isinstance(chosen, DeviceMesh):
        if chosen.ndim != 1:
            raise ValueError(
                f"ContextShards: the mesh has {chosen.ndim} dimensions {chosen.mesh_dim_names}: pass the one over "
                'which sequences are split, such as mesh["context"]'
            )
        return chosen.get_group()
    if chosen is None:
        return default.WORLD if torch.distributed.is_initialized() else None
    if not isinstance(chosen, ProcessGroup):
        raise TypeError(f"ContextShards: group must be a process group, got {type(chosen).__name__}")
    return chosen


def group_named(name: str) -> ProcessGroup:
    """The process group that torch has registered under a name."""
    from torch._C._distributed_c10d import _resolve_process_group

    return _resolve_process_group(name)  # type: ignore[arg-type]


# For all threads, because backward computes checkpointed layers again in threads of its own.
_active: list[ContextShards] = []


@contextmanager
def sequence_shards(shards: ContextShards) -> Iterator[None]:
    """Operators with a context take these shards in a ``with`` block, if a call does not name others.

    Forward and backward both belong into the block, because backward may compute layers again. It holds for all
    threads.
    """
    _active.append(shards)
    try:
        yield
    finally:
        # The last one that is this: the same shards may have an outer block too. Threads may end theirs in any order.
        del _active[max(i for i, found in enumerate(_active) if found is shards)]


def active_shards() -> ContextShards | None:
    """The shards of the innermost block of :func:`sequence_shards`, or None."""
    return _active[-1] if _active else None
