from __future__ import annotations

from pathlib import Path
from typing import Any

from hyenadna.drawing.mutations import mutations_per_line, mutations_per_sequence


def test_sequences(tmp_path: Path, figures: list[Any]) -> None:
    mutations_per_sequence({"A": {1: 20, 2: 5}, "B": {1: 18, 4: 1}}, 1024, tmp_path / "s.png")
    axes = figures[0].axes[0]
    (first, second) = axes.containers
    assert [bar.get_height() for bar in first] == [20, 5, 0, 0]
    assert [bar.get_height() for bar in second] == [18, 0, 0, 1]
    # The two bars of a number stand side by side, around it.
    for number, (left, right) in enumerate(zip(first, second, strict=True), start=1):
        assert left.get_x() + left.get_width() == right.get_x() == number
    assert axes.get_ylim()[0] < 1
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["A", "B"]


def test_many_numbers_share_bars(tmp_path: Path, figures: list[Any]) -> None:
    mutations_per_sequence({"A": {1: 1, 2: 1, 3: 1, 61: 7}}, 32_768, tmp_path / "s.png")
    heights = [bar.get_height() for bar in figures[0].axes[0].containers[0]]
    assert (heights[0], heights[-1], sum(heights)) == (3, 7, 10)


def test_lines(tmp_path: Path, figures: list[Any]) -> None:
    mutations_per_line({"A": [100, 200, 3000], "B": [150]}, 175.0, tmp_path / "l.png")
    mutations_per_line({"A": [100, 120], "B": [150]}, 0.0, tmp_path / "n.png")
    wide, narrow = (figure.axes[0] for figure in figures)
    assert (wide.get_xscale(), narrow.get_xscale()) == ("log", "linear")
    assert [line.get_xdata()[0] for line in wide.lines] == [175.0]
    assert not narrow.lines
    told = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in figures]
    assert sorted(told[0]) == ["A", "B", "more than 175 are needed"]
    assert sorted(told[1]) == ["A", "B"]
