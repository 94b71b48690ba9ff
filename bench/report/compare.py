"""Compare two runs of the suite: what got slower, faster, larger or smaller.

python -m bench.report.compare before.json after.json
python -m bench.report.compare before.json after.json --threshold 1.05 --all-implementations

Times are medians, memory is the peak of one call, ratios are B over A. The exit code is 1 if hyena_kernels got worse:

- its time or memory grew by more than the threshold, or
- it was measured in A, and in B it failed its check, timed out or ran out of memory. A timeout counts only if B had at
  least the seconds of A.

The exit code is 2 on bad input. Other implementations show how much the machine itself changed; they count only with
--all-implementations. Compare runs of one machine: facts of the machine that differ are printed as warnings.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.format import bytes_text, length_text, seconds_text
from bench.common.run_file import IMPLEMENTATIONS, OURS, BadRun, Record, Run, is_measured, read_run
from bench.report.curves import direction_name, launch_name

_MATTERS = (
    "name", "device", "driver_version", "clocks.max.sm", "clocks.max.memory", "power.limit", "torch", "cuda", "triton",
    "instruction_set", "cpu_isa", "threads", "l2", "launch", "interpreted",
)  # fmt: skip
"""Facts of the machine and settings of the run that affect times."""
_LOST = ("failed_check", "timed_out", "out_of_memory")
"""Statuses in B that count as worse than a measurement in A."""

_PLACE = ("workload", "variant", "direction", "batch", "width", "length", "dtype", "implementation", "launch")
_Pairs = list[tuple[Record, Record]]


@dataclass(frozen=True)
class Change:
    """A figure that both runs have.

    Args:
        record: the record in B.
        what: ``"time"`` or ``"memory"``.
        before: seconds or bytes in A.
        after: seconds or bytes in B.
    """

    record: Record
    what: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.after / self.before

    def __str__(self) -> str:
        text = seconds_text if self.what == "time" else bytes_text
        return f"{self.ratio:6.2f}×  {self.what:<6}  {text(self.before)} → {text(self.after)}  {place(self.record)}"


def place(record: Record) -> str:
    """A record in words."""
    backend = f" ({record['backend']})" if record.get("backend") else ""
    workload = f"{record['workload']} {record['variant']}".strip()
    shape = f"B = {record['batch']}, D = {record['width']}, L = {length_text(record['length'])}, {record['dtype']}"
    name = IMPLEMENTATIONS[record["implementation"]]
    return f"{name}{backend}: {workload}, {direction_name(record['direction'])}, {shape}{launch_name(record['launch'])}"


def pairs(a: Run, b: Run) -> tuple[_Pairs, list[Record], list[Record]]:
    """Pairs of records of both runs, records of A alone, records of B alone. The later of two equal records counts.

    If each run has one backend, the two are compared even if they differ: they are what users get.
    """

    def by_place(run: Run) -> dict[tuple[Any, ...], dict[str | None, Record]]:
        found: dict[tuple[Any, ...], dict[str | None, Record]] = {}
        for record in run.records:
            found.setdefault(tuple(record[name] for name in _PLACE), {})[record.get("backend")] = record
        return found

    before, after = by_place(a), by_place(b)
    both: _Pairs = []
    alone: tuple[list[Record], list[Record]] = ([], [])
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, {}), after.get(key, {})
        if len(old) == len(new) == 1:
            both.append((*old.values(), *new.values()))
            continue
        both += [(record, new[backend]) for backend, record in old.items() if backend in new]
        alone[0].extend(record for backend, record in old.items() if backend not in new)
        alone[1].extend(record for backend, record in new.items() if backend not in old)
    return both, *alone


def changes(both: _Pairs) -> list[Change]:
    """Times and memory that were measured in both runs."""
    found = []
    for old, new in both:
        if is_measured(old) and is_measured(new):
            found.append(Change(new, "time", old["seconds"], new["seconds"]))
            if old.get("peak_bytes") and new.get("peak_bytes"):
                found.append(Change(new, "memory", old["peak_bytes"], new["peak_bytes"]))
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """One line per fact that affects times and differs."""
    return [f"{name} is {a.get(name)} in A and {b.get(name)} in B" for name in _MATTERS if a.get(name) != b.get(name)]


def _facts(run: Run) -> dict[str, Any]:
    return {**run.settings, **run.machine}


def _as_long(a: Run, b: Run) -> bool:
    """Whether B had at least the seconds of A, for the run and for a call."""
    return all(
        (b.settings.get(name) or 0) >= (a.settings.get(name) or 0)
        for name in ("seconds", "case_seconds")
        if name in a.settings and name in b.settings
    )


def compare(a: Run, b: Run, threshold: float, *, all_implementations: bool = False) -> tuple[list[str], bool]:
    """Lines to print, and whether something got worse by more than the threshold.

    Raises:
        BadRun: no measurement is in both runs.
    """
    both, only_a, only_b = pairs(a, b)
    found = changes(both)
    if not found:
        raise BadRun(f"{a.path} and {b.path} have no measurement in common: there is nothing to compare")

    def counts(record: Record) -> bool:
        return all_implementations or record["implementation"] == OURS

    watched = [change for change in found if counts(change.record)]
    worse = sorted((each for each in watched if each.ratio > threshold), key=lambda each: -each.ratio)
    better = sorted((each for each in watched if each.ratio < 1 / threshold), key=lambda each: each.ratio)
    bad_statuses = _LOST if _as_long(a, b) else tuple(each for each in _LOST if each != "timed_out")
    lost = [(old, new) for old, new in both if counts(new) and is_measured(old) and new["status"] in bad_statuses]
    gained = [(old, new) for old, new in both if counts(new) and not is_measured(old) and is_measured(new)]
    missing = [record for record in only_a if counts(record) and is_measured(record)]
    without_fault = {"skipped", "timed_out"} - set(bad_statuses)
    missing += [old for old, new in both if counts(new) and is_measured(old) and new["status"] in without_fault]
    new = [record for record in only_b if counts(record) and is_measured(record)]
    skipped = [f"{place(record)}" for record in missing]
    switched = dict.fromkeys(
        f"{place({**new, 'backend': None})}: {old['backend']} → {new['backend']}"
        for old, new in both
        if counts(new) and old.get("backend") != new.get("backend")
    )

    lines = [f"A {a.path}: {a.name}, {a.commit[:10]}", f"B {b.path}: {b.name}, {b.commit[:10]}"]
    lines += [f"warning: {line}" for line in differences(_facts(a), _facts(b))]
    others = [each.ratio for each in found if each.record["implementation"] != OURS and each.what == "time"]
    if others:
        lines.append(
            f"times of {len(others)} records of other implementations, B over A: median {statistics.median(others):.3f}"
        )
    ours = [each.ratio for each in found if each.record["implementation"] == OURS and each.what == "time"]
    if ours:
        lines.append(f"times of {len(ours)} records of hyena_kernels, B over A: median {statistics.median(ours):.3f}")
    for title, texts in (
        (f"slower or larger by more than {threshold:g}×", list(map(str, worse))),
        ("measured in A but not in B", [f"{place(b)}: {b['status']}, {b.get('reason')}" for _, b in lost]),
        (f"faster or smaller by more than {threshold:g}×", list(map(str, better))),
        ("measured in B but not in A", [place(record) for _, record in gained] + list(map(place, new))),
        ("absent, skipped or timed out in B, which does not count as worse", skipped),
        ("the backend changed", list(switched)),
    ):
        if texts:
            lines += ["", f"{title}: {len(texts)}", *(f"  {text}" for text in texts)]
    bad = bool(worse or lost)
    lines += ["", "worse" if bad else f"nothing is worse by more than {threshold:g}×"]
    return lines, bad


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 if something got worse, 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path, metavar="A.json", help="the run before")
    parser.add_argument("b", type=Path, metavar="B.json", help="the run after")
    parser.add_argument(
        "--threshold", type=float, default=1.1, help="ratio above which something is worse (default: 1.1)"
    )
    parser.add_argument(
        "--all-implementations", action="store_true", help="count all implementations, not only hyena_kernels"
    )
    options = parser.parse_args(arguments)
    if not options.threshold > 1:
        parser.error(f"--threshold {options.threshold:g}: give a ratio above 1, such as 1.1")
    try:
        lines, bad = compare(
            read_run(options.a), read_run(options.b), options.threshold, all_implementations=options.all_implementations
        )  # fmt: skip
    except BadRun as error:
        print(f"python -m bench.report.compare: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
