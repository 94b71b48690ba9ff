"""Finds result folders, and says which published row each belongs to, or why it belongs to none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import RESULTS_FILE
from hyenadna.comparison.enbed import StudyResult, read_study
from hyenadna.finetuning.results import read_results
from hyenadna.published import enbed
from hyenadna.published.tables import MISSING, TEST_SIZES, figures

_BENCHMARKS = {
    "gb": "genomic-benchmarks",
    "nt": "nucleotide-transformer",
    "deepsea": "chromatin",
    "species": "species",
    "cancer": "cancer",
}
"""The benchmarks by the first word of their presets' names."""

_CANCER_CLASSES = {"lung", "lymphoid"}
# Versions of a data set differ by a sequence or two. Another split differs by far more.
_SIZE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Result:
    """What one folder holds.

    Attributes:
        folder: the folder.
        benchmark: as in :class:`hyenadna.published.tables.Figure`. Empty for a run without a preset.
        dataset: likewise, or the name of the data.
        row: the ablation. See :data:`hyenadna.published.tables.ROWS`.
        metric: the metric that chose the epoch.
        values: test values of the runs, by metric. Metrics without a value in some run are left out.
        runs: seed and fold of the runs, in the order of ``values``. The fold is 0 without cross-validation.
        tested: sequences of the test split.
        epoch_chosen_on: what the best epoch was chosen on.
        weights: ``"published"``, ``"ours"`` or ``"none"``: what training began from.
        parameters: of the model with its head. None if the folder does not say.
        deviations: options that differ from the preset's, and what else differs from the published model.
        apart: why its figures stand apart from the published ones. Empty where they compare.
        split: equal for runs whose test examples are the same.
    """

    folder: Path
    benchmark: str
    dataset: str
    row: str
    metric: str
    values: dict[str, list[float]]
    runs: list[tuple[int, int]]
    tested: int
    epoch_chosen_on: str = ""
    weights: str = ""
    parameters: int | None = None
    deviations: str = ""
    apart: str = ""
    split: str = ""

    @property
    def repeated(self) -> str:
        """How many runs there are, and of what."""
        folds = len({fold for _, fold in self.runs})
        word = "run" if 1 < folds < len(self.runs) else "fold" if folds > 1 else "seed"
        return f"{len(self.runs)} {word}{'s' if len(self.runs) > 1 else ''}"


@dataclass
class Findings:
    """What the folders hold.

    Attributes:
        results: the results that the report shows, in the order of their folders.
        studies: the studies of ENBED that it shows, likewise.
        ignored: the other folders with the reason, a line each.
    """

    results: list[Result] = field(default_factory=list)
    studies: list[StudyResult] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)


def find(folders: Sequence[Path]) -> Findings:
    """The results in folders and below them. Hidden folders and links are not followed.

    Raises:
        InputError: a folder that was given itself holds a damaged file. One below is ignored, and told.
    """
    found = Findings()
    for folder in _result_folders(folders):
        try:
            result = _read(folder)
        except InputError as error:
            if folder in folders:
                raise
            found.ignored.append((folder, str(error).removeprefix(f"{folder / RESULTS_FILE}: ")))
            continue
        if isinstance(result, str):
            found.ignored.append((folder, result))
        elif isinstance(result, StudyResult):
            found.studies.append(result)
        else:
            found.results.append(result)
    return found


def _result_folders(folders: Sequence[Path]) -> Iterator[Path]:
    seen = set()
    for top in folders:
        for folder, children, files in os.walk(top):
            children[:] = sorted(name for name in children if not name.startswith("."))
            path = Path(folder)
            if RESULTS_FILE in files and (place := path.resolve()) not in seen:
                seen.add(place)
                yield path


def _read(folder: Path) -> Result | StudyResult | str:
    """The result of a fine-tuning or of a study of ENBED, or why the report has no place for it.

    Raises:
        InputError: results.json is damaged.
    """
    content = _content(folder)
    if isinstance(content.get("study"), str):
        return read_study(folder, content)
    if _study(folder) is not None:
        return "holds a study of hyenadna cancer, whose rows are listed one by one"
    summary = read_results(folder)
    try:
        return _placed(folder, summary)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / RESULTS_FILE}: no results of hyenadna finetune ({error!r})") from error


def _study(folder: Path) -> dict[str, Any] | None:
    """The results.json of ``hyenadna cancer`` in a folder, or None if it holds no such file."""
    found = _content(folder)
    return found if isinstance(found.get("rows"), list) else None


def _content(folder: Path) -> dict[str, Any]:
    """The results.json of a folder. Empty if there is none, or something else."""
    try:
        found = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _control(folder: Path) -> str:
    """What makes a row of ``hyenadna cancer`` a control. Empty for other rows and for what is none."""
    # A study keeps the fine-tunings of its rows two folders below.
    study = _study(folder.absolute().parent.parent)
    row = (
        next((row for row in study["rows"] if Path(row.get("folder", "")).name == folder.name), None) if study else None
    )
    if study is None or row is None:
        return ""
    if study.get("shuffled_labels"):
        return "a control: its labels were shuffled"
    return "" if row["inputs"] == "mutated" else f"a control: it read {row['inputs']} windows"


