"""What follows from the records of a run: who was measured where, the fastest attention and where it is passed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.common.run_file import ATTENTION, OURS, PEERS, Record, Run, case, is_measured

FITTED = 4
"""Longest measured lengths that an exponent is fitted to: at short ones launches take the time, not attention."""
STEEPEST = 2.0
"""Attention does L² operations, so nothing steeper is extrapolated, whatever was fitted: it would flatter the ratio."""

Contender = tuple[str, str | None]
"""Peer and backend."""


@dataclass(frozen=True)
class Case:
    """Everything that is compared with each other: one workload, variant, direction, batch, width and dtype.

    Args:
        key: as ``bench.common.run_file.case`` gives it.
        found: records by contender and length.
    """

    key: tuple[Any, ...]
    found: Mapping[Contender, Mapping[int, Record]]

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
        return f"{self.what}, {direction_name(self.direction)}, B = {self.key[3]}, D = {self.key[4]}, {self.key[5]}"

    @property
    def what(self) -> str:
        """Workload and variant."""
        return f"{self.workload} {self.variant}".strip()

    @property
    def lengths(self) -> list[int]:
        return sorted({length for records in self.found.values() for length in records})

    def label(self, contender: Contender) -> str:
        """Name of a contender, with its backend if it stands there with several."""
        peer, backend = contender
        several = sum(other == peer for other, _ in self.found) > 1
        return f"{PEERS[peer]} ({backend})" if several else PEERS[peer]

    def at(self, peer: str, length: int) -> Record | None:
        """The record of a peer, of the fastest measured backend or else of any."""
        found = [records[length] for (name, _), records in self.found.items() if name == peer and length in records]
        measured = [record for record in found if is_measured(record)]
        return min(measured, key=lambda record: record["seconds"]) if measured else next(iter(found), None)

    def measured(self, peer: str) -> dict[int, Record]:
        """Measured records of a peer by length, the shortest first."""
        found = ((length, self.at(peer, length)) for length in self.lengths)
        return {length: record for length, record in found if record is not None and is_measured(record)}


def direction_name(direction: str) -> str:
    return "forward + backward" if direction == "both" else direction


def cases(run: Run) -> list[Case]:
    """The cases of a run, in the order in which their first records come; of two equal records the later counts."""
    found: dict[tuple[Any, ...], dict[Contender, dict[int, Record]]] = {}
    for record in run.records:
        contender = record["peer"], record.get("backend")
        found.setdefault(case(record), {}).setdefault(contender, {})[record["length"]] = record
    for contenders in found.values():
        _join_unmeasured(contenders)
    # Ours first, then as the peers are listed.
    order = list(PEERS)
    return [
        Case(key, dict(sorted(contenders.items(), key=lambda item: (order.index(item[0][0]), item[0][1] or ""))))
        for key, contenders in found.items()
    ]


def _join_unmeasured(contenders: dict[Contender, dict[int, Record]]) -> None:
    """Give what was stopped before a backend was chosen to the backends that the peer was measured with."""
    for peer, backend in list(contenders):
        others = [each for each in contenders if each[0] == peer and each[1] is not None]
        if backend is None and others and not any(map(is_measured, contenders[peer, None].values())):
            left_over = contenders.pop((peer, None))
            for other in others:
                contenders[other] = {**left_over, **contenders[other]}


def headline(run: Run) -> Case | None:
    """The 2-layer model, forward and backward, checkpointed where there is that: what was measured at most lengths."""
    models = [each for each in cases(run) if each.workload == "two_layer_model" and each.direction == "both"]
    models = [each for each in models if each.measured(OURS)]
    return max(models, key=lambda each: (each.variant == "checkpointed", len(each.measured(OURS))), default=None)


# Attention -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A power law of the time through the longest measured length.

    Args:
        exponent: fitted to the logarithms by least squares.
        lengths: that it was fitted to.
        seconds: measured at the longest of them.
    """

    exponent: float
    lengths: tuple[int, ...]
    seconds: float

    @property
    def used(self) -> float:
        """The exponent that is extrapolated with."""
        return min(self.exponent, STEEPEST)

    def at(self, length: int) -> float:
        return self.seconds * (length / self.lengths[-1]) ** self.used


