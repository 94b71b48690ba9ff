"""The tables of ENBED that are no fine-tuning: the paper's values, and under them those of folders here.

A folder of ``hyenadna enbed pretrain``, ``noise``, ``annotate`` or ``evolve`` holds a results.json with the name of its
``study``, the ``data`` in words, and a ``table``: a row for each method, with its metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import RESULTS_FILE
from hyenadna.drawing.report import Table
from hyenadna.published.enbed import COUNTED, DISTANCES, SHAPE_NOTES, SHAPES, STUDIES, Study

_BY_NAME = {study.name: study for study in STUDIES}
_SMALL = (
    "The rows of this machine are of small models on other data. They show that the method runs, and do not confirm or "
    "refute a published value."
)
_NOT_RUN = "nothing was run"
_PLAIN = (str, int, float)


@dataclass(frozen=True)
class StudyResult:
    """What a folder of a study holds.

    Attributes:
        folder: the folder.
        study: the name of the study, see :class:`hyenadna.published.enbed.Study`.
        data: what was tested on, in words.
        rows: the methods, each with ``method``, numbers by metric, and perhaps what tells it from other rows.
    """

    folder: Path
    study: str
    data: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def title(self) -> str:
        """The title of its table."""
        return _BY_NAME[self.study].title


def read_study(folder: Path, content: Mapping[str, Any]) -> StudyResult | str:
    """The result of a study of ENBED, or why the report has no table for it.

    Args:
        folder: where it was found.
        content: its results.json, which has ``study``.

    Raises:
        InputError: results.json is damaged.
    """
    name = content["study"]
    if name not in _BY_NAME:
        return f"holds a study {name!r}, and no published table is of one"
    study, rows = _BY_NAME[name], content.get("table")
    if not isinstance(rows, list) or not rows or not all(_is_row(row, study) for row in rows):
        raise InputError(
            f"{folder / RESULTS_FILE}: no results of {study.command} (`table` is no list of methods with "
            f"{', '.join(study.metrics)})"
        )
    data = content.get("data", "")
    if isinstance(data, dict):
        # Counts by name. Those of parts are in the file.
        data = ", ".join(f"{key} {_cell(value)}" for key, value in data.items() if isinstance(value, _PLAIN))
    return StudyResult(folder, name, str(data), tuple(rows))


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_row(row: Any, study: Study) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("method"), str):
        return False
    values = [row[metric] for metric in study.metrics if row.get(metric) is not None]
    return bool(values) and all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def study_tables(results: Sequence[StudyResult] = (), *, with_ours: bool = False) -> list[Table]:
    """The table of sizes, and a table for each study: published rows first, then those of each folder.

    Args:
        results: what the folders hold.
        with_ours: whether the report has results at all. A study that was not run then has a row that says so.
    """
    return [_sizes(), *(_table(study, results, with_ours) for study in STUDIES)]


def _sizes() -> Table:
    columns = [
        "row", "layers of the encoder", "of the decoder", "d_model", "d_kv", "heads", "d_ff", "weights, stated",
        "weights, counted with relu", "with gated gelu", "mutations, top 1",
    ]  # fmt: skip
    rows = []
    for shape in SHAPES:
        counted = [f"{millions} million" for millions in COUNTED.get(shape.name, ())] or ["", ""]
        widths = map(str, (shape.encoder or "", shape.decoder, shape.d_model, shape.d_kv, shape.heads, shape.d_ff))
        rows.append([shape.name, *widths, shape.stated, *counted, f"{shape.top1}"])
    return Table("ENBED: sizes, as published", columns, rows, note=" ".join(SHAPE_NOTES))


def _table(study: Study, results: Sequence[StudyResult], with_ours: bool) -> Table:
    own = [result for result in results if result.study == study.name]
    # What else a row says, such as the pairs that it is of.
    extra = [*dict.fromkeys(key for result in own for row in result.rows for key in row if _is_extra(study, key, row))]
    columns = [study.published_as] if study.published_as else []
    # Without results, metrics that the paper does not name would be empty columns.
    columns += study.metrics if own or not study.published_as else []
    rows = [["published", method, *_values(values, columns, study)] for method, values in study.rows.items()]
    rows += [["counted", method, *_values(values, columns, study)] for method, values in study.counted.items()]
    if with_ours:
        rows = [[*row, *[""] * len(extra), "", ""] for row in rows]
        for result in own:
            for row in result.rows:
                shares = {key: row[key] * _scale(key) for key in study.metrics if row.get(key) is not None}
                more = [_cell(row.get(key, "")) for key in extra]
                rows.append(
                    ["ours", row["method"], *_values(shares, columns, study, 2), *more, result.data, str(result.folder)]
                )
        if not own:
            rows.append(["ours", _NOT_RUN, *[""] * (len(columns) + len(extra)), "", study.command])
    head = [_named(column) for column in columns]
    columns = ["whose", "method", *head, *([*extra, "tested on", "folder or command"] if with_ours else [])]
    notes = [*study.notes, *([_SMALL] if own else [])]
    unit = ", in percent" if not {*study.metrics} & {*DISTANCES} else ", in percent and in bases"
    title = f"{study.title}: {'published and ours' if with_ours else 'as published'}{unit}"
    return Table(title, columns, rows, note=" ".join(notes))


def _is_extra(study: Study, key: str, row: Mapping[str, Any]) -> bool:
    return key not in ("method", *study.metrics) and isinstance(row[key], _PLAIN)


def _scale(metric: str) -> float:
    return 1 if metric in DISTANCES else 100


def _values(values: Mapping[str, float], columns: Sequence[str], study: Study, digits: int | None = None) -> list[str]:
    found = {study.published_as: values[""]} if "" in values else values
    return [_shown(found[column], digits) if column in found else "" for column in columns]


def _shown(value: float, digits: int | None) -> str:
    return str(value) if digits is None else f"{value:.{digits}f}"


def _named(metric: str) -> str:
    return metric.replace("_", " ")
