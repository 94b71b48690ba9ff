"""Tests of several processes: :func:`run_ranks` calls a function in every process of a gloo group.

The processes are forks of one server, which has imported torch and hyenadna before. So a start takes tenths of a
second. Put many checks into one start all the same.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

_PRELOADED = ["pytest", "torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "hyena_kernels", "hyenadna"]


def run_ranks(
    count: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 60.0,
    group: bool = True,
    environment: Mapping[str, str] | None = None,
    may_end: bool = False,
) -> list[Any]:
    """Call ``function(rank, *args)`` in ``count`` processes, and return what each returned, by rank.

    A failure in one process fails the test with its traceback, and ends the others. Every process has one thread.

    Args:
        count: number of processes.
        function: a function at the top of a test file.
        args: further arguments, which are pickled.
        timeout: seconds after which the test fails.
        group: have the processes form a gloo group, the default one of ``torch.distributed``.
        environment: further variables of the processes.
        may_end: whether a process may end without a result, which is then None.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs processes that fork")
    context = forkserver()
    with tempfile.TemporaryDirectory() as folder:
        ends = []
        processes = []
        for rank in range(count):
            end, other = context.Pipe(duplex=False)
            file = Path(folder, "group") if group else None
            given = (rank, count, file, dict(environment or {}), timeout, other, function, args)
            process = context.Process(target=_rank, args=given, daemon=True)
            process.start()
            other.close()
            ends.append(end)
            processes.append(process)
        try:
            return _collect(ends, function.__name__, timeout, may_end)
        finally:
            for process in processes:
                process.kill()
                process.join()


@functools.cache
def forkserver() -> Any:
    """A context of multiprocessing whose processes are forks of a server that has imported torch and hyenadna.

    The server is started once, and this waits until it has imported everything: that takes a minute where others work
    too. Its processes share no memory with the tests, as with the context "spawn".
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


def _collect(ends: list[Connection], name: str, timeout: float, may_end: bool) -> list[Any]:
    results: dict[int, Any] = {}
    until = time.monotonic() + timeout
    while len(results) < len(ends):
        ready = wait([end for rank, end in enumerate(ends) if rank not in results], max(0.0, until - time.monotonic()))
        if not ready:
            missing = [rank for rank in range(len(ends)) if rank not in results]
            pytest.fail(f"{name}: ranks {missing} have not ended after {timeout:.0f} s")
        for end in ready:
            rank = ends.index(end)  # type: ignore[arg-type]
            try:
                failure, results[rank] = ends[rank].recv()
            except EOFError:
                failure, results[rank] = "" if may_end else "the process has ended without a word", None
            if failure:
                pytest.fail(f"{name}, rank {rank} of {len(ends)}:\n{failure}")
    return [results[rank] for rank in range(len(ends))]


def _rank(
    rank: int,
    count: int,
    file: Path | None,
    environment: dict[str, str],
    timeout: float,
    end: Connection,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    try:
        os.environ |= environment
        torch.set_num_threads(1)
        torch.manual_seed(20230627)
        if file is not None:
            options: dict[str, Any] = {"rank": rank, "world_size": count, "timeout": timedelta(seconds=timeout)}
            dist.init_process_group("gloo", init_method=f"file://{file}", **options)
        result = function(rank, *args)
        if file is not None and dist.is_initialized():
            # The threads of gloo abort a process whose neighbour has left before it.
            dist.barrier()
        end.send(("", result))
    except BaseException:
        end.send((traceback.format_exc(), None))
    finally:
        # Without the end of Python, which would wait for the threads of gloo.
        os._exit(0)
