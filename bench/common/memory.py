"""Peak memory of a function: on a GPU, or in a fresh process."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

_Setup = Callable[..., Callable[[], object]]

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def peak_cuda_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak bytes that torch allocates on a GPU during one call, beyond those allocated before."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_rss(setup: _Setup, *args: Any) -> tuple[int, int]:
    """Resident memory of a fresh process that calls ``setup(*args)`` and then the function it returns, once.

    Args:
        setup: importable function that builds inputs and weights and returns the function to measure.
        args: picklable arguments of ``setup``.

    Returns:
        Peak resident bytes before the measured call (imports, inputs, weights), and after it.
    """
    # The fork server imports the module once. Each measured process is then forked in milliseconds.
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


def _measure(pipe: Connection, setup: _Setup, args: tuple[Any, ...]) -> None:
    run = setup(*args)
    before = peak_so_far()
    run()
    pipe.send((before, peak_so_far()))


def return_freed_memory() -> None:
    """Have glibc give back freed memory at once, so that resident memory is what is in use. No effect without glibc.

    Otherwise it keeps blocks below 32 MiB for later, in holes that differ from run to run.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(option, 1 << 16)


def peak_so_far() -> int:
    """Peak resident bytes of this process."""
    # On Linux a child inherits ru_maxrss from its parent. VmHWM starts at zero in the child.
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