@dataclass(frozen=True)
class Rival:
    """The fastest attention at a length.

    Args:
        peer: which.
        seconds: measured or extrapolated.
        fit: what it was extrapolated with; None if it was measured.
        record: what was measured; None if it was extrapolated.
    """

    peer: str
    seconds: float
    fit: Fit | None
    record: Record | None


def fit(measured: Mapping[int, Record]) -> Fit | None:
    """Exponent of the time in the length, from the longest measured ones; None where fewer than two are."""
    lengths = sorted(measured)[-FITTED:]
    if len(lengths) < 2:
        return None
    x, y = [math.log(length) for length in lengths], [math.log(measured[length]["seconds"]) for length in lengths]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    return Fit(slope, tuple(lengths), measured[lengths[-1]]["seconds"])


def _extrapolated(found: Case, peer: str, length: int) -> Rival | None:
    """An attention above the length at which its time budget stopped it, if it was not memory that did."""
    measured = found.measured(peer)
    if not measured or length <= max(measured):
        return None
    others = [found.at(peer, each) for each in found.lengths if max(measured) < each <= length]
    statuses = {record["status"] for record in others if record is not None}
    if "stopped" not in statuses or "out_of_memory" in statuses or "refused" in statuses:
        return None
    power = fit(measured)
    return None if power is None else Rival(peer, power.at(length), power, None)


def rival(found: Case, length: int) -> Rival | None:
    """The fastest attention at a length: of those measured there, or else of those that were stopped below."""
    records = [found.at(peer, length) for peer in ATTENTION]
    measured = [
        Rival(record["peer"], record["seconds"], None, record)
        for record in records
        if record is not None and is_measured(record)
    ]
    if not measured:
        measured = [each for peer in ATTENTION if (each := _extrapolated(found, peer, length)) is not None]
    return min(measured, key=lambda each: each.seconds, default=None)


def ratio(found: Case, record: Record, mine: Record) -> float:
    """Time of a peer over ours: the median over rounds in which both had their turn, or else that of the medians."""
    several = sum(peer == OURS and mine["length"] in records for (peer, _), records in found.found.items()) > 1
    return float(record["seconds"] / mine["seconds"] if several or not record.get("ratio") else record["ratio"])


def ratios(found: Case) -> dict[int, tuple[float, Rival]]:
    """Time of the fastest attention over ours, by length."""
    result = {}
    for length, mine in found.measured(OURS).items():
        against = rival(found, length)
        if against is not None:
            measured = against.record
            result[length] = (
                against.seconds / mine["seconds"] if measured is None else ratio(found, measured, mine),
                against,
            )
    return result


def ratios_to(found: Case, peer: str) -> dict[int, float]:
    """Measured time of a peer over ours, by length."""
    theirs = found.measured(peer)
    return {
        length: ratio(found, theirs[length], mine) for length, mine in found.measured(OURS).items() if length in theirs
    }


def crossing(found: Case) -> float | None:
    """Length at which ours becomes faster than the fastest attention and stays so, between two measured lengths.

    Interpolated in the logarithms; None where it does not happen between measured lengths.
    """
    measured = [(length, ratio) for length, (ratio, against) in ratios(found).items() if against.fit is None]
    place = None
    for (low, before), (high, after) in pairwise(measured):
        if before < 1 <= after:
            share = -math.log(before) / (math.log(after) - math.log(before))
            place = low * (high / low) ** share
        elif after < 1:
            place = None
    return place


# Kernels -------------------------------------------------------------------------------------------------------------

KERNELS = ("fftconv", "short_conv", "implicit_filter", "hyena_mixer")


def share_of_copy(run: Run, record: Record) -> float | None:
    """Counted bytes a second over those of a copy."""
    copy = run.ceilings.get("copy_bytes_per_s")
    if not copy or not record.get("bytes") or not is_measured(record):
        return None
    return float(record["bytes"] / record["seconds"] / copy)


def over_predicted(record: Record) -> float | None:
    """Measured over predicted time."""
    if not record.get("predicted_seconds") or not is_measured(record):
        return None
    return float(record["seconds"] / record["predicted_seconds"])


def ours(run: Run) -> Iterator[tuple[Case, Contender, Sequence[Record]]]:
    """Our measured records by case and backend, the shortest lengths first."""
    for found in cases(run):
        for contender, records in found.found.items():
            measured = [records[length] for length in sorted(records) if is_measured(records[length])]
            if contender[0] == OURS and measured:
                yield found, contender, measured
