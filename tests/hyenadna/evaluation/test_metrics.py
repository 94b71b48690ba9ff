from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import NearConstantInputWarning, pearsonr
from sklearn import metrics as reference

from hyenadna.evaluation.metrics import _multilabel, measure


def test_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    logits = rng.normal(size=(50, 2)) + np.eye(2)[labels]
    values, reasons = measure("classification", logits, labels)
    guessed = logits.argmax(1)
    difference = logits[:, 1] - logits[:, 0]
    assert reasons == {}
    assert values == pytest.approx(
        {
            "accuracy": (guessed == labels).mean(),
            "mcc": reference.matthews_corrcoef(labels, guessed),
            "f1_macro": reference.f1_score(labels, guessed, average="macro"),
            "f1_binary": reference.f1_score(labels, guessed),
            "auroc": reference.roc_auc_score(labels, difference),
            "auprc": reference.average_precision_score(labels, difference),
        }
    )


def test_several_classes_and_several_labels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    values, reasons = measure("classification", 9 * np.eye(3)[labels], labels)
    assert reasons == {"f1_binary": "it is defined for two classes, and there are 3"}
    assert [values[name] for name in ("accuracy", "mcc", "f1_macro", "auroc", "auprc")] == pytest.approx([1.0] * 5)

    outputs = (rng.random((60, 4)) < 0.3).astype(np.float32)
    outputs[:, 3] = 0
    logits = rng.normal(size=(60, 4))
    values, reasons = measure("multilabel", logits, outputs)
    assert reasons == {}
    each = [reference.roc_auc_score(outputs[:, i], logits[:, i]) for i in range(3)]
    assert values["auroc"] == pytest.approx(np.median(each))
    assert "auroc_tf" not in values


@pytest.mark.slow
def test_groups_of_deepsea() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 919)) < 0.5).astype(np.float32)
    logits = np.where(np.arange(919) < 125, 2 * labels - 1, np.where(np.arange(919) < 815, 1 - 2 * labels, 0.0))
    values = [_multilabel(name, logits, labels) for name in ("auroc_dhs", "auroc_tf", "auroc_hm")]
    assert values == [1.0, 0.0, 0.5]


def test_the_groups_of_deepsea_have_their_first_and_last_outputs() -> None:
    """Outputs of one value have no score, so that the median is over those at the borders alone."""
    borders = {"auroc_dhs": (0, 124), "auroc_tf": (125, 814), "auroc_hm": (815, 918)}
    labels, logits = np.zeros((10, 919), np.float32), np.zeros((10, 919))
    expected = {}
    for row, (name, pair) in enumerate(borders.items()):
        for side, output in enumerate(pair):
            labels[:5, output] = 1
            # So many of the 25 pairs of a positive and a negative are in order.
            right = 5 * (2 * row + side)
            logits[:, output] = [*(1.0 if i * 5 < right else -1.0 for i in range(5)), *[0.0] * 5]
        expected[name] = (5 * 2 * row + 5 * (2 * row + 1)) / 2 / 25
    values, _ = measure("multilabel", logits, labels)
    assert {name: values[name] for name in borders} == pytest.approx(expected)


def test_outputs_of_several_labels_are_logits() -> None:
    """Above 0 is yes: 0.2 is a probability of 0.55."""
    labels = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    logits = np.array([[0.2, -0.2], [0.4, 0.3], [-0.1, 0.1], [0.2, -3.0]])
    values, _ = measure("multilabel", logits, labels)
    assert values["accuracy"] == pytest.approx(5 / 8)
    # Two of three and one of one answers are right, of two positives each: 2/2 and 1/2 of them are found.
    assert values["f1_macro"] == pytest.approx((4 / 5 + 1 / 2) / 2)


def test_values() -> None:
    labels = np.array([[1.0], [2.0], [3.0], [4.0]])
    values, reasons = measure("regression", labels**3, labels)
    assert reasons == {}
    assert values["spearman"] == pytest.approx(1.0)
    assert values["pearson"] == pytest.approx(np.corrcoef(labels[:, 0] ** 3, labels[:, 0])[0, 1])
    assert values["mse"] == pytest.approx(((labels**3 - labels) ** 2).mean())


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "undefined"),
    [
        ("classification", np.eye(2), np.array([1, 1]), {"mcc", "f1_macro", "f1_binary", "auroc", "auprc"}),
        ("classification", np.eye(3)[:2], np.array([0, 1]), {"f1_macro", "f1_binary", "auroc", "auprc"}),
        ("multilabel", np.zeros((3, 2)), np.zeros((3, 2)), {"f1_macro", "auroc", "auprc"}),
        ("regression", np.zeros((3, 1)), np.arange(3.0)[:, None], {"pearson", "spearman"}),
        ("regression", np.full((3, 1), np.nan), np.arange(3.0)[:, None], {"pearson", "spearman", "mse"}),
    ],
)
def test_what_is_undefined_says_why(task: str, outputs: np.ndarray, labels: np.ndarray, undefined: set[str]) -> None:
    values, reasons = measure(task, outputs, labels)
    assert {name for name, value in values.items() if value is None} == set(reasons) == undefined
    assert all(reasons.values())
    assert all(np.isfinite(value) for value in values.values() if value is not None)


def test_an_output_without_positives_does_not_lower_the_mean_f1() -> None:
    labels = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    values, _ = measure("multilabel", np.where(labels > 0, 1.0, -1.0), labels)
    assert values["f1_macro"] == 1.0


def test_large_logits_have_finite_metrics() -> None:
    labels = np.array([0, 1, 0, 1, 0])
    logits = np.array([[900.0, 0.0], [0.0, 900.0], [0.0, 20.0], [0.0, 30.0], [-900.0, -1200.0]], dtype=np.float32)
    values, reasons = measure("classification", logits, labels)
    assert reasons == {}
    assert values["auroc"] == reference.roc_auc_score(labels, logits[:, 1] - logits[:, 0])


def test_predictions_that_hardly_differ_are_measured_in_silence() -> None:
    outputs, labels = np.array([[1.0], [1.0 + 1e-15], [1.0]]), np.array([[1.0], [3.0], [2.0]])
    with pytest.warns(NearConstantInputWarning):
        pearsonr(outputs[:, 0], labels[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure("regression", outputs, labels)
