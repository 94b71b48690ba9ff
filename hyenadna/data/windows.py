"""Windows of a genome: random ones for training, in an order that can be resumed anywhere, and tiles to evaluate.

Several processes may divide each window along its length (context parallelism). Every process then reads its own
slice of a window only, so that none holds a window that is too long for one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID, reverse_complement
from hyenadna.data.genome import Genome
from hyenadna.data.intervals import Interval
from hyenadna.data.n_counts import NCounts

WindowKey = tuple[int, int]
"""(index of the sample in the run, window length)"""

_MAX_DRAWS = 1000
_UINT64 = (1 << 64) - 1


def context_slice(total: int, rank: int, size: int) -> tuple[int, int]:
    """Offset and number of the inputs of one process, where ``size`` processes divide ``total`` inputs evenly.

    The first ``total % size`` processes have one more, as in ``hyena_kernels.distributed.ContextShards.even``.
    """
    share, more = divmod(total, size)
    return rank * share + min(rank, more), share + (rank < more)


def _check_context(context: tuple[int, int]) -> tuple[int, int]:
    rank, size = context
    if not 0 <= rank < size:
        raise InputError(f"rank {rank} of {size} processes does not exist; ranks count from 0")
    return rank, size


class TrainWindows(Dataset[torch.Tensor]):
    """Random windows of the training intervals, each a pure function of (seed, index, length).

    The key of an item is ``(index, length)``. A window starts with equal probability at every position where it fits
    into its interval. Intervals shorter than the window are not used, and positions in two intervals count twice. A
    window with too much N is drawn again.

    With ``context`` the item is this process's slice of the same window, bit for bit. A window of T + 1 tokens has T
    inputs, which the processes divide evenly. A process with inputs ``[a, b)`` gets the tokens ``[a, b]``: its inputs
    and, one position later, its targets. The N of the whole window are counted all the same, from running totals, so
    that all processes draw the same windows. The totals are made here: see `NCounts`.

    Args:
        genome: the prepared genome.
        intervals: intervals to draw from.
        seed: seed of the counter-based generator (Philox, keyed with seed and index).
        max_n_fraction: greatest fraction of N in a window.
        reverse_complement: return half of the windows as their reverse complement.
        n_to_pad: replace N by [PAD], as in the pretraining of the published weights.
        context: rank of this process among those that divide each window, and their number.

    Raises:
        InputError: there is no interval, ``max_n_fraction`` is not within 0 to 1, or ``context`` has no such rank.
    """

    def __init__(
        self,
        genome: Genome,
        intervals: Sequence[Interval],
        *,
        seed: int,
        max_n_fraction: float = 0.1,
        reverse_complement: bool = False,
        n_to_pad: bool = True,
        context: tuple[int, int] = (0, 1),
    ) -> None:
        if not intervals:
            raise InputError("no interval to draw training windows from; give at least one")
        if not 0 <= max_n_fraction <= 1:
            raise InputError(f"max_n_fraction {max_n_fraction:g} is not within 0 to 1")
        self.genome = genome
        self.intervals = list(intervals)
        self.seed = seed
        self.max_n_fraction = max_n_fraction
        self.reverse_complement = reverse_complement
        self.n_to_pad = n_to_pad
        self.context = _check_context(context)
        whole = self.context[1] == 1
        self._n_counts = None if whole else NCounts(genome, (interval.contig for interval in self.intervals))
        self._ends_by_length: dict[int, list[int]] = {}
        self._philox = np.random.Philox(key=[seed & _UINT64, 0])
        self._philox_state = self._philox.state

    def __getitem__(self, key: WindowKey) -> torch.Tensor:
        """The window of a key, or this process's slice of it: token ids, uint8 (length,) or (inputs of the slice + 1,).

        Raises:
            InputError: no interval is that long, windows with so little N are too rare to be found, or the window has
                fewer inputs than there are processes to divide it.
        """
        index, length = key
        ends = self._ends_by_length.get(length)
        if ends is None:
            ends = self._ends_by_length[length] = self._count_starts(length)
        self._rekey(index, length)
        for _ in range(_MAX_DRAWS):
            draw, coin = self._philox.random_raw(2).tolist()
            # The high half of a product of two 64-bit numbers. Its bias is at most 2**-64 for each position.
            start = draw * ends[-1] >> 64
            i = bisect_right(ends, start)
            interval = self.intervals[i]
            offset = interval.start + start - (ends[i - 1] if i else 0)
            if self._n_counts is None:
                ids = self.genome.tokens(interval.contig, offset, offset + length)
                is_n = ids == N_ID
                n_count = int(np.count_nonzero(is_n))
            else:
                n_count = self._n_counts.count(interval.contig, offset, offset + length)
            if n_count <= self.max_n_fraction * length:
                break
        else:
            raise InputError(
                f"no window of length {length} with at most {self.max_n_fraction:.0%} N was found in {_MAX_DRAWS} "
                "draws; raise max_n_fraction, shorten the windows or choose other intervals"
            )
        turned = self.reverse_complement and coin & 1
        if self._n_counts is not None:
            first, inputs = context_slice(length - 1, *self.context)
            # The reverse complement starts with the window's last token.
            offset += length - first - inputs - 1 if turned else first
            ids = self.genome.tokens(interval.contig, offset, offset + inputs + 1)
            is_n = ids == N_ID
        ids = np.where(is_n, np.uint8(PAD_ID), ids) if self.n_to_pad and n_count else ids.copy()
        if turned:
            ids = reverse_complement(ids)
        return torch.from_numpy(ids)

    def check(self, length: int) -> None:
        """Raise the InputError of a length that cannot be drawn here, before a worker process does."""
        self[0, length]

    def _count_starts(self, length: int) -> list[int]:
        """Running total over the intervals of the positions where a window fits."""
        if length < 1:
            raise InputError(f"window length {length} is not positive")
        size = self.context[1]
        if size > 1 and length - 1 < size:
            raise InputError(
                f"{size} processes cannot divide windows of {length - 1} inputs; lengthen the windows or divide them "
                "over fewer processes"
            )
        ends = list(accumulate(max(0, len(interval) - length + 1) for interval in self.intervals))
        if ends[-1] == 0:
            longest = max(self.intervals, key=len)
            raise InputError(
                f"windows of length {length} fit into no training interval; the longest is "
                f"{longest.contig}:{longest.start}-{longest.end} ({len(longest)}): shorten the windows"
            )
        return ends

    def _rekey(self, index: int, length: int) -> None:
        # This takes a third of the time of a new generator.
        state = self._philox_state["state"]
        state["key"][1] = index
        state["counter"][:] = (0, 0, 0, length)
        self._philox.state = self._philox_state


class Stage(NamedTuple):
    """Batches of ``batch_size`` windows of ``length``, from step ``first_step`` on."""

    first_step: int
    length: int
    batch_size: int


def warmup_stages(
    length: int, batch_size: int, *, start_length: int | None = None, steps_per_stage: int = 0
) -> list[Stage]:
    """Sequence-length warm-up: the window length doubles from stage to stage, with constant tokens per step.

    Args:
        length: the final window length.
        batch_size: batch size at the final length. A shorter stage has ``batch_size * length // stage_length``.
        start_length: window length of the first stage; None for no warm-up.
        steps_per_stage: steps of each stage. The last stage has no end.

    Returns:
        The stages in order. The last one has ``length`` and ``batch_size``.

    Raises:
        InputError: a length, batch size or number of steps is below 1, or the start is above ``length``.
    """
    if length < 1 or batch_size < 1:
        raise InputError(f"window length {length} and batch size {batch_size} must be at least 1")
    if start_length is None:
        return [Stage(0, length, batch_size)]
    if not 1 <= start_length <= length:
        raise InputError(f"start length {start_length} of the warm-up is not within 1 to the window length {length}")
    if steps_per_stage < 1:
        raise InputError(f"the warm-up needs at least 1 step per stage, not {steps_per_stage}")
    lengths = []
    while start_length < length:
        lengths.append(start_length)
        start_length *= 2
    lengths.append(length)
    return [Stage(i * steps_per_stage, n, batch_size * length // n) for i, n in enumerate(lengths)]


class BatchSchedule(Sampler[list[WindowKey]]):
    """The keys of every batch of a run. They are a pure function of the step, so a run can be resumed anywhere.

    Use it as ``DataLoader(train_windows, batch_sampler=BatchSchedule(...))``. Samples are numbered from step 0 on, so
    that no two steps have the same one.

    Args:
        stages: stages from `warmup_stages`; the first starts at step 0.
        start_step: first step to yield.
        end_step: one past the last step to yield.

    Raises:
        InputError: there is no stage, stages do not start at step 0 or do not ascend, or the steps do not ascend.
    """

    def __init__(self, stages: Sequence[Stage | tuple[int, int, int]], start_step: int, end_step: int) -> None:
        self.stages = [Stage(*stage) for stage in stages]
        firsts = [stage.first_step for stage in self.stages]
        if not firsts or firsts[0] != 0 or any(a >= b for a, b in pairwise(firsts)):
            raise InputError(f"stages must begin at step 0 and ascend, not {firsts}")
        if not 0 <= start_step <= end_step:
            raise InputError(f"steps {start_step} to {end_step} do not ascend from 0")
        self.start_step = start_step
        self.end_step = end_step
        sizes = [(stage.first_step - before.first_step) * before.batch_size for before, stage in pairwise(self.stages)]
        self._first_samples = list(accumulate(sizes, initial=0))
        self._first_steps = firsts

    def __len__(self) -> int:
        """Number of batches."""
        return self.end_step - self.start_step

    def __iter__(self) -> Iterator[list[WindowKey]]:
        """Yield the keys of each step in order."""
        return (self.keys(step) for step in range(self.start_step, self.end_step))

    def keys(self, step: int) -> list[WindowKey]:
        """The keys ``(sample index, length)`` of the batch of one step."""
        i = bisect_right(self._first_steps, step) - 1
        first_step, length, batch_size = self.stages[i]
        first = self._first_samples[i] + (step - first_step) * batch_size
        return [(index, length) for index in range(first, first + batch_size)]


@dataclass(frozen=True)
class EvalBatch:
    """Windows of equal length, or one process's slice of each. Iterating gives ``ids`` and ``windows``.

    Attributes:
        ids: uint8 (B, inputs + 1). Without slices, ``inputs`` is ``total``.
        windows: contig and first position of each whole window.
        offset: the first of its inputs that are in ``ids``.
        total: number of inputs of a whole window.
    """

    ids: torch.Tensor
    windows: list[tuple[str, int]]
    offset: int
    total: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.windows))

    @property
    def is_whole(self) -> bool:
        """Whether ``ids`` holds whole windows."""
        return self.ids.shape[1] == self.total + 1


class EvalWindows:
    """Tiles of intervals in which every position except the first of an interval is predicted exactly once.

    A window of T inputs holds T + 1 tokens: inputs ``ids[:, :-1]`` and targets ``ids[:, 1:]``. T is ``length``, or less
    in the last window of an interval. The caller must mask targets that are N or [PAD].

    With ``context`` a batch holds this process's slice of each window, as in `TrainWindows`. Every process gets as many
    batches, of the same windows. Windows in which a process would have fewer than ``least_inputs`` inputs are not
    divided: every process gets them whole, and one of them is to count their losses. See `EvalBatch.is_whole`.

    Args:
        genome: the prepared genome.
        intervals: intervals to evaluate on. Positions in two intervals are predicted twice.
        length: greatest number of inputs in a window.
        n_to_pad: replace N by [PAD], as in training.
        max_windows: take only this many windows, evenly spaced.
        context: rank of this process among those that divide each window, and their number.
        least_inputs: inputs that a slice must have. A model needs ``short_filter_order - 1`` of them, and at least 1.

    Raises:
        InputError: ``length``, ``max_windows`` or ``least_inputs`` is below 1, the intervals have no position to
            predict, ``context`` has no such rank, or slices of windows of ``length`` have fewer than ``least_inputs``.
    """

    def __init__(
        self,
        genome: Genome,
        intervals: Sequence[Interval],
        length: int,
        *,
        n_to_pad: bool = True,
        max_windows: int | None = None,
        context: tuple[int, int] = (0, 1),
        least_inputs: int = 2,
    ) -> None:
        if length < 1 or (max_windows is not None and max_windows < 1):
            raise InputError(f"window length {length} and number of windows {max_windows} must be at least 1")
        if least_inputs < 1:
            raise InputError(f"least_inputs {least_inputs} must be at least 1")
        rank, size = _check_context(context)
        if size > 1 and length < size * least_inputs:
            raise InputError(
                f"{size} processes cannot divide windows of {length} inputs, of which each needs {least_inputs}; "
                "lengthen the windows or divide them over fewer processes"
            )
        usable = [interval for interval in intervals if len(interval) > 1]
        if not usable:
            raise InputError("the intervals hold no position to predict; give at least one of 2 positions or more")
        self.genome = genome
        self.n_to_pad = n_to_pad
        self.context = rank, size
        self.least_inputs = least_inputs
        self._contigs = [interval.contig for interval in usable]
        starts = [np.arange(i.start, i.end - 1, length, dtype=np.int64) for i in usable]
        sizes = [np.minimum(length, i.end - 1 - s) for i, s in zip(usable, starts, strict=True)]
        owner = np.repeat(np.arange(len(usable)), [len(s) for s in starts])
        table = np.stack([owner, np.concatenate(starts), np.concatenate(sizes)], axis=1)
        if max_windows is not None and max_windows < len(table):
            table = table[np.arange(max_windows) * len(table) // max_windows]
        # Sorted by length; within a length, in the order of the genome.
        self._table = table[np.argsort(-table[:, 2], kind="stable")]

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._table)

    @property
    def n_targets(self) -> int:
        """Number of predicted positions, including N."""
        return int(self._table[:, 2].sum())

    @property
    def longest(self) -> int:
        """Number of inputs of the longest window."""
        return int(self._table[0, 2])

    def batches(self, batch_size: int) -> Iterator[EvalBatch]:
        """Yield batches of at most ``batch_size`` windows of equal length, the longest windows first.

        Raises:
            InputError: ``batch_size`` below 1.
        """
        return (self._batch(rows) for rows in self._pieces(batch_size))

    def dealt(self, batch_size: int, rank: int, size: int) -> Iterator[tuple[EvalBatch, bool]]:
        """The :meth:`batches` of one of ``size`` processes that take them in turn, and whether each batch counts.

        Every process gets as many. Who would have one less gets the last batch of all once more, which does not count.

        Raises:
            InputError: ``batch_size`` below 1.
        """
        pieces = self._pieces(batch_size)
        for number in range(rank, -(-len(pieces) // size) * size, size):
            yield self._batch(pieces[min(number, len(pieces) - 1)]), number < len(pieces)

    def _pieces(self, batch_size: int) -> list[np.ndarray]:
        """The rows of the table that each batch has."""
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} must be at least 1")
        borders = np.flatnonzero(np.diff(self._table[:, 2])) + 1
        return [
            group[first : first + batch_size]
            for group in np.split(self._table, borders)
            for first in range(0, len(group), batch_size)
        ]

    def _batch(self, rows: np.ndarray) -> EvalBatch:
        windows = [(self._contigs[owner], start) for owner, start, _ in rows.tolist()]
        total = int(rows[0, 2])
        rank, size = self.context
        divided = total >= size * self.least_inputs
        offset, inputs = context_slice(total, rank, size) if divided else (0, total)
        ids = np.stack(
            [self.genome.tokens(contig, start + offset, start + offset + inputs + 1) for contig, start in windows]
        )
        if self.n_to_pad:
            ids[ids == N_ID] = PAD_ID
        return EvalBatch(torch.from_numpy(ids), windows, offset, total)
