"""Peak memory of a function in a fresh process."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Setup = Callable[..., Callable[[], object]]


def peak_rss(setup: Setup, *args: Any) -> tuple[int, int]:
    """Resident memory of a fresh process that calls ``setup(*args)`` and then what it returned, once.

    Args:
        setup: importable function that builds inputs and weights and returns the function to measure.
        args: of ``setup``, picklable.

    Returns:
        Peak resident set in bytes before the measured call (imports, inputs, weights) and after it.
    """
    # Forked, before it has done anything, from a process that has imported what takes seconds to import.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload([setup.__module__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, setup, args))
    process.start()
    theirs.close()
    try:
        before, after = ours.recv()
    finally:
        process.join()
    return before, after


def _measure(pipe: Connection, setup: Setup, args: tuple[Any, ...]) -> None:
    run = setup(*args)
    before = peak_so_far()
    run()
    pipe.send((before, peak_so_far()))


def peak_so_far() -> int:
    """Peak resident set of this process in bytes."""
    # Linux carries ru_maxrss of the parent over to a child process; VmHWM starts anew with the child.
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
