"""Classification metrics with bootstrap intervals. Pure: numpy in, documents out.

All metrics follow scikit-learn with `labels` = all training labels and `zero_division=0`: a class that is
neither true nor predicted counts as F1 = 0 in the macro average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Evaluation, MetricName
from finetune_trainer.tasks.bootstrap import RESAMPLES, ModelRole, compared

Predicted = npt.NDArray[np.int64]
"""A class for each row, shape [rows]."""
Figures = npt.NDArray[np.float64]
_BLOCK = 2_000_000
"""Draws held in memory at once."""


@dataclass(frozen=True)
class ClassFigures:
    """One class as one model sees it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Test rows of this class."""


def measure(truth: Predicted, predicted: Predicted, classes: int) -> dict[MetricName, float]:
    """Every metric of one model.

    Args:
        truth: true class of each row, shape [rows].
        predicted: predicted class of each row, shape [rows].
        classes: number of training labels.
    """
    hits, given, true = _counts(truth, predicted, np.ones(len(truth)), classes)
    return {name: float(value) for name, value in _from_counts(hits, given, true).items()}


def compare(
    truth: Predicted,
    predictions: Mapping[ModelRole, Predicted],
    *,
    classes: int,
    metrics: Sequence[MetricName],
    primary: MetricName,
    seed: int,
) -> Evaluation:
    """All models on the same rows, with 95 % percentile bootstrap intervals (Efron 1979).

    Every resample draws rows with replacement and is shared by all models: `delta` is a paired bootstrap.

    Args:
        truth: true class of each row, shape [rows].
        predictions: predicted classes, shape [rows], for `majority`, `baseline` and, once it exists, `tuned`.
        classes: number of training labels.
        metrics: what to report; the primary metric is added where it is missing.
        primary: the metric that decides.
        seed: of the resampling.
    """
    points = {model: measure(truth, predicted, classes) for model, predicted in predictions.items()}
    resampled = _bootstrap(truth, predictions, classes, seed)
    return compared(points, resampled, rows=len(truth), metrics=metrics, primary=primary)


def confusion(truth: Predicted, predicted: Predicted, classes: int) -> npt.NDArray[np.int64]:
    """Confusion matrix, shape [classes, classes]: row = true class, column = predicted class."""
    cells = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def by_class(truth: Predicted, predicted: Predicted, labels: Sequence[str]) -> list[ClassFigures]:
    """Precision, recall, F1 and support of every class, in the order of `labels`."""
    hits, given, true = _counts(truth, predicted, np.ones(len(truth)), len(labels))
    precision, recall, f1 = _ratio(hits, given), _ratio(hits, true), _ratio(2 * hits, given + true)
    return [
        ClassFigures(label, float(precision[k]), float(recall[k]), float(f1[k]), int(true[k]))
        for k, label in enumerate(labels)
    ]


def flips(truth: Predicted, before: Predicted, after: Predicted) -> dict[str, int]:
    """Rows that the tuned model sets right (`fixed`) and rows that it spoils (`broken`)."""
    right_before, right_after = before == truth, after == truth
    return {
        "fixed": int(np.sum(~right_before & right_after)),
        "broken": int(np.sum(right_before & ~right_after)),
    }


def _bootstrap(
    truth: Predicted, predictions: Mapping[ModelRole, Predicted], classes: int, seed: int
) -> dict[ModelRole, dict[MetricName, Figures]]:
    """Metrics of every model in every resample, each of shape [RESAMPLES].

    Drawing n rows with replacement is a multinomial draw over the distinct combinations (true class, answer
    of each model): the same distribution, far fewer numbers than RESAMPLES x rows.
    """
    combinations, occurrences = np.unique(
        np.stack([truth, *predictions.values()], axis=1), axis=0, return_counts=True
    )
    rows = len(truth)
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(combinations))
    parts: dict[ModelRole, list[dict[MetricName, Figures]]] = {model: [] for model in predictions}
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        drawn = random.multinomial(rows, occurrences / rows, size=size).astype(np.float64)
        for column, model in enumerate(predictions, start=1):
            counts = _counts(combinations[:, 0], combinations[:, column], drawn, classes)
            parts[model].append(_from_counts(*counts))
    return {
        model: {name: np.concatenate([part[name] for part in blocks]) for name in blocks[0]}
        for model, blocks in parts.items()
    }


def _counts(
    truth: Predicted, predicted: Predicted, weights: Figures, classes: int
) -> tuple[Figures, Figures, Figures]:
    """Rows hit, predicted and true per class, each [..., classes], for weights of shape [..., rows]."""
    every = np.arange(classes)
    is_true = (truth[:, None] == every).astype(np.float64)
    is_given = (predicted[:, None] == every).astype(np.float64)
    return weights @ (is_true * is_given), weights @ is_given, weights @ is_true


def _from_counts(hits: Figures, given: Figures, true: Figures) -> dict[MetricName, Any]:
    """All metrics, shape [...], from counts per class, shape [..., classes].

    MCC is Gorodkin's R_K (2004), which scikit-learn computes too; 0 where it is undefined.
    """
    rows, right = true.sum(-1), hits.sum(-1)
    f1 = _ratio(2 * hits, given + true)
    accuracy = _ratio(right, rows)
    covariance = right * rows - (given * true).sum(-1)
    spread = np.sqrt((rows**2 - (given**2).sum(-1)) * (rows**2 - (true**2).sum(-1)))
    return {
        "accuracy": accuracy,
        "macroF1": f1.mean(-1),
        # Every row has one label and one answer: micro-averaged precision, recall and F1 are the accuracy.
        "microF1": accuracy,
        "weightedF1": _ratio((f1 * true).sum(-1), rows),
        "mcc": _ratio(covariance, spread),
    }


def _ratio(above: Figures, below: Figures) -> Figures:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) > 0)
