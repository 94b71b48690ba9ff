"""Which lines become training, validation, test and other sequences, and how many of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hyenadna.cancer.config import MutateConfig
from hyenadna.cancer.edits import number
from hyenadna.cancer.lines import Line
from hyenadna.cancer.tables import SPLITS
from hyenadna.common.errors import InputError


@dataclass(frozen=True)
class Selection:
    """The lines that are taken.

    Attributes:
        threshold: a line has more mutations than this.
        per_line: sequences of each line.
        splits: the split of each line, in the order of classes and names.
    """

    threshold: float
    per_line: int
    splits: dict[Line, str]


def select(path: Path, lines: Sequence[Line], counts: Mapping[str, int], config: MutateConfig) -> Selection:
    """Choose lines with enough mutations, and draw those of each split.

    The lines of a patient stay in one split. Where a split has room for some of them alone, the others go to ``rest``,
    which is neither trained nor tested on.

    Args:
        path: the table of lines, for messages.
        lines: the lines of the classes.
        counts: mutations of each line that can become a sequence.
        config: the options.

    Raises:
        InputError: a class has fewer lines than are asked for. The message names the counts.
    """
    with_mutations = [line for line in lines if counts.get(line.name)]
    if not with_mutations:
        raise InputError(
            f"{path}: no line of the classes {', '.join(config.classes)} has a mutation that fits into the reference, "
            f"on a contig with room for `length` {config.length:,}"
        )
    threshold = config.threshold()
    if threshold is None:
        threshold = float(median(counts[line.name] for line in with_mutations))
    needed = config.sequences() or 1
    eligible = [line for line in with_mutations if counts[line.name] > threshold and counts[line.name] >= needed]
    of_class = Counter(line.label for line in eligible)
    asked = config.train_lines + config.test_lines
    rule = f"more than {threshold:g} mutations" + (f" and at least {needed:,}" if needed > 1 else "")
    for label in config.classes:
        if of_class[label] < asked:
            known = sum(line.label == label for line in with_mutations)
            raise InputError(
                f"`train_lines` {config.train_lines} and `test_lines` {config.test_lines}: {asked:,} lines of each "
                f"class are asked for, and {label} has {of_class[label]:,} with {rule}, of {known:,} with any; ask for "
                "fewer lines, or lower `more_than`"
            )
    splits = _divide(eligible, config)
    per_line = config.sequences() or min(counts[line.name] for line in eligible)
    return Selection(threshold, per_line, {line: splits.get(line, SPLITS[-1]) for line in eligible})


def _divide(eligible: Sequence[Line], config: MutateConfig) -> dict[Line, str]:
    """The split of every line that is drawn for one."""
    train, validation, test, _ = SPLITS
    quotas = {
        test: config.test_lines,
        validation: config.validation_lines,
        train: config.train_lines - config.validation_lines,
    }
    splits: dict[Line, str] = {}
    of_side: dict[str, str] = {}
    for split, quota in quotas.items():
        for label in config.classes:
            sides = defaultdict[str, list[Line]](list)
            for line in sorted(eligible, key=lambda line: number("line", config.seed, line.name)):
                if line.label == label and of_side.get(line.side, split) == split:
                    sides[line.side].append(line)
            # A patient with lines of two classes may have this split already.
            drawn = sorted(sides, key=lambda side: (side not in of_side, number("split", config.seed, side)))
            taken = _take([sides[side] for side in drawn], quota)
            if len(taken) < quota:
                patients = len({line.side for line in eligible if line.label == label})
                raise InputError(
                    f"{label}: {quota:,} lines for {split} are asked for, and {len(taken):,} are left, because the "
                    f"lines of a patient stay in one split ({patients:,} patients); ask for fewer lines, or lower "
                    "`more_than`"
                )
            splits.update(dict.fromkeys(taken, split))
            of_side.update((line.side, split) for line in taken)
    return splits


def _take(groups: Sequence[Sequence[Line]], room: int) -> list[Line]:
    """The lines of the first groups that fit whole, and if these leave room, some lines of another group."""
    taken: list[Line] = []
    left = []
    for group in groups:
        if len(group) <= room - len(taken):
            taken += group
        else:
            left.append(group)
    for group in left:
        taken += group[: room - len(taken)]
    return taken
