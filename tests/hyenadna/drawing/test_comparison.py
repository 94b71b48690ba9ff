from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from hyenadna.drawing.comparison import Dots, published_and_ours

LINES = [
    Dots("promoters", "scratch", 0.93, [0.91, 0.92]),
    Dots("promoters", "lora", None, [0.95]),
    Dots("enhancers", "scratch", 0.73, []),
]


def drawn(monkeypatch: pytest.MonkeyPatch, out: Path, panels: dict[str, list[Dots]]) -> Figure:
    kept: list[Any] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    published_and_ours(panels, out)
    assert out.read_bytes().startswith(b"\x89PNG")
    (figure,) = kept
    return figure  # type: ignore[no-any-return]


def test_diamonds_are_published_and_dots_are_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path / "x.png", {"Table 1": LINES, "Table 2": LINES[2:]})
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == [
        "promoters", "scratch", "lora", "enhancers", "scratch",
    ]  # fmt: skip
    assert [label.get_text() for label in second.get_yticklabels()] == ["enhancers", "scratch"]
    shown = [(line.get_marker(), list(line.get_xdata()), list(line.get_ydata())) for line in first.lines]
    assert [(x, y) for marker, x, y in shown if marker == "D" and x] == [([0.93], [1]), ([0.73], [4])]
    assert [(x, y) for marker, x, y in shown if marker == "o" and x] == [([0.91, 0.92], [1, 1]), ([0.95], [2])]
    means = [x[0] for marker, x, y in shown if marker == "None" and len(x) == 2 and x[0] == x[1]]
    assert means == pytest.approx([0.915, 0.95])
    (legend,) = figure.legends
    assert [text.get_text().split(",")[0] for text in legend.get_texts()] == ["published", "ours"]


def test_without_a_published_figure_the_legend_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path / "x.png", {"test accuracy": LINES[1:2]})
    (legend,) = figure.legends
    assert [text.get_text().split(",")[0] for text in legend.get_texts()] == ["ours"]
