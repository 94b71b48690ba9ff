"""Compare a two-sided convolution in one call with two causal calls, one of them on reversed signals: processor time.

python -m bench.kernels.two_sided --lengths 8192 65536 --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.common import json_io, machine
from bench.common.timing import Call, Timer, in_turns
from hyena_kernels import fftconv

BACKENDS = ("cpp", "torch")


def two_calls(u: Tensor, k: Tensor, backend: str) -> Tensor:
    """``fftconv(u, k, causal=False)`` for ``k (D, 2L-1)`` as a library without it has to compute it."""
    centre = k.shape[1] // 2
    ahead = fftconv(u, k[:, centre:], backend=backend)
    # The tap of lag 0 is in the first call, so the second has a filter without it.
    behind = torch.nn.functional.pad(k[:, :centre].flip(-1), (1, 0))
    return ahead + fftconv(u.flip(-1), behind, backend=backend).flip(-1)


def measure(batch: int, channels: int, length: int, backend: str, rounds: int) -> list[dict[str, object]]:
    """Median milliseconds of one call and of two, and the median ratio, forward and with backward."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(batch, channels, length, generator=generator, requires_grad=True)
    k = torch.randn(channels, 2 * length - 1, generator=generator, requires_grad=True)
    timer, found = Timer("process", time.process_time), []

    def one() -> Tensor:
        return fftconv(u, k, causal=False, backend=backend)

    def two() -> Tensor:
        return two_calls(u, k, backend)

    for what, gradients in (("forward", False), ("forward + backward", True)):
        calls: dict[str, Call] = {
            name: (lambda run=run: run().square().mean().backward()) if gradients else run  # type: ignore[misc]
            for name, run in (("one", one), ("two", two))
        }
        with torch.set_grad_enabled(gradients):
            first, second = in_turns(calls, timer, rounds).values()
        ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
        one_ms, two_ms = (1000 * statistics.median(each) for each in (first, second))
        print(
            f"{backend} L = {length}, {what}: one call {one_ms:.1f} ms, two {two_ms:.1f} ms, {ratio:.2f}×", flush=True
        )
        found.append(
            {"backend": backend, "length": length, "what": what, "one_ms": one_ms, "two_ms": two_ms, "ratio": ratio}
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.two_sided",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=1, help="batch size (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=128, help="number of channels (default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 65536], help="lengths (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: none)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = [
        record
        for backend in BACKENDS
        for length in options.lengths
        for record in measure(options.batch, options.channels, length, backend, options.rounds)
    ]
    if options.out is not None:
        json_io.write_json(options.out, {**machine.describe("cpu"), "rounds": options.rounds, "records": found})


if __name__ == "__main__":
    main()
