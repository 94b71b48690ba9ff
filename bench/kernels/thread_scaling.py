"""Compare the C++ kernels on all processors with one thread: wall time, in turns.

python -m bench.kernels.thread_scaling --rounds 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.common import json_io, machine
from bench.common.timing import Call, Timer, in_turns
from hyena_kernels import fftconv, use_backend
from hyena_kernels.testing import fftconv_inputs
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM


def _workloads(length: int) -> dict[str, tuple[Call, Call]]:
    """Forward, and forward with backward, by name."""
    leaves = {name: x.requires_grad_() for name, x in fftconv_inputs(1, 128, length).items() if x is not None}
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(HyenaDNAConfig.named("small-32k", max_seq_len=length + 2, embed_dropout=0.0))
    ids = torch.randint(7, 11, (1, length), generator=torch.Generator().manual_seed(0))
    return {
        f"fftconv (1, 128, {length})": (
            lambda: fftconv(**leaves),
            lambda: fftconv(**leaves).square().mean().backward(),
        ),
        "HyenaDNA small-32k": (lambda: model(ids).logits, lambda: model(ids, labels=ids).loss.backward()),
    }


def _with_threads(count: int, function: Call, gradients: bool) -> Callable[[], None]:
    def run() -> None:
        torch.set_num_threads(count)
        with torch.set_grad_enabled(gradients):
            function()

    return run


def measure(length: int, rounds: int) -> list[dict[str, object]]:
    """Median milliseconds with all processors and with one, and the median ratio, by workload and direction."""
    count, before = os.cpu_count() or 1, torch.get_num_threads()
    timer, found = Timer("wall", time.perf_counter), []
    try:
        for name, functions in _workloads(length).items():
            record: dict[str, object] = {"op": name, "processors": count}
            for what, function in zip(("forward", "both"), functions, strict=True):
                calls = {
                    str(n): _with_threads(threads, function, what == "both") for n, threads in enumerate((count, 1))
                }
                many, one = in_turns(calls, timer, rounds).values()
                ratio = statistics.median(b / a for a, b in zip(many, one, strict=True))
                many_ms, one_ms = (1000 * statistics.median(each) for each in (many, one))
                record[what] = {"all_ms": many_ms, "one_ms": one_ms, "ratio": ratio}
                print(
                    f"{name}, {what}: {count} threads {many_ms:.1f} ms, one {one_ms:.1f} ms, {ratio:.2f}×", flush=True
                )
            found.append(record)
    finally:
        torch.set_num_threads(before)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.thread_scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", type=int, default=32768, help="sequence length (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: none)")
    options = parser.parse_args(arguments)
    with use_backend("cpp"):
        found = measure(options.length, options.rounds)
    if options.out is not None:
        json_io.write_json(options.out, {**machine.describe("cpu"), "rounds": options.rounds, "records": found})


if __name__ == "__main__":
    main()
