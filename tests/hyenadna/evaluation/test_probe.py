from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.evaluation.probe import probe


def test_what_is_there_is_found_and_what_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], [180, 120])
    vectors = rng.normal(size=(300, 5))
    noise = probe(vectors, labels)
    assert noise.majority == 0.6
    assert noise.logistic == pytest.approx(0.6, abs=0.1)
    vectors[:, 2] += 4 * (labels == "a")
    # A column of another unit must not drown the others.
    vectors[:, 0] *= 1e4
    signal = probe(vectors, labels)
    assert signal.logistic > 0.95
    assert signal.neighbours > 0.9
    assert (signal.samples, signal.classes, signal.folds) == (300, 2, 5)
    assert signal.describe().startswith("300 sequences of 2 classes, 5 folds: nearest neighbours 0.9")


def test_a_group_is_on_one_side_only() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 20)
    labels = np.where(np.arange(400) % 20 < 10, "x", "y")
    # Each sample has a twin of its own group and class, and nothing else tells the classes.
    twins = rng.normal(size=(40, 8))[2 * groups + (labels == "y")]
    assert probe(twins, labels, neighbours=5).neighbours > 0.95
    assert probe(twins, labels, groups, neighbours=5).neighbours < 0.75


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        (["a"] * 6, None, "a probe needs at least two classes; every label is 'a'"),
        (["a"] * 5 + ["b"], None, "a probe needs at least two folds: the class 'b'"),
        (["a", "b"] * 3, ["g"] * 6, "a probe needs at least two folds"),
        (["a"] * 3 + ["b"] * 3, ["g"] * 3 + ["h"] * 3, "two classes in every fold"),
    ],
)
def test_what_cannot_be_probed_is_refused(labels: list[str], groups: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        probe(np.arange(12.0).reshape(6, 2), np.array(labels), None if groups is None else np.array(groups))
