from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyenadna.drawing.cancer import Bar, confusions, forest, line_histograms


def test_a_row_has_its_point_and_its_interval_in_every_panel(tmp_path: Path, figures: list[Any]) -> None:
    bars = [
        Bar("words", False, [[0.6, 0.5, 0.7], [0.8, 0.6, 1.0]]),
        Bar("model", True, [[0.55, 0.5, 0.6], [0.7, 0.4, 0.9]], published=0.5268),
        Bar("control", True, [None, None]),
        Bar("undefined", True, [[None, None, None], [0.5, 0.5, 0.5]]),
    ]
    forest(bars, ["per sequence", "per line"], tmp_path / "f.png", chance=0.5)
    left, right = figures[0].axes
    assert [text.get_text() for text in left.get_yticklabels()] == [bar.name for bar in bars]
    drawn = [(list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) for line in left.lines[1:]]
    assert drawn == [
        ([0.5, 0.7], [0, 0], "None"), ([0.6], [0], "s"), ([0.5, 0.6], [1, 1], "None"), ([0.55], [1], "o"),
        ([0.5268], [1], "D"),
    ]  # fmt: skip
    assert [float(line.get_ydata()[0]) for line in right.lines[1:]] == [0, 0, 1, 1, 3, 3]


def test_confusions_show_counts_of_lines_for_any_number_of_classes(tmp_path: Path, figures: list[Any]) -> None:
    table = [[3, 1, 0], [0, 2, 2], [0, 0, 0]]
    confusions({f"row {i}": table for i in range(5)}, ["a", "b", "c"], tmp_path / "c.png")
    visible = [axes for axes in figures[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in visible] == [f"row {i}" for i in range(5)]
    shown = [text.get_text() for text in visible[0].texts]
    assert shown == [str(count) for row in table for count in row]


@pytest.mark.parametrize("lines", [1, 30])
def test_histograms_count_every_line_once(tmp_path: Path, figures: list[Any], lines: int) -> None:
    values = [0.1 * i - 0.9 for i in range(lines)]
    line_histograms({"model": {"a": values, "b": values}}, tmp_path / "l.png", of="b")
    (axes,) = figures[0].axes
    assert sum(patch.get_height() for patch in axes.patches) == 2 * lines
    assert axes.get_xlabel() == "mean log-odds of b over the sequences of a line"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b"]
