"""Time of ``short_conv``: SiLU fused against apart, and many taps against ``fftconv``.

    python -m bench.kernels.short_conv

Milliseconds of processor time of one thread, medians of calls in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels import fftconv, short_conv

Run = Callable[..., Tensor]


def medians(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Milliseconds of processor time of each call, taken in turns after three calls of each."""
    times: list[list[float]] = [[] for _ in calls]
    # The allocator keeps memory of this size only after some calls. Until then its pages are new at every call.
    for each in 3 * list(calls):
        each()
    for _ in range(rounds):
        for kept, each in zip(times, calls, strict=True):
            start = time.process_time()
            each()
            kept.append(1e3 * (time.process_time() - start))
    return [statistics.median(kept) for kept in times]


def both_directions(runs: Sequence[Run], tensors: Sequence[Tensor], rounds: int) -> str:
    """Forward and forward + backward of each, as a line of text."""
    with torch.no_grad():
        forward = medians([partial(run, *tensors) for run in runs], rounds)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    dy = torch.randn_like(runs[0](*tensors))

    def gradients(run: Run) -> object:
        return torch.autograd.grad(run(*leaves), leaves, dy)

    full = medians([partial(gradients, run) for run in runs], rounds)
    return ", ".join(f"{one:.1f} / {two:.1f}" for one, two in zip(forward, full, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--channels", type=int, default=768, help="channels D (default: %(default)s)")
    parser.add_argument("--length", type=int, default=8192, help="length L (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    x, bias = torch.randn(1, options.channels, options.length), torch.randn(options.channels)
    weight = torch.randn(options.channels, 4)
    print("4 taps and SiLU, fused, apart: forward / forward + backward in ms")
    for backend in ("cpp", "torch"):

        def fused(x: Tensor, weight: Tensor, bias: Tensor, backend: str = backend) -> Tensor:
            return short_conv(x, weight, bias, activation="silu", backend=backend)

        def apart(x: Tensor, weight: Tensor, bias: Tensor, backend: str = backend) -> Tensor:
            return F.silu(short_conv(x, weight, bias, backend=backend))

        last = x.transpose(1, 2).contiguous().transpose(1, 2)
        for order, signal in (("channel-first", x), ("channel-last", last)):
            print(f"{backend} {order}:", both_directions([fused, apart], [signal, weight, bias], options.rounds))
    print("taps: short_conv on cpp, fftconv on cpp, short_conv on torch")
    runs: list[Run] = [
        lambda x, weight: short_conv(x, weight, backend="cpp"),
        lambda x, weight: fftconv(x, weight.flip(1), backend="cpp"),
        lambda x, weight: short_conv(x, weight, backend="torch"),
    ]
    for taps in (8, 16, 64, 128, 256):
        print(f"{taps}:", both_directions(runs, [x, torch.randn(options.channels, taps)], options.rounds))


if __name__ == "__main__":
    main()
