"""Compare bidirectional operators with the causal one: processor time of a call, forward and with backward.

python -m bench.kernels.bidirectional --lengths 256 1024 8192 --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.common import json_io, machine
from bench.common.timing import Call, Timer, in_turns
from bench.kernels.two_sided import two_calls
from hyena_kernels import HyenaOperator
from hyena_kernels.bidirectional import centred_short_conv

# As the published models.
_PUBLISHED: dict[str, Any] = {"emb_dim": 5, "w": 10.0, "lr_pos_emb": 0.0}


def by_two_calls(layer: HyenaOperator, u: Tensor) -> Tensor:
    """A two-sided operator of order 2 with two causal convolutions, one of them on reversed signals."""
    k, D = layer.filters(u.shape[1])
    x = layer.in_proj(u).transpose(1, 2)
    x0, x1, v = centred_short_conv(x, layer.short_filter.weight.squeeze(1), layer.short_filter.bias).chunk(3, dim=1)
    v = (v * x1).contiguous()
    taps = k[0] if D is None else k[0] + F.pad(D[0][:, None], (u.shape[1] - 1, u.shape[1] - 1))
    return layer.out_proj((two_calls(v, taps, "cpp") * x0).transpose(1, 2))


def measure(positions: int, width: int, length: int, rounds: int) -> list[dict[str, object]]:
    """Median milliseconds of each kind of operator, and the median of its ratio to the causal one.

    Args:
        positions: of all rows of a call.
        width: width of the operators.
        length: positions of a row.
        rounds: rounds of the calls in turns.
    """
    torch.manual_seed(0)
    causal = HyenaOperator(width, length, **_PUBLISHED)
    both = HyenaOperator(width, length, bidirectional=True, **_PUBLISHED)
    published = HyenaOperator(width, length, bidirectional="published", **_PUBLISHED)
    u = torch.randn(max(positions // length, 1), length, width, requires_grad=True)
    # An eighth of each row is pads.
    real = (torch.arange(length) < length - length // 8).expand(len(u), -1)
    calls: dict[str, Call] = {
        "causal": lambda: causal(u),
        "two-sided": lambda: both(u),
        "two-sided, pads": lambda: both(u, real=real),
        "two-sided, two calls": lambda: by_two_calls(both, u),
        "published": lambda: published(u),
        "published, pads": lambda: published(u, real=real),
    }
    found: list[dict[str, object]] = []
    timer = Timer("process", time.process_time)
    for what, gradients in (("forward", False), ("forward + backward", True)):
        measured: dict[str, Call] = {
            name: (lambda call=call: call().square().mean().backward()) if gradients else call  # type: ignore[misc]
            for name, call in calls.items()
        }
        with torch.set_grad_enabled(gradients):
            times = in_turns(measured, timer, rounds)
        for name, own in times.items():
            ratio = statistics.median(b / a for a, b in zip(times["causal"], own, strict=True))
            ms = 1000 * statistics.median(own)
            print(f"L = {length}, {what}, {name}: {ms:.1f} ms, {ratio:.2f}×", flush=True)
            found.append({"length": length, "what": what, "operator": name, "ms": ms, "ratio": ratio})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.bidirectional",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--positions", type=int, default=8192, help="positions of a call (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="width of the operators (default: %(default)s)")
    lengths = [256, 1024, 8192]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths, help="lengths (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: none)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = [
        record
        for length in options.lengths
        for record in measure(options.positions, options.width, length, options.rounds)
    ]
    if options.out is not None:
        json_io.write_json(options.out, {**machine.describe("cpu"), "rounds": options.rounds, "records": found})


if __name__ == "__main__":
    main()
