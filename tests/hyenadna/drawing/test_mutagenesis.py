from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.drawing.mutagenesis import mutagenesis_map


def pixels(figure: Any, cells: np.ndarray) -> np.ndarray:
    """Colours near a corner of the ``cells (row, column)``, away from the mark in the middle: ``(n, 3)``."""
    image = np.asarray(figure.canvas.buffer_rgba())
    places = figure.axes[0].transData.transform(cells[:, ::-1] + [0.4, 0.4]).round().astype(int)
    return image[image.shape[0] - places[:, 1], places[:, 0], :3]


def test_the_genomes_own_base_does_not_look_like_no_change(tmp_path: Path, figures: list[Any]) -> None:
    effects = np.zeros((4, 6))
    effects[0, 1], effects[:, 4] = 2.0, np.nan
    mutagenesis_map(effects, "ACGTNA", "c:1-6", tmp_path / "m.png", rows="ACGT")
    own = np.array([[0, 0], [1, 1], [2, 2], [3, 3], [0, 5]])
    unscored = np.array([[row, 4] for row in range(4)])
    none, red = np.array([[1, 0], [3, 0]]), np.array([[0, 1]])
    figures[0].canvas.draw()
    assert (pixels(figures[0], own) == 0xB0).all()
    assert (pixels(figures[0], unscored) == 0xB0).all()
    assert (pixels(figures[0], none) > 0xF0).all()
    assert np.ptp(pixels(figures[0], red)) > 50
    dots, crosses = figures[0].axes[0].lines
    assert sorted(zip(dots.get_ydata(), dots.get_xdata(), strict=True)) == sorted(map(tuple, own.tolist()))
    assert sorted(zip(crosses.get_ydata(), crosses.get_xdata(), strict=True)) == sorted(map(tuple, unscored.tolist()))
    [legend] = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["the genome's own base", "no score"]
    assert not legend.get_window_extent().overlaps(figures[0].axes[0].get_window_extent())


@pytest.mark.parametrize(("value", "reference"), [(0.0, "ACGTA"), (np.nan, "NNNNN")])
def test_nothing_to_colour(tmp_path: Path, figures: list[Any], value: float, reference: str) -> None:
    mutagenesis_map(np.full((4, 5), value), reference, "c:1-5", tmp_path / "m.png", rows="ACGT")
    assert figures[0].axes[0].images[0].get_clim() == (-1.0, 1.0)


def test_positions_of_a_long_region_count_from_1(tmp_path: Path, figures: list[Any]) -> None:
    mutagenesis_map(np.ones((4, 700)), "ACGT" * 175, "c:1,001-1,700", tmp_path / "m.png", rows="ACGT")
    axes = figures[0].axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) > 3
    assert labels == [f"{int(tick) + 1:,}" for tick in axes.get_xticks()]
    assert axes.get_xlabel() == "c:1,001-1,700, position in it"
    assert figures[0].get_figwidth() <= 24
