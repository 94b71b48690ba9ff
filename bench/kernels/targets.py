"""Measure the shapes that have targets, and compare the figures with the targets.

    python -m bench.kernels.targets
    HYENA_CPU_ISA=portable python -m bench.kernels.targets --workload fftconv --json portable.json
    python -m bench.kernels.targets --from bench/results/my-gpu/targets.json

Cases and options are those of `python -m bench.suite --cases targets`. With --from, an earlier run is compared. The
exit code is 1 if a check failed or hyena_kernels raised an error, and 2 on bad usage. A missed target does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.common.format import length_text
from bench.common.run_file import OURS, BadRun, Record, Run, is_measured, read_run
from bench.suite.__main__ import make_parser, read_options, run as run_suite

_MILLION = 1 << 20
_UNEVEN = (1000, 4097, 65537)
"""Lengths of the CPU targets that are not powers of two."""


@dataclass(frozen=True)
class _Target:
    """A figure that hyena_kernels should reach at every chosen record.

    Args:
        what: the figure in words.
        limit: the limit.
        workload: workload of the records.
        direction: direction of the records.
        figure: ``"ratio"`` of an implementation's time to ours; ``"ms"`` of ours; ``"backward ms"``, ours in both
            directions minus forward; ``"memory"`` of ours as a fraction of an implementation's.
        against: the other implementation.
        place: further fields of the records.
        lengths: which lengths; default all.
    """

    what: str
    limit: float
    workload: str
    direction: str
    figure: str = "ratio"
    against: str = "published"
    place: dict[str, Any] = field(default_factory=dict)
    lengths: Callable[[int], bool] = lambda length: True

    @property
    def at_least(self) -> bool:
        return self.figure == "ratio"

    def text(self, value: float) -> str:
        """A value of the figure with its unit."""
        return {"ratio": f"{value:.2f}×", "memory": f"{value:.0%}"}.get(self.figure, f"{value:.3f} ms")


_AT_A_MILLION = {"batch": 1, "width": 128, "length": _MILLION}
_GPU = (
    _Target("gated fftconv against the published op sequence, forward", 5, "fftconv", "forward"),
    _Target("gated fftconv against the published op sequence, forward + backward", 4, "fftconv", "both"),
    _Target("gated fftconv against FlashFFTConv, forward", 2, "fftconv", "forward", against="flashfftconv"),
    _Target("gated fftconv against FlashFFTConv, forward + backward", 2, "fftconv", "both", against="flashfftconv"),
    _Target("gated fftconv at L = 2^20, D = 128, forward", 2, "fftconv", "forward", "ms", place=_AT_A_MILLION),
    _Target("gated fftconv at L = 2^20, D = 128, backward", 4, "fftconv", "both", "backward ms", place=_AT_A_MILLION),
    _Target("implicit_filter at L = 2^20, D = 128", 0.6, "implicit_filter", "forward", "ms", place=_AT_A_MILLION),
    _Target("HyenaOperator against the published one, forward + backward", 6, "hyena_operator", "both"),
    _Target("extra memory of HyenaOperator against the published one", 0.25, "hyena_operator", "both", "memory"),
)
_CPU = (
    _Target("gated fftconv, forward", 3.5, "fftconv", "forward", lengths=lambda length: length not in _UNEVEN),
    _Target("gated fftconv, forward + backward", 4, "fftconv", "both", lengths=lambda length: length not in _UNEVEN),
    _Target("gated fftconv at 1000, 4097 and 65537, forward", 3, "fftconv", "forward", lengths=_UNEVEN.__contains__),
    _Target("gated fftconv at 1000, 4097 and 65537, with backward", 4, "fftconv", "both", lengths=_UNEVEN.__contains__),
    _Target("short convolution, split and gate, forward", 6, "mixer_projection", "forward"),
    _Target("short convolution, split and gate, forward + backward", 6, "mixer_projection", "both"),
    _Target("HyenaDNA small-32k, forward", 1.6, "hyenadna", "forward"),
    _Target("HyenaDNA small-32k, forward + backward", 1.8, "hyenadna", "both"),
    _Target("extra memory of HyenaDNA small-32k, forward + backward", 0.4, "hyenadna", "both", "memory"),
)


def _figures(target: _Target, run: Run) -> list[tuple[float, Record]]:
    """The figure of a target at every place where it was measured, with our record there."""
    place = ("workload", "variant", "batch", "width", "length", "dtype")
    measured = {
        (each["implementation"], each["direction"], *(each[name] for name in place)): each
        for each in run.records
        if is_measured(each)
    }
    wanted = {"workload": target.workload, "direction": target.direction, "implementation": OURS, **target.place}
    found = []
    for record in measured.values():
        if not wanted.items() <= record.items() or not target.lengths(record["length"]):
            continue
        at = tuple(record[name] for name in place)
        other = measured.get((target.against, target.direction, *at))
        forward = measured.get((OURS, "forward", *at))
        if target.figure == "ms":
            found.append((1000 * record["seconds"], record))
        elif target.figure == "backward ms" and forward is not None:
            found.append((1000 * (record["seconds"] - forward["seconds"]), record))
        elif target.figure == "ratio" and other is not None:
            found.append((other.get("ratio") or other["seconds"] / record["seconds"], record))
        elif target.figure == "memory" and other is not None and record.get("peak_bytes") and other.get("peak_bytes"):
            found.append((record["peak_bytes"] / other["peak_bytes"], record))
    return found


def lines(run: Run) -> list[str]:
    """One line per target: its limit and the figure that is furthest from it."""
    found = []
    for target in _GPU if run.on_gpu else _CPU:
        limit = f"- {target.what}: at {'least' if target.at_least else 'most'} {target.text(target.limit)}"
        figures = _figures(target, run)
        if not figures:
            found.append(f"{limit}; not measured")
            continue
        value, record = (min if target.at_least else max)(figures, key=lambda each: each[0])
        met = value >= target.limit if target.at_least else value <= target.limit
        shape = f"B = {record['batch']}, D = {record['width']}, L = {length_text(record['length'])}"
        worst = f"the worst of {len(figures)} is {target.text(value)} at {shape}"
        found.append(f"{limit}; {'met' if met else 'NOT met'}, {worst}")
    without = [record for record in run.records if not is_measured(record)]
    if without:
        found.append(f"- {len(without)} of {len(run.records)} records have no time and are not counted above")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 if a case failed, 2 on bad usage."""
    start = time.monotonic()
    parser = make_parser("python -m bench.kernels.targets", __doc__)
    parser.add_argument("--from", type=Path, metavar="JSON", help="compare this run instead of measuring")
    parser.set_defaults(cases="targets")
    source, failures = getattr(parser.parse_args(arguments), "from"), 0
    try:
        if source is None:
            options = read_options(parser, arguments)
            failures, source = run_suite(options, spent=time.monotonic() - start), options.json
        found = read_run(source)
    except BadRun as error:
        parser.error(str(error))
    print("\n".join(lines(found)))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
