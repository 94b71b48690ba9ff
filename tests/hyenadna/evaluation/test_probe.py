from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.evaluation.folds import Folds, stratified_folds
from hyenadna.evaluation.probe import Probed, classify, probe


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


def test_scores_are_those_of_the_definition() -> None:
    labels = np.array(["a", "a", "a", "b", "b", "c"])
    guess = np.array(["a", "a", "b", "b", "a", "b"])
    # Only the first fold's test has a row of c.
    folds = Folds(((np.arange(2), np.arange(6)), (np.arange(2), np.arange(5))), "random folds")
    first, second = Probed(labels, folds, {"trees": guess}).scores("trees")
    a, b = 2 * 2 / (2 * 2 + 1 + 1), 2 * 1 / (2 * 1 + 2 + 1)
    assert first == pytest.approx({"f1_weighted": (3 * a + 2 * b) / 6, "f1_macro": (a + b) / 3, "accuracy": 0.5})
    b = 2 * 1 / (2 * 1 + 1 + 1)
    assert second == pytest.approx({"f1_weighted": (3 * a + 2 * b) / 5, "f1_macro": (a + b) / 2, "accuracy": 0.6})
    assert Probed(labels, folds, {"trees": guess}).confusion("trees", "abc").tolist() == [
        [2, 1, 0],
        [1, 1, 0],
        [0, 1, 0],
    ]


def test_trees_learn_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.uniform(-1, 1, size=(240, 3))
    labels = np.where(vectors[:, 0] * vectors[:, 1] > 0, "same", "other")
    found = classify(vectors, labels, stratified_folds(labels, folds=2), ["logistic", "trees"], trees=30)
    assert found.accuracy("trees") > 0.85
    assert found.accuracy("logistic") < 0.65