def _placed(folder: Path, summary: Mapping[str, Any]) -> Result | str:
    preset = summary.get("preset")
    if summary.get("kind") == "probe":
        return _probe(folder, summary, preset)
    demonstration = bool(summary.get("demonstration_split"))
    benchmark, dataset = "", Path(summary["data"]).name
    # ENBED has tables of its own on the same data.
    is_enbed = summary.get("architecture") == "enbed"
    if preset is not None:
        word, _, dataset = preset.partition("-")
        benchmark = _BENCHMARKS.get(word, "")
        table = enbed.BENCHMARKS.get(benchmark, "") if is_enbed else benchmark
        if is_enbed and not figures(table, dataset):
            return f"no published table of ENBED has the preset {preset}"
        if not (figures(benchmark, dataset) or any(name[:2] == (benchmark, dataset) for name in MISSING)):
            return f"no published table has the preset {preset}"
    elif not demonstration:
        return "was run without a preset, so nothing says which published row it belongs to"
    values = _values(summary)
    if not values:
        return "no metric has a value in every run"
    tested = int(summary["examples"]["test"])
    apart = _control(folder) or _apart(summary, benchmark, dataset, tested)
    split = {key: summary.get(key) for key in ("data", "split", "examples", "classes")}
    return Result(
        folder=folder,
        benchmark=enbed.BENCHMARKS.get(benchmark, benchmark) if is_enbed else benchmark,
        dataset=dataset,
        row=_row(summary),
        metric=str(summary["metric"]),
        values=values,
        runs=[(int(run["seed"]), int(run.get("fold", 0))) for run in summary["runs"]],
        tested=tested,
        epoch_chosen_on=str(summary.get("epoch_chosen_on", "")),
        weights={"other": "ours"}.get(found := str(summary.get("weights", "")), found),
        parameters=None if summary.get("parameters") is None else int(summary["parameters"]),
        deviations=_deviations(summary),
        apart=apart,
        split=repr([split, apart]),
    )


def _probe(folder: Path, summary: Mapping[str, Any], preset: Any) -> Result | str:
    """The result of ``hyenadna probe``, or why it has no place. Nothing was trained but the classifier."""
    if preset != "biotypes":
        return "is a probe without the preset biotypes, and no published table has another"
    apart = "a probe: its folds are its own, and its embeddings are of weights that were not fine-tuned"
    return Result(
        folder=folder,
        benchmark="biotypes",
        dataset="biotypes",
        row="pretrained",
        metric=str(summary["metric"]),
        values=_values(summary),
        # Folds count from 1 here as in fine-tuning.
        runs=[(0, int(run["fold"]) + 1) for run in summary["runs"]],
        tested=int(summary["examples"]["test"]),
        weights=str(summary.get("weights") or ""),
        deviations=_deviations(summary),
        apart=apart,
        split=repr([summary["embeddings"], summary["split"], apart]),
    )


def _values(summary: Mapping[str, Any]) -> dict[str, list[float]]:
    """The values of the runs, of every metric that has one in each. JSON of Python may hold NaN, which is none."""
    runs = [run["test"] for run in summary["runs"]]
    values = {name: [run.get(name) for run in runs] for run in runs for name in run}
    return {name: list(map(float, found)) for name, found in values.items() if all(map(_is_value, found))}


def _is_value(value: Any) -> bool:
    return value is not None and math.isfinite(value)


# The deviations tell the first two in other words, and the tables the third. The last is of the presets, which are
# those of HyenaDNA: ENBED has tables of its own.
_TOLD_ELSEWHERE = (
    "other options than the preset's",
    "the model has",
    "the published filter is delayed",
    "no figure is published of the row enbed",
)


def _deviations(summary: Mapping[str, Any]) -> str:
    options = summary.get("deviations", {}).items()
    reasons = [str(reason) for reason in summary.get("not_comparable", ())]
    return "; ".join(
        [
            *(f"{option} {used} (preset: {wanted})" for option, (used, wanted) in options),
            *(reason for reason in reasons if not reason.startswith(_TOLD_ELSEWHERE)),
        ]
    )


def _row(summary: Mapping[str, Any]) -> str:
    ablation = str(summary.get("ablation", "none"))
    method = str(summary["method"])
    if summary.get("architecture") == "enbed":
        return "enbed" if method == "scratch" else "enbed-pretrained"
    return ablation if ablation != "none" else {"full": "pretrained"}.get(method, method)


def _apart(summary: Mapping[str, Any], benchmark: str, dataset: str, tested: int) -> str:
    """Why the test split is not the published one; empty where it may be."""
    if summary.get("demonstration_split"):
        return "demonstration split: its test was drawn from all examples"
    if "demonstration_split" not in summary:
        return "an older version wrote it, and does not say where the test comes from"
    if summary["split"]["folds"]:
        return "cross-validation: its tests were drawn from the training examples"
    wanted = TEST_SIZES.get((benchmark, dataset))
    if wanted is not None and abs(tested - wanted) > _SIZE_TOLERANCE * wanted:
        return f"its test has {tested:,} sequences, the published one {wanted:,}"
    if benchmark == "cancer" and {str(name).lower() for name in summary["classes"]} != _CANCER_CLASSES:
        return f"its classes are {', '.join(summary['classes'])}, the published ones Lung and Lymphoid"
    return ""
