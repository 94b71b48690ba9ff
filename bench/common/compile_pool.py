"""Compile kernels ahead of timing, in several processes: compiling while timing would disturb the clocks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class CompilePool:
    """Processes that fill Triton's cache on disk.

    Args:
        count: number of processes. With 1, nothing is compiled ahead.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            self._pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))

    def run(self, function: Callable[..., object], jobs: Iterable[tuple[Any, ...]], seconds: float) -> None:
        """Call an importable function with the arguments of each job, for at most ``seconds``.

        Errors are printed and otherwise ignored: they come up again where the kernel is timed.
        """
        if self._pool is None:
            return
        try:
            futures = [self._pool.submit(function, *job) for job in jobs]
            done, _ = wait(futures, timeout=max(1.0, seconds))
            for error in {repr(future.exception()) for future in done if future.exception() is not None}:
                print(f"  compiling ahead: {error}", flush=True)
        except BrokenProcessPool as error:
            print(f"  no more compiling ahead: {error}", flush=True)
            self._pool = None

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        if self._pool is not None:
            workers = list((getattr(self._pool, "_processes", None) or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in workers:
                process.terminate()
                process.join()
