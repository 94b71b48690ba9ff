"""Medians of functions that take turns in one process: of calls, and of the replays of CUDA graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ROUND_SECONDS = 3.0
"""Longest time for the rounds of one comparison."""

Times = dict[str, float]
"""Milliseconds by name."""


class Clock:
    """Medians of functions that take turns, on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.flush = torch.empty(64 << 20, dtype=torch.int32, device=device) if self.on_gpu else None

    def _span(self, function: Callable[[], object], repeats: int, cold: bool) -> float:
        """Milliseconds of one call."""
        if not self.on_gpu:
            start = time.perf_counter()
            function()
            return 1000 * (time.perf_counter() - start)
        if cold and self.flush is not None:
            self.flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            function()
        end.record()
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / repeats

    def alternate(self, functions: dict[str, Callable[[], object]], *, cold: bool) -> Times:
        """Median milliseconds of each function; with ``cold``, each call finds the L2 cache full of other things."""
        if not self.on_gpu:
            return {name: self._span(function, 1, cold) for name, function in functions.items()}
        repeats = {}
        for name, function in functions.items():
            function()
            first = self._span(function, 1, cold)
            repeats[name] = 1 if cold else max(1, min(50, int(2 / max(first, 1e-3))))
        samples: dict[str, list[float]] = {name: [] for name in functions}
        start = time.monotonic()
        for number in range(25):
            if number >= 5 and time.monotonic() - start > ROUND_SECONDS:
                break
            for name, function in functions.items():
                samples[name].append(self._span(function, repeats[name], cold))
        return {name: statistics.median(values) for name, values in samples.items()}

    def captured(self, function: Callable[[], object]) -> Callable[[], object]:
        """The replay of a CUDA graph of one call."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                function()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        return graph.replay

    def extra_memory(self, function: Callable[[], object]) -> int | None:
        """Most bytes that a call holds beyond those that are held before it."""
        if not self.on_gpu:
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def reason_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def refused(error: Exception) -> str:
    """The reason why a function could not be timed, if the device still works; raises the error if it does not."""
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise error from None
        torch.cuda.empty_cache()
    return reason_of(error)


def compare(clock: Clock, functions: dict[str, Callable[[], object]], *, graphs: bool) -> dict[str, Any]:
    """Times of the functions, of their graphs too if asked for, and the reasons why one could not be timed."""
    reasons: dict[str, str] = {}
    for name in list(functions) if clock.on_gpu else ():
        try:
            functions[name]()
        except Exception as error:
            reasons[name] = refused(error)
            del functions[name]
    result: dict[str, Any] = {"calls_ms": clock.alternate(functions, cold=False), "reasons": reasons}
    if graphs and clock.on_gpu:
        replays = {}
        for name, function in functions.items():
            try:
                replays[name] = clock.captured(function)
            except Exception as error:
                reasons[f"{name}, graph"] = refused(error)
        result["graph_ms"] = clock.alternate(replays, cold=True)
    best = {**result["calls_ms"], **result.get("graph_ms", {})}
    # A ratio of a replay and a call would mean nothing.
    same = result["graph_ms"] if result.get("graph_ms", {}).keys() == functions.keys() else result["calls_ms"]
    result["ms"] = best.get("ours")
    result["ratios"] = {
        name: same[name] / same["ours"] for name in same if name != "ours" and "ours" in same and same["ours"] > 0
    }
    return result
