"""Count what really leaves a process, and what autograd really keeps, and hold both against ``bench.costs.cluster``.

Each process runs Hyena operators, or a model, on its shard of a sequence, forward and backward, over gloo on this
machine.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.costs.cluster import Sent, Shape, saved, sent
from hyena_kernels import HyenaOperator
from hyena_kernels.distributed import ContextShards, context_parallel, sequence_shards
from hyena_kernels.distributed.shards import group_named
from hyenadna import HyenaDNAConfig, HyenaDNAModel


@dataclass(frozen=True)
class Case:
    """A sequence in shards of ``lengths`` through ``layers`` operators, each of which may be computed again.

    With ``model`` they are those of a HyenaDNA model, from tokens to the last hidden state.
    """

    lengths: tuple[int, ...]
    width: int
    batch: int = 1
    order: int = 2
    dtype: torch.dtype = torch.float32
    filters: str = "channels"
    chunks: int = 2
    layers: int = 1
    again: bool = False
    model: bool = False

    @property
    def kept_is_known(self) -> bool:
        """Whether there is a formula for what autograd keeps."""
        return self.order == 2 and not self.model

    @property
    def shape(self) -> Shape:
        """As the formulas take it."""
        wide = torch.promote_types(self.dtype, torch.float32).itemsize
        return Shape(self.width, self.layers, self.order, self.batch, self.dtype.itemsize, wide)


CASES = (
    Case((300, 300), 32, batch=2, dtype=torch.float64),
    Case((5, 700), 31, filters="sequence"),
    Case((128, 128, 128, 128), 32, layers=3, again=True, filters="sequence"),
    Case((301, 3, 96, 200), 32, batch=2, chunks=3, dtype=torch.float64, layers=2),
    Case((64, 2, 9, 511), 30, order=3, filters="sequence", chunks=1),
    Case((50, 60, 70, 80), 3, filters="sequence", dtype=torch.float64, again=True),
    Case((90, 31), 16, batch=2, filters="sequence", layers=2, model=True),
)
"""Even and uneven shards, channels that the ranks do not divide, fewer channels than ranks, and a model."""


@dataclass(frozen=True)
class Count:
    """What one process of a case sent and kept."""

    forward: int
    backward: int
    kept: int


class Crossing:
    """Bytes that left this process by all-to-all, and the names of all other collectives that it ran."""

    def __init__(self) -> None:
        self.bytes = 0
        self.others: set[str] = set()

    def take(self) -> int:
        """The bytes since the last call."""
        found, self.bytes = self.bytes, 0
        return found


class _AllToAll:
    """In place of torch's all-to-all, for all who call it."""

    def __init__(self, op: Any, crossing: Crossing) -> None:
        self._op, self._crossing = op, crossing

    def __call__(self, flat: Tensor, receive: Sequence[int], send: Sequence[int], group_name: str) -> Tensor:
        rank = group_named(group_name).rank()
        assert sum(send) == flat.numel()
        self._crossing.bytes += (sum(send) - send[rank]) * flat.itemsize
        result: Tensor = self._op(flat, receive, send, group_name)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)


