from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.drawing.embeddings import colour_classes, pca_panel, umap_panels


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


def test_classes_are_labels_or_contigs(columns: dict[str, Any]) -> None:
    for colour in ("label", "contig"):
        assert colour_classes(colour, **columns, bins=3).tolist() == columns[colour].tolist()
    with pytest.raises(InputError, match="the embeddings have no labels: choose another `colour`"):
        colour_classes("label", **columns | {"label": np.full(60, "")}, bins=10)


def test_components_are_those_of_the_standardised_columns(vectors: np.ndarray) -> None:
    vectors = vectors.astype(np.float64)
    title, points = pca_panel(vectors * [1, 10, 100, 1, 1, 1])
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), atol=1e-9)
    assert title == f"PCA, {(values[:2] ** 2).sum() / (values**2).sum():.0%} of the variance"


def test_more_neighbours_than_vectors_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="`neighbors` 60: must be below the 60 vectors"):
        umap_panels(vectors, [5, 60], [0.1])
