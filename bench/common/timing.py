"""Time functions: by processor time, by wall time or by CUDA events; one function, or several in turns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

Call = Callable[[], object]

_HOLD_CYCLES = 4_000_000
"""How long the stream of a GPU is held at first, about 2 ms."""
_LONGEST_HOLD_CYCLES = _HOLD_CYCLES << 8
"""The longest that it is held, about half a second. After 1024 launches or so a stream takes no more until some ran."""
_SPIN_SIZE = 2048
"""Rows of the matrices that are multiplied to make a GPU raise its clocks."""
_FLUSH_BYTES = 256 << 20
"""Bytes that are written to replace the contents of the L2 cache; more than the cache of any GPU."""


class Timer:
    """Time calls by a clock of the host.

    Args:
        name: name of the clock in records.
        read: returns the seconds of the clock, after all work that was queued before.
    """

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        self.name, self.read = name, read

    def time(self, run: Call, repeats: int = 1) -> float:
        """Seconds per call."""
        start = self.read()
        for _ in range(repeats):
            run()
        return (self.read() - start) / repeats


class EventTimer(Timer):
    """Time calls by CUDA events.

    Args:
        device: the GPU.
        cold: overwrite the L2 cache before the first event. Otherwise, if ``hold``, ``run`` is called once before it.
        hold: hold the stream until all launches are queued, so that Python time is excluded. A hold that turns out too
            short for the launches is doubled, and the call is timed again.
    """

    def __init__(self, device: torch.device, *, cold: bool = False, hold: bool = True) -> None:
        name = ("CUDA events, cold L2" if cold else "CUDA events, warm L2") if hold else "CUDA events"
        super().__init__(name, time.perf_counter)
        self.device, self.cold, self.hold = device, cold, hold
        # Only functions whose launches take long are held for long. A function that is gone takes its entry with it.
        self.cycles: WeakKeyDictionary[Call, int] = WeakKeyDictionary()
        self.flush = torch.empty(_FLUSH_BYTES // 4 if cold else 0, dtype=torch.int32, device=device)

    def time(self, run: Call, repeats: int = 1) -> float:
        """Seconds per call on the GPU.

        Warns:
            RuntimeWarning: the launches take longer than the longest hold. The seconds then include Python time.
        """
        cycles = self.cycles.get(run, _HOLD_CYCLES)
        while True:
            begin, end, queued = self._queue(run, repeats, cycles)
            torch.cuda.synchronize(self.device)
            if queued or cycles >= _LONGEST_HOLD_CYCLES:
                break
            cycles *= 2
        self.cycles[run] = cycles
        if not queued:
            text = "the launches of a call take longer than a stream is held: its time includes Python"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return float(begin.elapsed_time(end)) / 1000 / repeats

    def _queue(self, run: Call, repeats: int, cycles: int) -> tuple[Any, Any, bool]:
        """Queue the calls between two events. Also returns whether all were queued before the first event was over."""
        if self.hold:
            torch.cuda._sleep(cycles)
        if self.cold:
            self.flush.zero_()
        elif self.hold:
            run()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        return begin, end, not (self.hold and begin.query())


def cpu_timer() -> Timer:
    """Processor time with one thread, else wall time: processor time would add up the waiting of several threads."""
    if torch.get_num_threads() == 1:
        return Timer("process time", time.process_time)
    return Timer("wall", time.perf_counter)


def timer_for(device: torch.device, *, is_op: bool, cold: bool) -> Timer:
    """Timer of a workload of the suite.

    Args:
        device: device of the workload.
        is_op: whether it is a single op. At short lengths the launches of an op take as long as its work, so only its
            time on the GPU counts. The time of operators and models is the time that a user waits.
        cold: whether the L2 cache is cold for an op.
    """
    if device.type != "cuda":
        return cpu_timer()
    if is_op:
        return EventTimer(device, cold=cold)

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return Timer("wall, synchronised", synchronised)


def in_turns(functions: Mapping[str, Call], timer: Timer, rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """Time functions in turns, after one call of each.

    Every function has its turn in every round. A change of the machine's speed between rounds then affects them all.

    Args:
        functions: functions by name.
        timer: the timer.
        rounds: number of rounds.
        repeats: calls per turn.

    Returns:
        Seconds per call by name, one value per round.
    """
    for function in functions.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            samples[name].append(timer.time(function, repeats))
    return samples


def best_seconds(function: Call, timer: Timer, rounds: int, repeats: int = 1) -> float:
    """Shortest time per call over several rounds: other processes can only make a call slower."""
    return max(min(in_turns({"": function}, timer, rounds, repeats)[""]), 1e-9)


def spin(device: torch.device, seconds: float) -> None:
    """Multiply matrices on a GPU for so long that its clocks go up. On other devices this does nothing."""
    if device.type != "cuda":
        return
    matrix = torch.zeros(_SPIN_SIZE, _SPIN_SIZE, device=device)
    product = torch.empty_like(matrix)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(8):
            torch.mm(matrix, matrix, out=product)
        torch.cuda.synchronize(device)


def captured(function: Callable[[], Any], device: torch.device, *, calls_before: int = 3) -> tuple[Call, Any]:
    """Capture one call as a CUDA graph.

    Args:
        function: a function without arguments. Every replay uses the tensors that it used when it was captured.
        device: the GPU.
        calls_before: calls before the capture, on a stream of their own, as torch requires.

    Returns:
        The replay, which launches everything at once, and the result of the captured call. A replay overwrites it.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(calls_before):
            function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result
