from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.drawing.embeddings import colour_classes, pca_panel


@pytest.fixture
def places() -> dict[str, Any]:
    """Thirty sequences on each of two contigs."""
    start = np.tile(np.arange(30) * 10, 2)
    label = np.repeat(["gene", "other"], 30)
    return {"label": label, "contig": np.repeat(["c1", "c2"], 30), "start": start, "end": start + 10}


def test_bins_go_along_each_contig(places: dict[str, Any]) -> None:
    bins = colour_classes("position", **places, bins=3)
    assert bins[:30].tolist() == 10 * ["0% to 33%"] + 10 * ["33% to 67%"] + 10 * ["67% to 100%"]
    assert bins[30:].tolist() == bins[:30].tolist()


def test_embeddings_without_labels_say_so(places: dict[str, Any]) -> None:
    assert colour_classes("label", **places, bins=3).tolist() == places["label"].tolist()
    with pytest.raises(InputError, match="the embeddings have no labels: choose another `colour`"):
        colour_classes("label", **places | {"label": np.full(60, "")}, bins=10)


def test_components_are_those_of_the_standardised_columns() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 6))
    vectors[:30, :2] += 5
    title, points = pca_panel(vectors * [1, 10, 100, 1, 1, 1])
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), atol=1e-9)
    assert title == f"PCA, {(values[:2] ** 2).sum() / (values**2).sum():.0%} of the variance"
