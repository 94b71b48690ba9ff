"""Lines of each split: enough mutations, as many as asked for, and a patient on one side."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.cancer.config import MutateConfig
from hyenadna.cancer.lines import Line
from hyenadna.cancer.selection import Selection, select
from hyenadna.common.errors import InputError

FILE = Path("Model.csv")


def selected(lines: list[Line], counts: dict[str, int], **options: Any) -> Selection:
    chosen: dict[str, Any] = {"train_lines": 3, "validation_lines": 1, "test_lines": 1, "more_than": "0"}
    config = MutateConfig(FILE, FILE, FILE, ["A", "B"], Path("x"), **chosen | options)
    return select(FILE, lines, counts, config)


def some_lines(rng: np.random.Generator, count: int, patients: int) -> list[Line]:
    """Lines of two classes. About a third share a patient, and a patient may have lines of both."""
    return [
        Line(f"L{number}", "AB"[number % 2], f"P{rng.integers(patients)}" if rng.random() < 0.3 else "")
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_splits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = some_lines(rng, 40, 5)
    counts = {line.name: int(rng.integers(1, 100)) for line in lines}
    options = {"train_lines": 6, "validation_lines": 2, "test_lines": 3, "more_than": "10", "seed": seed}
    found = selected(lines, counts, **options)
    taken = Counter((line.label, split) for line, split in found.splits.items())
    for label in "AB":
        assert [taken[label, split] for split in ("train", "validation", "test")] == [4, 2, 3]
    sides = defaultdict(set)
    for line, split in found.splits.items():
        assert counts[line.name] > 10
        if split != "rest":
            sides[line.side].add(split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert len(found.splits) == sum(count > 10 for count in counts.values())
    assert found.per_line == min(counts[line.name] for line in found.splits)
    # The order of the table decides nothing.
    again = selected([lines[place] for place in rng.permutation(40)], counts, **options)
    assert (again.splits, again.per_line) == (found.splits, found.per_line)
    assert selected(lines, counts, **options | {"seed": seed + 1}).splits != found.splits


def test_the_joint_median() -> None:
    lines = [Line(f"{label}{number}", label, "") for label in "AB" for number in range(8)]
    counts = {line.name: (10 if line.label == "A" else 1) * (1 + int(line.name[1:])) for line in lines}
    # Lines without mutations do not count: 1 to 8 and 10 to 80.
    lines += [Line("A9", "A", ""), Line("B9", "B", "")]
    options = {"more_than": "median", "train_lines": 1, "validation_lines": 0, "test_lines": 0}
    with pytest.raises(InputError) as caught:
        selected(lines, counts, **options)
    assert str(caught.value) == (
        "`train_lines` 1 and `test_lines` 0: 1 lines of each class are asked for, and B has 0 with more than 9 "
        "mutations, of 8 with any; ask for fewer lines, or lower `more_than`"
    )
    counts |= {"B0": 9, "B1": 9}
    assert selected(lines, counts, **options | {"more_than": "8.5"}).per_line == 9


def test_a_number_of_sequences_needs_as_many_mutations() -> None:
    lines = [Line(f"{label}{number}", label, "") for label in "AB" for number in range(5)]
    counts = {line.name: 10 + int(line.name[1:]) for line in lines}
    assert selected(lines, counts, per_line="10").per_line == 10
    assert selected(lines, counts, per_line="min").per_line == 10
    with pytest.raises(InputError, match="A has 3 with more than 0 mutations and at least 12, of 5 with any"):
        selected(lines, counts, per_line="12")


def test_a_patient_who_does_not_fit() -> None:
    """Of a patient with many lines, a split takes as many as it has room for, and the others are for none."""
    lines = [Line(f"A{number}", "A", "P") for number in range(4)] + [Line("A9", "A", ""), Line("A8", "A", "")]
    lines += [Line(f"B{number}", "B", "") for number in range(6)]
    counts = dict.fromkeys((line.name for line in lines), 5)
    for seed in range(10):
        splits = selected(lines, counts, seed=seed).splits
        of_patient = Counter(split for line, split in splits.items() if line.patient)
        assert of_patient in ({"train": 2, "rest": 2}, {"test": 1, "rest": 3}, {"validation": 1, "rest": 3})
    with pytest.raises(InputError, match=r"A: 2 lines for train are asked for, and 0 are left.*\(2 patients\)"):
        selected([*lines[:5], *lines[6:]], counts)
