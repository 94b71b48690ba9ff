"""Time the far field against all taps and transforms, on the CPU in processor time of one thread.

Filter, convolution, and operator without its projections, forward and with backward; and fftconv with short filters.

python -m bench.kernels.far_field --lengths 32768 131072 1048576 --rounds 5
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

from bench.common import json_io, machine, memory
from bench.common.timing import Call, Timer, in_turns
from hyena_kernels import HyenaFilter, far_field_conv, fftconv, hyena_mixer, hyena_mixer_far
from hyena_kernels.far_field_plan import Plan

_PUBLISHED: dict[str, Any] = {"emb_dim": 5, "order": 64, "w": 10.0, "lr_pos_emb": 0.0}


class Case:
    """An operator of order 2 without its projections: its inputs, and both routes of each stage."""

    def __init__(self, channels: int, length: int) -> None:
        torch.manual_seed(0)
        self.length = length
        self.filter = HyenaFilter(channels, seq_len=length, **_PUBLISHED)
        self.x = torch.randn(1, length, 3 * channels, requires_grad=True)
        self.u = torch.randn(1, channels, length, requires_grad=True)
        self.short = torch.randn(3 * channels, 3, requires_grad=True)

    def filters(self, plan: Plan | None) -> tuple[Tensor, ...]:
        """Taps, or near taps and nodes."""
        return (self.filter.kernel(self.length),) if plan is None else self.filter.far_field(self.length, plan)[:2]

    def convolution(self, filters: tuple[Tensor, ...]) -> Tensor:
        """The gated long convolution of both routes, without gates."""
        D = self.filter.bias
        return fftconv(self.u, *filters, D) if len(filters) == 1 else far_field_conv(self.u, *filters, D)

    def operator(self, plan: Plan | None) -> Tensor:
        """Filter, short convolution, gates and long convolution."""
        filters, D = [each[None] for each in self.filters(plan)], self.filter.bias[None]
        mix = hyena_mixer if plan is None else hyena_mixer_far
        return mix(self.x, self.short, None, *filters, D)  # type: ignore[operator]

    def stages(self, plan: Plan | None) -> dict[str, Any]:
        """Calls whose results are differentiated, by name of the stage."""
        made = tuple(each.detach().requires_grad_() for each in self.filters(plan))
        return {
            "filter": lambda: self.filters(plan),
            "convolution": lambda: self.convolution(made),
            "operator": lambda: self.operator(plan),
        }


def _backward(call: Any) -> Any:
    found = call()
    results = found if isinstance(found, tuple) else (found,)
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])


def measure(channels: int, length: int, plans: Sequence[Plan], rounds: int) -> list[dict[str, object]]:
    """Median seconds of each stage and route, and the median of its ratio: today's route over the far field's."""
    case = Case(channels, length)
    routes: dict[str, Plan | None] = {"fft": None} | {f"h={plan.h} p={plan.p}": plan for plan in plans}
    stages = {route: case.stages(plan) for route, plan in routes.items()}
    timer, found = Timer("process", time.process_time), []
    for what in ("filter", "convolution", "operator"):
        for gradients in (False, True):
            calls: dict[str, Call] = {
                route: (lambda call=made[what]: _backward(call)) if gradients else made[what]
                for route, made in stages.items()
            }
            with torch.set_grad_enabled(gradients):
                times = in_turns(calls, timer, rounds)
            found += _records(times, {"length": length, "what": what, "backward": gradients})
    return found


def measure_short(channels: int, length: int, taps: Sequence[int], rounds: int) -> list[dict[str, object]]:
    """The same for fftconv with few taps, against one with as many taps as positions."""
    u = torch.randn(1, channels, length, requires_grad=True)
    filters = {count: torch.randn(channels, count, requires_grad=True) for count in (length, *taps)}
    timer, found = Timer("process", time.process_time), []
    for gradients in (False, True):
        calls: dict[str, Call] = {}
        for count, k in filters.items():
            name = "fft" if count == length else f"K={count}"
            forward = lambda k=k: fftconv(u, k)  # noqa: E731
            calls[name] = (lambda call=forward: _backward(call)) if gradients else forward
        with torch.set_grad_enabled(gradients):
            times = in_turns(calls, timer, rounds)
        found += _records(times, {"length": length, "what": "fftconv", "backward": gradients})
    return found


def _records(times: dict[str, list[float]], common: dict[str, Any]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for route, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["fft"], own, strict=True))
        ms = 1000 * statistics.median(own)
        kind = "forward + backward" if common["backward"] else "forward"
        print(f"L = {common['length']:,}, {common['what']}, {kind}, {route}: {ms:.1f} ms, {ratio:.2f}×", flush=True)
        found.append({**common, "route": route, "ms": ms, "ratio": ratio})
    return found


def peak_of_operator(channels: int, length: int, plan: Plan | None) -> int:
    """Bytes that one training step of the operator adds to the peak of this process."""
    case = Case(channels, length)
    before = memory.peak_so_far()
    _backward(lambda: case.operator(plan))
    return memory.peak_so_far() - before


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.far_field",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--channels", type=int, default=16, help="channels D (default: %(default)s)")
    lengths = [1 << 15, 1 << 17, 1 << 20]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths, help="lengths (default: %(default)s)")
    parser.add_argument(
        "--plans", nargs="+", default=["64,6", "128,6"], metavar="H,P", help="blocks and nodes (default: %(default)s)"
    )
    parser.add_argument("--taps", type=int, nargs="*", default=[], help="taps of short filters (default: none)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--peak",
        metavar="fft|H,P",
        help="only print the bytes that the operator of the longest length adds to the peak (default: none)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: none)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    def plan_of(text: str) -> Plan:
        h, p = map(int, text.split(","))
        return Plan(h, p)

    if options.peak is not None:
        plan = None if options.peak == "fft" else plan_of(options.peak)
        print(peak_of_operator(options.channels, max(options.lengths), plan))
        return
    chosen = [plan_of(text) for text in options.plans]
    found = [
        record for length in options.lengths for record in measure(options.channels, length, chosen, options.rounds)
    ]
    if options.taps:
        found += measure_short(options.channels, max(options.lengths), options.taps, options.rounds)
    if options.out is not None:
        json_io.write_json(options.out, {**machine.describe("cpu"), "rounds": options.rounds, "records": found})


if __name__ == "__main__":
    main()
