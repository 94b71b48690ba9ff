from __future__ import annotations

import importlib.util
import struct
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.score import Score
from hyenadna.drawing import figures as plot

BASELINES = dict(enumerate([3.8866, 3.8590, 3.8493, 3.8387, 3.8354, 3.8330, 3.8272, 3.8218, 3.8164]))
SCORES = {order: Score(perplexity, 0.31 + 0.005 * order, 100) for order, perplexity in BASELINES.items()}


def metrics(steps: int = 400) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        perplexity = float((3.8 + 9 * np.exp(-step / 8)) * np.exp(rng.normal(0, 0.01)))
        rows.append(
            {"step": step, "loss": np.log(perplexity), "perplexity": perplexity, "lr": 1e-3, "tokens": 20480 * step}
        )
        if step % 100 == 0:
            rows.append({"step": step, "valid_perplexity": 3.8 + 1 / step})
    return rows


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def visible_texts(figure: Any) -> list[Any]:
    from matplotlib.text import Text

    ticks = [
        (axis, tick) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()
    ]
    beyond = {
        label
        for axis, tick in ticks
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = set(figure.findobj(Text)) - beyond
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def draw_all(folder: Path) -> list[Path]:
    return [
        plot.training_curves(metrics(), folder / "curves.png", BASELINES),
        plot.evaluation_bars(Score(3.8052, 0.361, 100), SCORES, folder / "bars.png"),
        plot.perplexity_by_position(np.linspace(3.95, 3.75, 1024), folder / "position.png", 3.8164),
    ]


def test_figures_are_png_with_readable_text_that_does_not_collide(tmp_path: Path, figures: list[Any]) -> None:
    paths = draw_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "bars.png", "position.png"}
    for path, figure in zip(paths, figures, strict=True):
        width, height = png_size(path)
        assert width == 1200
        assert figure.dpi == 150
        texts = visible_texts(figure)
        assert min(text.get_fontsize() for text in texts) >= 9
        boxes = [text.get_window_extent() for text in texts]
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
        for (a, box_a), (b, box_b) in combinations(zip(texts, boxes, strict=True), 2):
            assert not box_a.shrunk(0.95, 0.85).overlaps(box_b.shrunk(0.95, 0.85)), (a.get_text(), b.get_text())


def test_curves_name_every_baseline_and_the_last_validation(tmp_path: Path, figures: list[Any]) -> None:
    plot.training_curves(metrics(), tmp_path / "curves.png", BASELINES)
    texts = {text.get_text() for text in visible_texts(figures[0])}
    assert {f"Markov {order}: {BASELINES[order]:.4f}" for order in range(8)} <= texts
    assert {"Markov 8 (best): 3.8164", "validation: 3.8025", "bases seen (Mb)"} <= texts


@pytest.mark.slow
def test_the_legend_of_the_curves_is_below_them_and_steps_are_whole(tmp_path: Path, figures: list[Any]) -> None:
    for steps in (2, 3, 400):
        plot.training_curves(metrics(steps), tmp_path / "curves.png")
        figure = figures[-1]
        [legend] = figure.legends
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
        assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_a_validation_without_a_number_is_left_out(tmp_path: Path, figures: list[Any]) -> None:
    rows = [{"step": 1, "valid_perplexity": 3.9}, {"step": 2, "valid_perplexity": None}]
    plot.training_curves(rows, tmp_path / "curves.png")
    [line] = [line for line in figures[0].axes[0].lines if line.get_label() == "validation"]
    assert np.asarray(line.get_xydata()).tolist() == [[1.0, 3.9]]


def test_curves_are_not_flattened_by_the_first_steps(tmp_path: Path, figures: list[Any]) -> None:
    plot.training_curves(metrics(), tmp_path / "curves.png", BASELINES)
    low, high = figures[0].axes[0].get_ylim()
    assert 3.7 < low < 3.80
    assert 3.8866 < high < 4.0