@contextmanager
def counted() -> Iterator[Crossing]:
    """Count what crosses in a ``with`` block, where torch hands it to the process group."""
    crossing, space = Crossing(), cast(Any, torch.ops._c10d_functional)
    exchange = space.all_to_all_single

    def noting(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            crossing.others.add(name)
            return run(*args, **kwargs)

        return noted

    names = ("all_to_all_single", "all_to_all", "all_reduce", "all_gather_into_tensor", "broadcast", "isend", "irecv")
    before = {name: getattr(dist, name) for name in (*names, "batch_isend_irecv", "reduce_scatter_tensor")}
    space.all_to_all_single = _AllToAll(exchange, crossing)
    for name, run in before.items():
        setattr(dist, name, noting(name, run))
    try:
        yield crossing
    finally:
        space.all_to_all_single = exchange
        for name, run in before.items():
            setattr(dist, name, run)


@contextmanager
def keeping(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Collect the memory that autograd keeps in a ``with`` block, each storage once, without that of the model."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place and place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _run(case: Case, group: dist.ProcessGroup, times: int) -> Count:
    """Run a case with ``times`` times as many positions."""
    lengths = [times * length for length in case.lengths]
    shards, total = ContextShards(lengths, group=group), sum(lengths)
    layers: Any
    if case.model:
        config = HyenaDNAConfig(
            d_model=case.width, n_layer=case.layers, max_seq_len=total, hyena_order=case.order, embed_dropout=0.0
        )
        layers, u = HyenaDNAModel(config), torch.randint(7, 11, (case.batch, shards.length))
    else:
        operators = [
            HyenaOperator(case.width, total, order=case.order, emb_dim=5, filter_order=16) for _ in range(case.layers)
        ]
        layers = nn.ModuleList(operators).to(case.dtype)
        u = torch.randn(case.batch, shards.length, case.width, dtype=case.dtype, requires_grad=True)
    context_parallel(layers, group, filters=case.filters, chunks=case.chunks)
    with counted() as crossing, keeping(layers) as kept, sequence_shards(shards):
        if case.model:
            y = layers(u).last_hidden_state
        else:
            y = u
            for layer in layers:
                y = checkpoint(layer, y, use_reentrant=False) if case.again else layer(y)
        forward, held = crossing.take(), sum(each.untyped_storage().nbytes() for each in kept.values())
        kept.clear()
        y.sum().backward()
        backward = crossing.take()
    if crossing.others or any(parameter.grad is None for parameter in layers.parameters()):
        raise RuntimeError(f"{case}: other collectives ran: {sorted(crossing.others)}")
    return Count(forward, backward, held)


def count(rank: int, cases: Sequence[Case] = CASES) -> list[tuple[Count, Count]]:
    """What this process sends and keeps in each case, at its lengths and at twice those. Of all processes, in order.

    Processes beyond those of a case are left out of it.
    """
    found = []
    for case in cases:
        group: Any = dist.new_group(list(range(len(case.lengths))))
        if rank < len(case.lengths):
            found.append((_run(case, group, 1), _run(case, group, 2)))
    return found


def expected(case: Case, rank: int) -> Count:
    """What the formulas say of a process: bytes at its lengths, and what it keeps more at twice those."""

    def directions(backward: bool) -> Sent:
        return sent(case.lengths, rank, case.shape, backward=backward, filters=case.filters)

    forward, back = directions(False).total, directions(True).total
    if case.again:
        # The input of each operator, and forward once more.
        kept = case.batch * case.lengths[rank] * case.width * case.dtype.itemsize
        return Count(case.layers * forward, case.layers * (forward + back), case.layers * kept)
    return Count(case.layers * forward, case.layers * back, case.layers * saved(case.lengths, rank, case.shape).total)


def differences(results: Sequence[Sequence[tuple[Count, Count]]], cases: Sequence[Case] = CASES) -> list[str]:
    """A line for each number that differs from its formula.

    Args:
        results: of each rank, what :func:`count` returned for the cases that it took part in.
        cases: the cases.
    """
    lines = []
    rest = [iter(of_rank) for of_rank in results]
    for case in cases:
        for rank in range(len(case.lengths)):
            once, twice = next(rest[rank])
            known = expected(case, rank)
            pairs = {"forward": (once.forward, known.forward), "backward": (once.backward, known.backward)}
            if case.kept_is_known:
                # What does not grow with the sequence, such as a copy of weights, is in both.
                pairs["kept"] = twice.kept - once.kept, known.kept
            lines += [
                f"{case}, rank {rank}, {name}: counted {found:,}, expected {formula:,}"
                for name, (found, formula) in pairs.items()
                if found != formula
            ]
    return lines


def _process(rank: int, size: int, file: str) -> list[tuple[Count, Count]]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    try:
        return count(rank)
    finally:
        dist.destroy_process_group()


def report() -> int:
    """Run all cases in processes of their own and print a table; exit code 1 if a number differs from its formula."""
    size = max(len(case.lengths) for case in CASES)
    context = multiprocessing.get_context("forkserver")
    # The first use of checkpointing loads it, in every process.
    context.set_forkserver_preload(["torch._dynamo", __name__])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(size, mp_context=context) as pool:
        file = str(Path(folder, "group"))
        # Each waits for all others, so that no process takes two.
        results = list(pool.map(_process, range(size), [size] * size, [file] * size))
    print(
        "| lengths | D | B | order | dtype | filters by | layers | rank | sent forward | backward | kept a position |"
    )
    print("|---|--:|--:|--:|---|---|--:|--:|--:|--:|--:|")
    rest = [iter(of_rank) for of_rank in results]
    for case in CASES:
        for rank, length in enumerate(case.lengths):
            once, twice = next(rest[rank])
            again = ", computed again" if case.again else ", a model" if case.model else ""
            print(
                f"| {'+'.join(map(str, case.lengths))} | {case.width} | {case.batch} | {case.order} | "
                f"{str(case.dtype).removeprefix('torch.')} | {case.filters} | {case.layers}{again} | {rank} | "
                f"{once.forward:,} | {once.backward:,} | {(twice.kept - once.kept) / length:,.0f} |"
            )
    lines = differences(results)
    for line in lines:
        print(line, file=sys.stderr)
    if not lines:
        print("\nAll bytes that were sent are those of the formulas. So are those that operators of order 2 kept.")
    return 1 if lines else 0
