"""The processes of torchrun as one world: how they meet, what the first does for all, and how a lost one is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from hyenadna.common.errors import InputError
from hyenadna.common.launch import Launch
from hyenadna.common.world import LostProcessError, Number, SharedError, World, joined
from hyenadna.parallel.meeting import meet

T = TypeVar("T")

TIMEOUT = 600.0
"""Seconds that a process waits for the others, unless it is told another number."""

# The waiting without a limit. A process that ends closes its connections, which the others notice at once.
_ENDLESS = timedelta(days=10_000)

# What gloo and NCCL say of a process that has ended or does not answer. Both raise a RuntimeError.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed? ?out|remote process|socket|gloo|nccl|peer",
    re.IGNORECASE,
)


class GroupWorld(World):
    """The world of a process group of ``torch.distributed``.

    Args:
        launch: the place of this process.
        store: what torchrun keeps when it starts the processes again.
        limit: how long values of Python are waited for. None is as long as the default group waits.

    Attributes:
        control: the gloo group by which values of Python travel.
    """

    def __init__(self, launch: Launch, store: Store, *, limit: timedelta | None = None) -> None:
        self.rank, self.size, self.local_rank = launch.rank, launch.size, launch.local_rank
        self._store = PrefixStore("hyenadna/begun/", store)
        self.control = dist.group.WORLD if limit is None else dist.new_group(backend="gloo", timeout=limit)

    def gather(self, value: Any) -> list[Any]:
        """As :meth:`World.gather`."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def sums(self, values: Sequence[Number]) -> list[Number]:
        """As :meth:`World.sums`."""
        whole = all(isinstance(value, int) for value in values)
        told = torch.tensor(values, dtype=torch.int64 if whole else torch.float64)
        dist.all_reduce(told, group=self.control)
        return told.tolist()

    def begin(self, place: Path) -> None:
        """As :meth:`World.begin`."""
        self._store.set(os.path.realpath(place), "1")

    def has_begun(self, place: Path) -> bool:
        """As :meth:`World.has_begun`."""
        return bool(self._store.check([os.path.realpath(place)]))

    def first(self, work: Callable[[], T]) -> T:
        """As :meth:`World.first`."""
        told: list[Any] = [None, ""]
        cause: BaseException | None = None
        if self.is_first:
            try:
                told[0] = work()
            except (InputError, OSError) as error:
                told[1], cause = str(error) or type(error).__name__, error
        dist.broadcast_object_list(told, src=0, group=self.control)
        if told[1]:
            raise SharedError(told[1]) from cause
        result: T = told[0]
        return result

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """As :meth:`World.agreed`."""
        failure: InputError | OSError | None = None
        try:
            yield
        except (SharedError, LostProcessError):
            raise
        except (InputError, OSError) as error:
            failure = error
        told = [text for text in self.gather("" if failure is None else str(failure) or type(failure).__name__) if text]
        if told:
            raise SharedError(told[0]) from failure


@contextmanager
def start_world(device: str = "auto", *, timeout: float | None = TIMEOUT) -> Iterator[World]:
    """Let the processes that torchrun has started work together in the block: NCCL on GPUs, gloo on CPUs.

    Without torchrun's variables the process stays alone. Every process calls this, and then the same functions.

    Args:
        device: as :func:`hyenadna.model.device.pick_device` takes it.
        timeout: seconds that a process waits for the others. None is as long as they live, for work whose parts take
            different times: finetune, evaluate, predict, score and embed.

    Raises:
        InputError: the processes do not find each other; a GPU is named; there are fewer GPUs than processes.
        LostProcessError: another process has ended, or has not answered within ``timeout``.
    """
    launch = Launch.of()
    if not launch.grouped:
        yield World()
        return
    own = _device(device, launch)
    short = timedelta(seconds=TIMEOUT if timeout is None else timeout)
    try:
        if own.type == "cuda":
            torch.cuda.set_device(own)
        kept, store = meet(short)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=short,
            device_id=own if own.type == "cuda" else None,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"the {launch.size} processes have not met at {place} ({_line(error)}): another program may have the "
            "port: choose another with torchrun's --master-port, or take --standalone on one machine"
        ) from error
    try:
        limit = _ENDLESS if timeout is None else short if own.type == "cuda" else None
        with joined(GroupWorld(launch, kept, limit=limit)) as made:
            yield made
    except RuntimeError as error:
        if isinstance(error, InputError) or not _is_lost(error):
            raise
        waited = "" if timeout is None else f", or has not answered for {timeout:g} s"
        raise LostProcessError(
            f"rank {launch.rank} of {launch.size}: another process has ended{waited} "
            f"({_line(error)}); start all again with `resume`, or let torchrun do so with --max-restarts"
        ) from error
    finally:
        with suppress(Exception):
            dist.destroy_process_group()


def _device(name: str, launch: Launch) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise InputError(
            f"`device` {name}: torchrun has started {launch.size} processes, and each takes a GPU of its own; choose "
            "auto, cuda or cpu"
        )
    count = torch.cuda.device_count()
    if launch.local_rank >= count:
        raise InputError(
            f"`device` {name}: torch sees {count} CUDA devices here, and torchrun has started more processes; lower "
            "its --nproc-per-node, or choose cpu"
        )
    return torch.device("cuda", launch.local_rank)


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or bool(_LOST.search(str(error)))


def _line(error: BaseException) -> str:
    """The first sentence of a message, without the place in the source of gloo."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^\]]*\]\s*", "", text).split(". ")[0].rstrip(".")
