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
    """One class as one model sees it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Test rows of this class."""


def metrics_of(truth: Predicted, classes: int) -> Measure:
    """The metrics as a function of predicted classes, shape [rows], and weights, shape [resamples, rows].

    Args:
        truth: the true class of each row, shape [rows].
        classes: the number of training labels.
    """
    return lambda predicted, weights: _from_counts(*_counts(truth, predicted, weights, classes))


def measure(truth: Predicted, predicted: Predicted, classes: int) -> dict[MetricName, float]:
    """Every metric of one model.

    Args:
        truth: the true class of each row, shape [rows].
        predicted: the predicted class of each row, shape [rows].
        classes: the number of training labels.
    """
    return measure_once(metrics_of(truth, classes), predicted)


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
        metrics_of(distinct[:, 0], classes),
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


def score(metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
    """One metric of one model, from the logits of a split."""
    return measure(true_classes(split), predictions.argmax(axis=1), classes)[metric]


def evaluation(inputs: EvaluationInputs, baseline: Probe, predictions: Predictions) -> Evaluation:
    """Majority class, linear probe and tuned model on the test rows."""
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
    """The true class of each row, shape [rows]."""
    return split.labels.astype(np.int64)


def predicted_classes(baseline: Probe, logits: Predictions) -> dict[ModelRole, Predicted]:
    """The class that each model predicts for each test row, shape [rows]."""
    return {
        "majority": np.full(len(logits), baseline.majority, dtype=np.int64),
        "baseline": np.array(baseline.predictions, dtype=np.int64),
        "tuned": logits.argmax(axis=1),
    }
