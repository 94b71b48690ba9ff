from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.drawing.embeddings import Panel, colour_classes, embedding_maps, pca_panel, tsne_panel, umap_panels


@pytest.fixture
def columns() -> dict[str, Any]:
    """Thirty sequences on each of two contigs."""
    start = np.tile(np.arange(30) * 10, 2)
    contig = np.repeat(["c1", "c2"], 30)
    return {"label": np.repeat(["gene", "other"], 30), "contig": contig, "start": start, "end": start + 10}


@pytest.fixture
def vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    vectors[:30, :2] += 5
    return vectors


def test_bins_go_along_each_contig(columns: dict[str, Any]) -> None:
    bins = colour_classes("position", **columns, bins=3)
    assert bins[:30].tolist() == 10 * ["0% to 33%"] + 10 * ["33% to 67%"] + 10 * ["67% to 100%"]
    assert bins[30:].tolist() == bins[:30].tolist()


def test_bins_of_a_contig_carry_its_name(columns: dict[str, Any]) -> None:
    by_width = colour_classes("bin", **columns, bins=10, width=100)
    assert by_width[:30].tolist() == ["c1_0"] * 10 + ["c1_1"] * 10 + ["c1_2"] * 10
    assert by_width[30:].tolist() == [name.replace("c1", "c2") for name in by_width[:30]]
    by_number = colour_classes("bin", **columns, bins=2)
    assert by_number[[0, 14, 15, 29, 59]].tolist() == ["c1_0", "c1_0", "c1_1", "c1_1", "c2_1"]
    columns["contig"][5] = ""
    assert colour_classes("bin", **columns, bins=2)[5] == ""
    with pytest.raises(InputError, match="the embeddings have no positions: embed a BED, or a table with"):
        colour_classes("bin", **columns | {"contig": np.full(60, "")}, bins=2)


def test_classes_are_labels_or_contigs(columns: dict[str, Any]) -> None:
    for colour in ("label", "contig"):
        assert colour_classes(colour, **columns, bins=3).tolist() == columns[colour].tolist()
    with pytest.raises(InputError, match="the embeddings have no labels: choose another `colour`"):
        colour_classes("label", **columns | {"label": np.full(60, "")}, bins=10)


def test_components_are_those_of_the_standardised_columns(vectors: np.ndarray) -> None:
    vectors = vectors.astype(np.float64)
    title, points, axes = pca_panel(vectors * [1, 10, 100, 1, 1, 1])
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), atol=1e-9)
    shares = values**2 / (values**2).sum()
    assert title == f"PCA, {shares[:2].sum():.0%} of the variance"
    assert axes == tuple(f"component {i + 1} ({shares[i]:.1%} of the variance)" for i in range(2))


def test_vectors_without_two_dimensions_are_refused(vectors: np.ndarray) -> None:
    for same in (vectors[:, :1], np.ones_like(vectors)):
        with pytest.raises(InputError, match="vectors of two columns or more that are not all the same"):
            pca_panel(same)


def test_outliers_do_not_squeeze_the_map_and_are_told(
    vectors: np.ndarray, columns: dict[str, Any], tmp_path: Path, figures: list[Any]
) -> None:
    points = vectors[:, :2].copy()
    draw = partial(embedding_maps, classes=columns["label"], out=tmp_path / "e.png", note="a line")
    draw([Panel("", points)])
    points[0], points[40] = (1e4, 0.0), (0.0, -1e3)
    draw([Panel("", points)])
    before, after = figures
    for limits in ("get_xlim", "get_ylim"):
        old, new = (np.ptp(getattr(figure.axes[0], limits)()) for figure in (before, after))
        assert new < 3.5 * old
    assert before.get_supxlabel() == "a line"
    told = "a line. 2 points lie far outside the map: triangles at its border point to them"
    assert after.get_supxlabel().replace("\n", " ") == told
    # Every point is drawn, within the limits or on them.
    offsets = [np.asarray(c.get_offsets()) for c in after.axes[0].collections]
    assert sum(map(len, offsets)) == len(points)
    low, high = np.array([after.axes[0].get_xlim(), after.axes[0].get_ylim()]).T
    assert all(((low <= o) & (o <= high)).all() for o in offsets if len(o))


