"""Metrics of predictions over a whole split, and the reasons of those that are undefined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from hyenadna.common.choices import METRICS
from hyenadna.common.extras import require

NOT_FINITE = "the predictions are not finite"
"""The reason of every metric when the outputs of the model are not finite."""

# DeepSEA's 919 outputs: accessibility, transcription factors, histone marks.
_DEEPSEA = {"auroc_dhs": slice(0, 125), "auroc_tf": slice(125, 815), "auroc_hm": slice(815, 919)}


def measure(task: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every metric of a task.

    Args:
        task: one of ``TASKS``.
        outputs: float ``(n, columns)``: logits of classes, logits of outputs, or values. For tokens n counts bases.
        labels: int ``(n,)`` classes, float ``(n, columns)`` of 0 and 1, or float ``(n, columns)`` values.

    Returns:
        Values by name, None if undefined, and the reason of each undefined one.
    """
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in METRICS[task]:
        if name in _DEEPSEA and outputs.shape[1] != 919:
            continue
        try:
            if not np.isfinite(outputs).all():
                raise _UndefinedError(NOT_FINITE)
            value = _MEASURES[task](name, outputs, labels)
        except _UndefinedError as error:
            values[name], reasons[name] = None, str(error)
            continue
        values[name] = value
        if not math.isfinite(value):
            values[name], reasons[name] = None, NOT_FINITE
    return values, reasons


class _UndefinedError(Exception):
    """A metric has no value on a split. The message is the reason."""


def _classification(name: str, logits: np.ndarray, labels: np.ndarray) -> float:
    metrics = require("sklearn.metrics")
    guessed = logits.argmax(axis=1)
    columns = logits.shape[1]
    if name == "accuracy":
        return float((guessed == labels).mean())
    present = np.unique(labels)
    if len(present) < 2:
        raise _UndefinedError("the split holds only one class")
    if name == "mcc":
        return float(metrics.matthews_corrcoef(labels, guessed))
    if name == "f1_binary":
        if columns != 2:
            raise _UndefinedError(f"it is defined for two classes, and there are {columns}")
        return float(metrics.f1_score(labels, guessed, zero_division=0))
    if len(present) < columns:
        raise _UndefinedError(f"the split holds {len(present)} of {columns} classes")
    if name == "f1_macro":
        return float(metrics.f1_score(labels, guessed, average="macro", labels=range(columns), zero_division=0))
    probabilities = _softmax(logits)
    if columns == 2:
        score = metrics.roc_auc_score if name == "auroc" else metrics.average_precision_score
        return float(score(labels, probabilities[:, 1]))
    if name == "auroc":
        return float(metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    return float(metrics.average_precision_score(np.eye(columns)[labels], probabilities, average="macro"))


def _multilabel(name: str, logits: np.ndarray, labels: np.ndarray) -> float:
    metrics = require("sklearn.metrics")
    if name == "accuracy":
        return float(((logits > 0) == (labels > 0.5)).mean())
    if name in _DEEPSEA:
        return _multilabel("auroc", logits[:, _DEEPSEA[name]], labels[:, _DEEPSEA[name]])
    if name == "f1_macro":
        # Without a positive there is nothing to find, and the F1 of an output would be 0 whatever is predicted.
        with_positives = labels.sum(axis=0) > 0
        if not with_positives.any():
            raise _UndefinedError("no output has a positive in the split")
        wanted, guessed = labels[:, with_positives] > 0.5, logits[:, with_positives] > 0
        return float(
            np.mean([metrics.f1_score(a, b, zero_division=0) for a, b in zip(wanted.T, guessed.T, strict=True)])
        )
    score = metrics.roc_auc_score if name == "auroc" else metrics.average_precision_score
    usable = [i for i in range(labels.shape[1]) if 0 < labels[:, i].sum() < len(labels)]
    if not usable:
        raise _UndefinedError("every output has only one value in the split")
    # The median over the outputs, as DeepSEA reports it. An output with one value in the split has no score.
    return float(np.median([score(labels[:, i], logits[:, i]) for i in usable]))


def _regression(name: str, outputs: np.ndarray, labels: np.ndarray) -> float:
    stats = require("scipy.stats")
    if name == "mse":
        return float(((outputs - labels) ** 2).mean())
    if len(labels) < 2 or any((side == side[0]).all() for side in (*labels.T, *outputs.T)):
        raise _UndefinedError("values or predictions are all the same")
    correlate = stats.pearsonr if name == "pearson" else stats.spearmanr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.mean([correlate(a, b).statistic for a, b in zip(labels.T, outputs.T, strict=True)]))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    return shifted / shifted.sum(axis=1, keepdims=True)


_MEASURES: dict[str, Callable[[str, Any, Any], float]] = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
    "token": _classification,
}
