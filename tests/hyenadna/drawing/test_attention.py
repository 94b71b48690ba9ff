"""The picture of the heads of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hyenadna.drawing.attention import draw_heads


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def panels(figure: Figure) -> list[Any]:
    """The images of the panels, in reading order."""
    return [axes.images[0] for axes in figure.axes if axes.images]


@pytest.mark.parametrize(("heads", "tokens"), [(1, 0), pytest.param(5, 3, marks=pytest.mark.slow)])
def test_every_head_has_its_panels(drawn: list[Figure], tmp_path: Path, heads: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    local, sides = rng.random((heads, 6, 5)), rng.random((heads, 6, tokens))
    draw_heads(local, sides, tmp_path / "x.png", title="layer 1", block=2)
    (figure,) = drawn
    images = panels(figure)
    assert len(images) == heads * (2 if tokens else 1)
    for head in range(heads):
        window = images[2 * head if tokens else head].get_array()
        # The corners are outside the sequence.
        assert np.ma.getmaskarray(window).sum() == 2 * 3
        inside = ~np.ma.getmaskarray(window)
        np.testing.assert_array_equal(window[inside], local[head][inside])
        if tokens:
            np.testing.assert_array_equal(images[2 * head + 1].get_array(), sides[head])
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_many_rows_are_drawn_as_means(drawn: list[Figure], tmp_path: Path) -> None:
    sides = np.arange(2500.0).reshape(1, 2500, 1) / 2500
    draw_heads(np.ones((1, 2500, 3)), sides, tmp_path / "x.png", title="long", block=2500)
    shown = panels(drawn[0])[1].get_array()
    assert shown.shape == (834, 1)
    np.testing.assert_allclose(shown[:2, 0], [1 / 2500, 4 / 2500])
    # The last row is of one byte alone.
    assert shown[-1, 0] == pytest.approx(2499 / 2500)
