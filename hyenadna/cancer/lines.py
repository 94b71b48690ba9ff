"""The table of the lines: ``Model.csv`` of DepMap, the older ``sample_info.csv``, or any table with such columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.data.tables import is_missing, read_table

LINE_COLUMNS = ("ModelID", "DepMap_ID")
"""Names of the column with the line, the one that is looked for first in front."""

CLASS_COLUMNS = ("OncotreeLineage", "lineage")
PATIENT_COLUMNS = ("PatientID", "patient_id")
# A message lists at most so many classes.
_MOST_LISTED = 40


class Line(NamedTuple):
    """A cell line, or any other sample.

    Attributes:
        name: its name in the file of mutations.
        label: its class; "" if it has none.
        patient: its patient; "" where that is not known.
    """

    name: str
    label: str
    patient: str

    @property
    def side(self) -> str:
        """What must stay in one split: all lines of the patient, or the line alone."""
        return f"patient {self.patient}" if self.patient else f"line {self.name}"


def read_models(path: Path, class_column: str | None = None) -> dict[str, Line]:
    """Read the lines by their names.

    Args:
        path: the table: CSV, TSV or Parquet.
        class_column: the column with the class; None for the first of ``CLASS_COLUMNS`` that is there.

    Raises:
        InputError: the table cannot be read, lacks a column, or names a line twice with different values.
    """
    table = read_table(path, [class_column] if class_column else [])
    name = _column(path, table, LINE_COLUMNS, "the line")
    label = class_column or _column(path, table, CLASS_COLUMNS, "the class", "; or name it with `class_column`")
    patient = next((one for one in PATIENT_COLUMNS if one in table), None)
    patients = table[patient] if patient else [None] * len(table[name])
    lines: dict[str, Line] = {}
    for one in zip(table[name], table[label], patients, strict=True):
        line = Line(*("" if value is None or is_missing(value) else value.strip() for value in one))
        if not line.name:
            continue
        if lines.setdefault(line.name, line) != line:
            raise InputError(
                f"{path}: {line.name} stands there twice, as {lines[line.name].label!r} and {line.label!r} of the "
                f"patients {lines[line.name].patient!r} and {line.patient!r}; keep one of the rows"
            )
    return lines


def of_classes(path: Path, lines: dict[str, Line], classes: Sequence[str]) -> list[Line]:
    """The lines of these classes, in the order of the classes and of their names.

    Raises:
        InputError: a class has no line. The message lists the classes that there are.
    """
    counts = Counter(line.label for line in lines.values())
    for label in classes:
        if not counts[label]:
            known = [f"{name} ({count:,})" for name, count in counts.most_common() if name]
            listed = ", ".join(known[:_MOST_LISTED]) + (", ..." if len(known) > _MOST_LISTED else "")
            raise InputError(f"{path}: no line is of the class {label!r}; it has lines of {listed or 'no class'}")
    return sorted(
        (line for line in lines.values() if line.label in classes),
        key=lambda line: (classes.index(line.label), line.name),
    )


def _column(path: Path, table: dict[str, list[str | None]], names: Sequence[str], what: str, more: str = "") -> str:
    found = next((name for name in names if name in table), None)
    if found is None:
        raise InputError(
            f"{path}: has no column with {what}, which is called {' or '.join(names)}; it has "
            f"{', '.join(map(repr, table))}{more}"
        )
    return found
