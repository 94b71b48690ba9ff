from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef, roc_auc_score

from hyenadna.cancer.intervals import (
    Estimate,
    Predictions,
    draw_lines,
    estimate,
    exact_interval,
    log_odds,
    log_probabilities,
    per_line,
    per_sequence,
    resample,
)


def made(classes: int, *, lines: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, labels and lines of sequences, from one to five of each line."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(lines), rng.integers(1, 6, lines))
    labels = numbers % classes
    logits = rng.normal(size=(len(numbers), classes)) + 0.8 * np.eye(classes)[labels]
    # Scores that are equal, within a class and between two.
    return log_probabilities(np.round(logits, 1)), labels, numbers


def by_sklearn(found: Predictions) -> dict[str, float]:
    auroc = [roc_auc_score(found.labels == label, found.scores[:, label]) for label in range(found.scores.shape[1])]
    return {
        "accuracy": accuracy_score(found.labels, found.guessed),
        "mcc": matthews_corrcoef(found.labels, found.guessed),
        "auroc": float(np.mean(auroc)),
    }


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("level", ["sequence", "line", "vote"])
def test_every_resample_is_what_scikit_learn_says_of_the_drawn_lines(classes: int, level: str) -> None:
    logs, labels, lines = made(classes)
    line, vote = per_line(logs, labels, lines)
    found = {"sequence": per_sequence(logs, labels, lines), "line": line, "vote": vote}[level]
    weights = draw_lines(line.labels, 5, seed=3)
    values = resample(found, weights)
    for row, drawn in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(found.labels)), drawn[found.lines])
        copied = Predictions(found.scores[rows], found.guessed[rows], found.labels[rows], found.lines[rows])
        for name, value in by_sklearn(copied).items():
            assert values[name][row] == pytest.approx(value, abs=1e-12), name


def test_lines_are_drawn_within_their_class() -> None:
    labels = np.array([0, 1, 0, 1, 1])
    weights = draw_lines(labels, 500, seed=0)
    assert weights[0].tolist() == [1.0] * 5
    assert set(weights[:, labels == 0].sum(axis=1)) == {2.0}
    assert set(weights[:, labels == 1].sum(axis=1)) == {3.0}
    assert weights[1:].mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)
    assert not np.array_equal(weights, draw_lines(labels, 500, seed=1))


def test_an_interval_over_lines_is_wider_than_one_over_sequences() -> None:
    """Half of 40 lines are right in all of their 100 sequences: there are 40 samples, not 4,000."""
    lines = np.repeat(np.arange(40), 100)
    labels = lines % 2
    right = (lines // 2) % 2
    logs = log_probabilities(np.eye(2)[np.where(right, labels, 1 - labels)])
    weights = draw_lines(np.arange(40) % 2, 2000, seed=0)
    found = estimate(resample(per_sequence(logs, labels, lines), weights)["accuracy"])
    assert found.value == 0.5
    assert found.low is not None
    assert found.high is not None
    # The standard error of a share of 40 lines is 0.079.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.079, rel=0.1)
    assert 2 * 1.96 * (0.25 / 4000) ** 0.5 < 0.04


def test_a_line_is_decided_by_its_mean_log_odds_and_by_vote() -> None:
    # One sure sequence outweighs two that are not, and is outvoted. Then a tie, which the mean decides.
    odds = np.array([4.0, -1.0, -1.0, 3.0, -1.0])
    logs = log_probabilities(np.stack([np.zeros(5), odds], axis=1))
    line, vote = per_line(logs, np.array([1, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1]))
    assert line.scores[:, 1] == pytest.approx([2 / 3, 1.0])
    assert line.guessed.tolist() == [1, 1]
    assert vote.scores.tolist() == [[2 / 3, 1 / 3], [0.5, 0.5]]
    assert vote.guessed.tolist() == [0, 1]
    assert line.labels.tolist() == [1, 0]


def test_log_odds_of_sure_predictions_are_finite() -> None:
    odds = log_odds(log_probabilities(np.array([[800.0, 0.0, -800.0]])))
    assert odds == pytest.approx(np.array([[800.0, -800.0, -1600.0]]))


def test_a_metric_without_a_value_has_no_interval() -> None:
    logs, labels, lines = made(2)
    one = labels == 0
    numbers = np.unique(lines[one], return_inverse=True)[1]
    found = per_sequence(logs[one], labels[one], numbers)
    values = resample(found, draw_lines(np.zeros(numbers.max() + 1, int), 10, seed=0))
    assert estimate(values["auroc"]) == Estimate(None, None, None)
    assert estimate(values["mcc"]).value == 0.0


def test_where_every_line_is_right_the_exact_interval_still_has_a_width() -> None:
    low, high = exact_interval(12, 12)
    # A share p is right 12 times of 12 with p^12 = 0.025.
    assert low == pytest.approx(0.025 ** (1 / 12))
    assert high == 1.0
