"""Draw conclusions from the records of a run: the fastest attention, ratios, the crossover length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.common.run_file import (
    ATTENTION,
    CALLS,
    GRAPH,
    IMPLEMENTATIONS,
    OURS,
    Record,
    Run,
    comparison_key,
    is_measured,
)

_FITTED = 4
"""How many lengths an exponent is fitted to, the longest ones: at short lengths the time is mostly launches."""
_STEEPEST = 2.0
"""Largest exponent used to extrapolate. Attention does L² operations; a steeper fit would flatter our ratio."""

Entry = tuple[str, str | None]
"""An implementation and its backend."""


@dataclass(frozen=True)
class Comparison:
    """All records of one workload, variant, direction, batch, width, dtype and launch.

    Args:
        key: from ``bench.common.run_file.comparison_key``.
        found: records by implementation and backend, then by length.
    """

    key: tuple[Any, ...]
    found: Mapping[Entry, Mapping[int, Record]]

    @property
    def workload(self) -> str:
        return str(self.key[0])

    @property
    def variant(self) -> str:
        return str(self.key[1])

    @property
    def direction(self) -> str:
        return str(self.key[2])

    @property
    def title(self) -> str:
        """Such as ``fftconv gated, forward + backward, B = 1, D = 128, bfloat16``."""
        shape = f"B = {self.key[3]}, D = {self.key[4]}, {self.key[5]}"
        return f"{self.what}, {direction_name(self.direction)}, {shape}{launch_name(self.launch)}"

    @property
    def launch(self) -> str:
        return str(self.key[6])

    @property
    def what(self) -> str:
        """Workload and variant, such as ``fftconv gated``."""
        return f"{self.workload} {self.variant}".strip()

    @property
    def lengths(self) -> list[int]:
        return sorted({length for records in self.found.values() for length in records})

    def label(self, entry: Entry) -> str:
        """Name of an implementation, with the backend if there are records of several backends."""
        implementation, backend = entry
        several = sum(other == implementation for other, _ in self.found) > 1
        return f"{IMPLEMENTATIONS[implementation]} ({backend})" if several else IMPLEMENTATIONS[implementation]

    def at(self, implementation: str, length: int) -> Record | None:
        """The record of an implementation at a length: its fastest measured backend, or any record if none was."""
        found = [
            records[length] for (name, _), records in self.found.items() if name == implementation and length in records
        ]
        measured = [record for record in found if is_measured(record)]
        return min(measured, key=lambda record: record["seconds"]) if measured else next(iter(found), None)

    def measured(self, implementation: str) -> dict[int, Record]:
        """Measured records of an implementation by length, shortest first."""
        found = ((length, self.at(implementation, length)) for length in self.lengths)
        return {length: record for length, record in found if record is not None and is_measured(record)}


def direction_name(direction: str) -> str:
    """The direction in words."""
    return "forward + backward" if direction == "both" else direction


def launch_name(launch: str) -> str:
    """The launch in words, to be put behind others. Nothing where kernels are launched one by one, as everywhere."""
    return ", as a CUDA graph" if launch == GRAPH else ""


def comparisons(run: Run) -> list[Comparison]:
    """The comparisons of a run, in the order of their first records. The later of two equal records counts."""
    found: dict[tuple[Any, ...], dict[Entry, dict[int, Record]]] = {}
    for record in run.records:
        entry = record["implementation"], record.get("backend")
        found.setdefault(comparison_key(record), {}).setdefault(entry, {})[record["length"]] = record
    for entries in found.values():
        _join_unmeasured(entries)
    # Ours first, then in the order of IMPLEMENTATIONS.
    order = list(IMPLEMENTATIONS)
    return [
        Comparison(key, dict(sorted(entries.items(), key=lambda item: (order.index(item[0][0]), item[0][1] or ""))))
        for key, entries in found.items()
    ]


def _join_unmeasured(entries: dict[Entry, dict[int, Record]]) -> None:
    """Move records without a backend, such as timed-out ones, to the backends that were measured at other lengths."""
    for implementation, backend in list(entries):
        others = [each for each in entries if each[0] == implementation and each[1] is not None]
        if backend is None and others and not any(map(is_measured, entries[implementation, None].values())):
            left_over = entries.pop((implementation, None))
            for other in others:
                entries[other] = {**left_over, **entries[other]}


def headline(run: Run) -> Comparison | None:
    """The 2-layer model, forward and backward: checkpointed if measured, otherwise the one with most lengths.

    Its kernels are launched one by one. :func:`graphed` finds the same as CUDA graphs.
    """
    models = [each for each in comparisons(run) if each.workload == "two_layer_model" and each.direction == "both"]
    models = [each for each in models if each.launch == CALLS and each.measured(OURS)]
    return max(models, key=lambda each: (each.variant == "checkpointed", len(each.measured(OURS))), default=None)


def graphed(run: Run, found: Comparison) -> Comparison | None:
    """The comparison with the same key but for its launch, as CUDA graphs; None if ours was not measured so."""
    key = (*found.key[:-1], GRAPH)
    return next((each for each in comparisons(run) if each.key == key and each.measured(OURS)), None)


# Attention -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A power law of the time against length, through the longest measured length.

    Args:
        exponent: least squares fit to the logarithms.
        lengths: lengths of the fit.
        seconds: time measured at the longest of them.
    """

    exponent: float
    lengths: tuple[int, ...]
    seconds: float

    @property
    def used(self) -> float:
        """The exponent for extrapolation, at most ``_STEEPEST``."""
        return min(self.exponent, _STEEPEST)

    def at(self, length: int) -> float:
        """Extrapolated seconds."""
        return self.seconds * (length / self.lengths[-1]) ** self.used