def test_token_axis_follows_a_growing_batch(tmp_path: Path, figures: list[Any]) -> None:
    rows = [{"step": step, "perplexity": 3.9, "tokens": 1000 * step**2} for step in range(1, 101)]
    plot.training_curves(rows, tmp_path / "curves.png")
    top = figures[0].axes[1]
    placed = {label.get_text(): tick for tick, label in zip(top.get_xticks(), top.get_xticklabels(), strict=True)}
    assert placed["4"] == pytest.approx(np.sqrt(4000), abs=0.01)
    assert top.get_xlim() == figures[0].axes[0].get_xlim()


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 10, "perplexity": 3.9}],
        [{"step": 0, "valid_perplexity": 3.9}],
        [{"step": 1, "perplexity": 5.0, "tokens": 3}, {"step": 2, "perplexity": 4.0, "valid_perplexity": 4.1}],
    ],
    ids=["one training row", "validation alone", "both in one row"],
)
def test_curves_of_a_run_that_has_just_begun(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert png_size(plot.training_curves(rows, tmp_path / "curves.png", {3: 3.9})) == (1200, 690)


def test_smoothing_keeps_a_constant_and_averages_the_loss() -> None:
    np.testing.assert_allclose(plot._smooth(np.full(100, 3.8)), 3.8, rtol=1e-14)
    alternating = np.tile([2.0, 8.0], 400)
    np.testing.assert_allclose(plot._smooth(alternating)[50:-50], 4.0, rtol=0.02)


def test_bars_are_as_long_as_the_distance_from_guessing(tmp_path: Path, figures: list[Any]) -> None:
    worse = SCORES | {8: Score(4.1, 0.24, 100)}
    plot.evaluation_bars(Score(3.5, 0.4, 100), worse, tmp_path / "bars.png")
    perplexity, accuracy = figures[0].axes
    for axes, chance, field in ((perplexity, 4.0, "perplexity"), (accuracy, 0.25, "accuracy")):
        scores = [*worse.values(), Score(3.5, 0.4, 100)]
        for bar, score in zip(axes.patches, scores, strict=True):
            assert bar.get_x() == chance
            assert bar.get_width() == pytest.approx(getattr(score, field) - chance)
        first, last = sorted(axes.get_xlim())
        assert first <= min(getattr(score, field) for score in scores)
        assert last >= max(getattr(score, field) for score in scores)
    assert [label.get_text() for label in perplexity.get_yticklabels()][-1] == "HyenaDNA"


def test_bars_without_baselines(tmp_path: Path) -> None:
    assert plot.evaluation_bars(Score(3.5, 0.4, 100), {}, tmp_path / "bars.png").is_file()


def test_position_bins_average_the_loss_and_skip_nan() -> None:
    perplexity = np.full(1000, 3.0)
    perplexity[500:] = np.tile([2.0, 4.5], 250)
    perplexity[[0, 700]] = np.nan
    centres, means = plot._geometric_bins(perplexity)
    assert centres[0] > 1
    assert centres[-1] < 1000
    assert all(low < high for low, high in pairwise(centres))
    np.testing.assert_allclose(means, 3.0, rtol=0.01)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_position_bins_of_short_windows(tmp_path: Path, length: int) -> None:
    centres, _ = plot._geometric_bins(np.full(length, 3.0))
    np.testing.assert_allclose(centres, np.arange(1, length + 1))
    assert plot.perplexity_by_position(np.full(length, 3.0), tmp_path / "position.png").is_file()


def test_spread_is_the_least_squares_place_with_gaps() -> None:
    np.testing.assert_allclose(plot._spread(np.array([0.0, 0.5, 1.0]), 0.1), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(plot._spread(np.array([0.5, 0.5]), 0.1), [0.45, 0.55])
    np.testing.assert_allclose(plot._spread(np.array([0.2, 0.21, 0.22, 0.9]), 0.1), [0.11, 0.21, 0.31, 0.9])
    places = plot._spread(np.sort(np.random.default_rng(0).random(30)), 0.03)
    assert np.diff(places).min() >= 0.03 - 1e-12


def test_refuses_what_cannot_be_plotted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no perplexity yet"):
        plot.training_curves([{"step": 1, "lr": 0.1}], tmp_path / "a.png")
    with pytest.raises(InputError, match=r"got shape \(2, 2\)"):
        plot.perplexity_by_position(np.ones((2, 2)), tmp_path / "a.png")
    with pytest.raises(InputError, match="nothing to plot"):
        plot.perplexity_by_position([float("nan")], tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot be written"):
        plot.perplexity_by_position([3.0, 2.0], tmp_path / "absent" / "a.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_module_loads_and_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot.__file__
    spec = importlib.util.spec_from_file_location("plot_without_matplotlib", plot.__file__)
    assert spec
    assert spec.loader
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    with pytest.raises(ImportError, match=r"pip install '\.\[dna\]'"):
        fresh.perplexity_by_position([3.0, 2.0], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
