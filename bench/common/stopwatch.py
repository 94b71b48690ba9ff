"""What tells how long a call takes: processor time, wall time after all work of a GPU, or events in its queue."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

AHEAD_CYCLES = 4_000_000
"""For which a GPU waits, some 2 ms, while the host launches what is measured."""
FLUSH_BYTES = 256 << 20
"""Written before a call that is to find nothing of its own in the L2 cache; more than any GPU's holds."""


class Stopwatch:
    """Seconds of a call by a clock of the host.

    Args:
        name: as records have it.
        read: seconds of that clock, when what was asked for before is done.
    """

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        self.name, self.read = name, read

    def time(self, run: Callable[[], object]) -> float:
        """Seconds of one call."""
        start = self.read()
        run()
        return self.read() - start


class EventStopwatch(Stopwatch):
    """Seconds of a call between two events in the queue of a GPU, which waits until all launches stand there.

    So neither Python nor launches count. With ``cold`` the L2 cache then holds :data:`FLUSH_BYTES` of other things;
    otherwise what a call before it left there.

    Args:
        device: the GPU.
        cold: whether a call finds other things in the L2 cache.
    """

    def __init__(self, device: torch.device, *, cold: bool) -> None:
        super().__init__("CUDA events, cold L2" if cold else "CUDA events, warm L2", time.perf_counter)
        self.device, self.cold = device, cold
        self.flush = torch.empty(FLUSH_BYTES // 4 if cold else 0, dtype=torch.int32, device=device)

    def time(self, run: Callable[[], object]) -> float:
        """Seconds of one call on the GPU."""
        torch.cuda._sleep(AHEAD_CYCLES)
        if self.cold:
            self.flush.zero_()
        else:
            run()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / 1000


def stopwatch(device: torch.device, *, is_op: bool, cold: bool) -> Stopwatch:
    """The clock for a workload.

    Args:
        device: where it runs.
        is_op: a single op, whose launches take as long as its work at short lengths: its time is that of the GPU alone.
            What consists of many launches is measured as a user waits for it.
        cold: whether an op finds other things in the L2 cache.
    """
    if device.type == "cuda":
        if is_op:
            return EventStopwatch(device, cold=cold)

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return Stopwatch("wall, synchronised", synchronised)
    # Of several threads it would add up their waiting.
    if torch.get_num_threads() == 1:
        return Stopwatch("process time", time.process_time)
    return Stopwatch("wall", time.perf_counter)
