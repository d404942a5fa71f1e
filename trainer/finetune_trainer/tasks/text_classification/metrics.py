"""PURE: classification metrics with bootstrap intervals.

All metrics equal the metrics of scikit-learn with all training labels as `labels` and `zero_division=0`. A
class that is neither true nor predicted has F1 = 0 in the macro average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Evaluation, MetricName
from finetune_trainer.data.shards import Split
from finetune_trainer.tasks import bootstrap
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.bootstrap import Measure, ModelRole, measure_once
from finetune_trainer.tasks.text_classification.baseline import Probe

Predicted = npt.NDArray[np.int64]
"""A class for each row, shape [rows]."""
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassFigures:
    """The scores of a model for one class."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Number of test rows of this class."""


def build_measure(truth: Predicted, classes: int) -> Measure:
    """Returns a function of predicted classes, shape [rows], and weights, shape [resamples, rows].

    Args:
        truth: the true class of each row, shape [rows].
        classes: the number of training labels.
    """
    return lambda predicted, weights: _compute_metrics(*_count_classes(truth, predicted, weights, classes))


def measure(truth: Predicted, predicted: Predicted, classes: int) -> dict[MetricName, float]:
    """Computes every metric of one model.

    Args:
        truth: the true class of each row, shape [rows].
        predicted: the predicted class of each row, shape [rows].
        classes: the number of training labels.
    """
    return measure_once(build_measure(truth, classes), predicted)


def compare(
    truth: Predicted,
    predictions: Mapping[ModelRole, Predicted],
    *,
    classes: int,
    metrics: Sequence[MetricName],
    primary: MetricName,
    seed: int,
) -> Evaluation:
    """Scores all models on the same rows, see `bootstrap.compare`; the strata are the true classes.

    Rows with the same true class and the same predictions of all models become one row that counts several
    times: the distribution of the resamples is the same, with far fewer numbers.

    Args:
        truth: the true class of each row, shape [rows].
        predictions: the predicted classes, shape [rows], for `majority`, `baseline` and `tuned`.
        classes: the number of training labels.
        metrics: the metrics to report; the primary metric is added.
        primary: the metric that decides.
        seed: of the resampling.
    """
    distinct, counts = np.unique(np.stack([truth, *predictions.values()], axis=1), axis=0, return_counts=True)
    return bootstrap.compare(
        build_measure(distinct[:, 0], classes),
        {role: distinct[:, column] for column, role in enumerate(predictions, start=1)},
        counts=counts.astype(np.int64),
        strata=distinct[:, 0],
        metrics=metrics,
        primary=primary,
        seed=seed,
    )


def confusion(truth: Predicted, predicted: Predicted, classes: int) -> npt.NDArray[np.int64]:
    """Confusion matrix, shape [classes, classes]: row = true class, column = predicted class."""
    cells = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def score_classes(truth: Predicted, predicted: Predicted, labels: Sequence[str]) -> list[ClassFigures]:
    """Precision, recall, F1 and support of every class, in the order of `labels`."""
    hits, given, true = _count_classes(truth, predicted, np.ones(len(truth)), len(labels))
    precision, recall, f1 = _divide(hits, given), _divide(hits, true), _divide(2 * hits, given + true)
    return [
        ClassFigures(label, float(precision[k]), float(recall[k]), float(f1[k]), int(true[k]))
        for k, label in enumerate(labels)
    ]


def count_flips(truth: Predicted, before: Predicted, after: Predicted) -> dict[str, int]:
    """Counts rows that only the second model predicts correctly (`fixed`), or only the first (`broken`)."""
    right_before, right_after = before == truth, after == truth
    return {
        "fixed": int(np.sum(~right_before & right_after)),
        "broken": int(np.sum(right_before & ~right_after)),
    }


def _count_classes(
    truth: Predicted, predicted: Predicted, weights: Figures, classes: int
) -> tuple[Figures, Figures, Figures]:
    """Counts correct, predicted and true rows of each class, each of shape [..., classes].

    Args:
        truth: the true class of each row, shape [rows].
        predicted: the predicted class of each row, shape [rows].
        weights: shape [..., rows].
        classes: number of classes.
    """
    every = np.arange(classes)
    is_true = (truth[:, None] == every).astype(np.float64)
    is_given = (predicted[:, None] == every).astype(np.float64)
    return weights @ (is_true * is_given), weights @ is_given, weights @ is_true


def _compute_metrics(hits: Figures, given: Figures, true: Figures) -> dict[MetricName, Any]:
    """Computes all metrics, shape [...], from counts per class, shape [..., classes].

    MCC is R_K (Gorodkin 2004), as in scikit-learn; 0 if MCC is undefined.
    """
    rows, right = true.sum(-1), hits.sum(-1)
    f1 = _divide(2 * hits, given + true)
    accuracy = _divide(right, rows)
    covariance = right * rows - (given * true).sum(-1)
    spread = np.sqrt((rows**2 - (given**2).sum(-1)) * (rows**2 - (true**2).sum(-1)))
    return {
        "accuracy": accuracy,
        "macroF1": f1.mean(-1),
        # With one label for each row, micro-averaged precision, recall and F1 equal the accuracy.
        "microF1": accuracy,
        "weightedF1": _divide((f1 * true).sum(-1), rows),
        "mcc": _divide(covariance, spread),
    }


def _divide(above: Figures, below: Figures) -> Figures:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) > 0)


def score(metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
    """Computes one metric of one model from the logits of a split."""
    return measure(true_classes(split), predictions.argmax(axis=1), classes)[metric]


def comparable(predictions: Predictions) -> Predictions:
    """Returns the logits of each row, shape [rows, classes]."""
    return predictions


def evaluation(inputs: EvaluationInputs, baseline: Probe, predictions: Predictions) -> Evaluation:
    """Compares majority class, linear probe and tuned model on the test rows."""
    spec = inputs.evaluation
    return compare(
        true_classes(inputs.prepared.test),
        predicted_classes(baseline, predictions),
        classes=len(inputs.prepared.labels),
        metrics=spec.metrics,
        primary=spec.primary_metric,
        seed=inputs.seed,
    )


def true_classes(split: Split) -> Predicted:
    """Returns the true class of each row, shape [rows]."""
    return split.labels.astype(np.int64)


def predicted_classes(baseline: Probe, logits: Predictions) -> dict[ModelRole, Predicted]:
    """Returns the predicted class of each test row for each model, each of shape [rows]."""
    return {
        "majority": np.full(len(logits), baseline.majority, dtype=np.int64),
        "baseline": np.array(baseline.predictions, dtype=np.int64),
        "tuned": logits.argmax(axis=1),
    }