@pytest.mark.parametrize("classes", [1, 7, 20, 33])
def test_no_two_classes_look_alike(tmp_path: Path, figures: list[Any], classes: int) -> None:
    names = np.array([f"histone mark number {i} in a human cell line" for i in range(classes)])
    label = np.concatenate([np.repeat(names, 4), np.repeat(names[:5], 2), [""] * 3])
    points = np.random.default_rng(0).normal(size=(len(label), 2))
    embedding_maps([Panel("", points)], label, tmp_path / "e.png", legend="label")
    [legend] = figures[0].legends
    told = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
    assert told[-1] == "none"
    if classes > 20:
        assert told[-2] == f"{classes - 19} other classes"
    assert len(told) == min(classes, 20) + 1
    looks = [(h.get_facecolors().tobytes(), h.get_paths()[0].vertices.tobytes()) for h in legend.legend_handles]
    assert len(set(looks)) == len(looks)
    assert not legend.get_window_extent().overlaps(figures[0].axes[0].get_window_extent())
    height = figures[0].bbox.height
    assert legend.get_window_extent().y0 >= 0
    assert legend.get_window_extent().y1 <= height


def test_the_most_frequent_are_picked_out_above_the_others(tmp_path: Path, figures: list[Any]) -> None:
    label = np.array(["b"] * 5 + ["a"] * 5 + ["c"] * 9 + ["d"] * 2 + [""] * 3)
    points = np.random.default_rng(0).normal(size=(len(label), 2))
    embedding_maps([Panel("", points)], label, tmp_path / "e.png", top=2)
    [legend] = figures[0].legends
    # Of two that are as frequent, the first by name is taken.
    assert [text.get_text() for text in legend.get_texts()] == ["a", "c", "2 other classes", "none"]
    order = {len(c.get_offsets()): c.get_zorder() for c in figures[0].axes[0].collections if len(c.get_offsets())}
    assert order[9] == order[5] > order[7] == order[3]


def test_a_grid_names_its_rows_and_columns_once(tmp_path: Path, figures: list[Any]) -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    label = np.repeat(["x", "y"], 15)
    panels = [Panel(f"long title {i}", points) for i in range(6)]
    grid = ["5 neighbours", "9 neighbours"], ["distance 0", "distance 0.1", "distance 0.5"]
    embedding_maps(panels, label, tmp_path / "e.png", rows=2, grid=grid, title="a study", note="one\ntwo")
    axes = figures[0].axes
    assert [ax.get_title() for ax in axes] == [*grid[1], "", "", ""]
    assert [ax.get_title(loc="left") for ax in axes] == [""] * 6
    assert [ax.get_ylabel() for ax in axes] == [grid[0][0], "", "", grid[0][1], "", ""]
    assert figures[0].get_suptitle() == "a study"
    assert figures[0].get_supxlabel() == "one\ntwo"
    [legend] = figures[0].legends
    figures[0].draw_without_rendering()
    assert not any(legend.get_window_extent().overlaps(ax.get_window_extent()) for ax in axes)


def test_neighbours_stay_neighbours_in_tsne(vectors: np.ndarray) -> None:
    title, points, _ = tsne_panel(vectors)
    assert title == "t-SNE, perplexity 19.7"
    gap = np.linalg.norm(points[:30].mean(0) - points[30:].mean(0))
    assert gap > points[:30].std()
    assert np.array_equal(points, tsne_panel(vectors).points)


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, 4100], ids=["all distances", "approximated"])
def test_shared_neighbours_change_no_bit(n: int) -> None:
    umap = pytest.importorskip("umap", reason="umap-learn is an extra of its own")
    vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    panels = umap_panels(scaled, [5, 9], [0.1, 0.5], seed=3)
    pairs = [(k, d) for k in (5, 9) for d in (0.1, 0.5)]
    for panel, (k, d) in zip(panels, pairs, strict=True):
        alone = umap_panels(scaled, [k], [d], seed=3)
        assert np.array_equal(panel.points, alone[0].points)
    assert umap.UMAP


def test_more_neighbours_than_vectors_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="`neighbors` 60: must be below the 60 vectors"):
        umap_panels(vectors, [5, 60], [0.1])