@dataclass(frozen=True)
class FastestAttention:
    """The fastest attention at a length.

    Args:
        implementation: name of the attention.
        seconds: measured or extrapolated time.
        fit: the fit of an extrapolated time; None if measured.
        record: the record of a measured time; None if extrapolated.
    """

    implementation: str
    seconds: float
    fit: Fit | None
    record: Record | None


def fit(measured: Mapping[int, Record]) -> Fit | None:
    """Fit a power law to the longest measured lengths; None if fewer than two were measured."""
    lengths = sorted(measured)[-_FITTED:]
    if len(lengths) < 2:
        return None
    x, y = [math.log(length) for length in lengths], [math.log(measured[length]["seconds"]) for length in lengths]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    return Fit(slope, tuple(lengths), measured[lengths[-1]]["seconds"])


def _extrapolated(found: Comparison, implementation: str, length: int) -> FastestAttention | None:
    """Extrapolate an attention that timed out; None if it ran out of memory or failed for another reason."""
    measured = found.measured(implementation)
    if not measured or length <= max(measured):
        return None
    others = [found.at(implementation, each) for each in found.lengths if max(measured) < each <= length]
    statuses = {record["status"] for record in others if record is not None}
    if "timed_out" not in statuses or "out_of_memory" in statuses or "failed_check" in statuses:
        return None
    power = fit(measured)
    return None if power is None else FastestAttention(implementation, power.at(length), power, None)


def fastest_attention(found: Comparison, length: int) -> FastestAttention | None:
    """The fastest attention measured at a length; if none was, the fastest of the extrapolated ones; else None."""
    records = [found.at(implementation, length) for implementation in ATTENTION]
    measured = [
        FastestAttention(record["implementation"], record["seconds"], None, record)
        for record in records
        if record is not None and is_measured(record)
    ]
    if not measured:
        measured = [
            each for implementation in ATTENTION if (each := _extrapolated(found, implementation, length)) is not None
        ]
    return min(measured, key=lambda each: each.seconds, default=None)


def ratio(found: Comparison, record: Record, mine: Record) -> float:
    """Time of an implementation over ours: the median over shared rounds if recorded, else the ratio of medians."""
    several = (
        sum(
            implementation == OURS and mine["length"] in records for (implementation, _), records in found.found.items()
        )
        > 1
    )
    return float(record["seconds"] / mine["seconds"] if several or not record.get("ratio") else record["ratio"])


def ratios(found: Comparison) -> dict[int, tuple[float, FastestAttention]]:
    """Time of the fastest attention over ours, by length."""
    result = {}
    for length, mine in found.measured(OURS).items():
        against = fastest_attention(found, length)
        if against is not None:
            measured = against.record
            result[length] = (
                against.seconds / mine["seconds"] if measured is None else ratio(found, measured, mine),
                against,
            )
    return result


def ratios_to(found: Comparison, implementation: str) -> dict[int, float]:
    """Measured time of an implementation over ours, by length."""
    theirs = found.measured(implementation)
    return {
        length: ratio(found, theirs[length], mine) for length, mine in found.measured(OURS).items() if length in theirs
    }


def crossover(found: Comparison) -> float | None:
    """Length from which ours stays faster than the fastest attention.

    Interpolated in the logarithms between two measured lengths. None if there is no such pair of lengths.
    """
    measured = [(length, ratio) for length, (ratio, against) in ratios(found).items() if against.fit is None]
    place = None
    for (low, before), (high, after) in pairwise(measured):
        if before < 1 <= after:
            fraction = -math.log(before) / (math.log(after) - math.log(before))
            place = low * (high / low) ** fraction
        elif after < 1:
            place = None
    return place


# Kernels -------------------------------------------------------------------------------------------------------------

KERNELS = ("fftconv", "short_conv", "implicit_filter", "hyena_mixer")


def fraction_of_copy(run: Run, record: Record) -> float | None:
    """Counted bytes per second as a fraction of the copy rate; None without bytes, copy rate or time."""
    copy = run.peak_rates.get("copy_bytes_per_s")
    if not copy or not record.get("bytes") or not is_measured(record):
        return None
    return float(record["bytes"] / record["seconds"] / copy)


def over_predicted(record: Record) -> float | None:
    """Measured over predicted time; None without either."""
    if not record.get("predicted_seconds") or not is_measured(record):
        return None
    return float(record["seconds"] / record["predicted_seconds"])


def ours(run: Run) -> Iterator[tuple[Comparison, Entry, Sequence[Record]]]:
    """Our measured records by comparison and backend, shortest lengths first."""
    for found in comparisons(run):
        for entry, records in found.found.items():
            measured = [records[length] for length in sorted(records) if is_measured(records[length])]
            if entry[0] == OURS and measured:
                yield found, entry, measured
