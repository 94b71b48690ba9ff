from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyenadna.drawing.finetuning import validation_curves


def ticks(axes: Any) -> list[float]:
    low, high = axes.get_xlim()
    return [tick for tick in axes.get_xticks() if low <= tick <= high]


@pytest.mark.parametrize("epochs", [1, 2, 3, 6, 20, 100])
def test_epochs_are_whole_numbers(tmp_path: Path, figures: list[Any], epochs: int) -> None:
    validation_curves(
        {"seed 0": [0.5] * epochs}, {"seed 0": (1, 0.6)}, tmp_path / "v.png", metric="auroc", baselines={}
    )
    [axes] = figures[0].axes
    assert ticks(axes)
    assert all(tick == round(tick) for tick in ticks(axes))


def test_the_legend_is_beside_the_curves(tmp_path: Path, figures: list[Any]) -> None:
    runs = {f"seed {i}": [0.9 - 0.1 * i, 0.8, 0.7] for i in range(9)}
    baselines = {"majority class": 0.5, "logistic regression on 5-mers, C = 0.01 by validation": 0.6}
    tests = {name: (1, values[0]) for name, values in runs.items()}
    validation_curves(runs, tests, tmp_path / "v.png", metric="accuracy", baselines=baselines)
    [legend] = figures[0].legends
    [axes] = figures[0].axes
    assert axes.get_legend() is None
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    shown = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
    assert shown == [
        *runs,
        "test of the best epoch",
        "test, majority class: 0.5000",
        "test, logistic regression on 5-mers, C = 0.01 by validation: 0.6000",
    ]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines[: len(runs)]}
    assert len(looks) == len(runs)


def test_many_runs_are_one_entry(tmp_path: Path, figures: list[Any]) -> None:
    runs = {f"seed {i}": [0.5, 0.6] for i in range(40)}
    validation_curves(runs, {}, tmp_path / "v.png", metric="accuracy", baselines={})
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["40 runs"]
