"""PURE: metrics of text generation.

All tokens have equal weight: every metric is a ratio of two sums over all rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Evaluation, MetricName
from finetune_trainer.data.shards import Split
from finetune_trainer.tasks import bootstrap
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.bootstrap import ModelRole, Weights, measure_once
from finetune_trainer.tasks.text_generation.baseline import BaseModel

Sums = npt.NDArray[np.float64]
"""Sums of each row, shape [rows, 3]: negative log-likelihood (natural logarithm), number of tokens with loss,
number of tokens that have the highest probability."""
NLL, TOKENS, HITS = range(3)
_LARGEST = 700.0
"""The exponential of a larger loss overflows float64."""


def measure_rows(sums: Sums, weights: Weights) -> dict[MetricName, Any]:
    """Computes every metric in each resample, each of shape [resamples].

    Args:
        sums: sums of each row, shape [rows, 3].
        weights: weights of the rows, shape [resamples, rows].
    """
    return _compute_metrics(weights @ sums)


def comparable(predictions: Sums) -> Sums:
    """Computes the mean loss of each row from its sums, shape [rows, 1]."""
    means: Sums = predictions[:, [NLL]] / np.maximum(predictions[:, [TOKENS]], 1)
    return means


def measure(sums: Sums) -> dict[MetricName, float]:
    """Computes every metric of one model from the sums of each row, shape [rows, 3]."""
    return measure_once(measure_rows, sums)


def compare(
    sums: Mapping[ModelRole, Sums], *, metrics: Sequence[MetricName], primary: MetricName, seed: int
) -> Evaluation:
    """Scores all models on the same rows, see `bootstrap.compare`; all rows are one stratum.

    Args:
        sums: sums of `baseline` and `tuned`, each of shape [rows, 3].
        metrics: the metrics to report; the primary metric is added.
        primary: the metric that decides.
        seed: of the resampling.
    """
    rows = len(sums["baseline"])
    return bootstrap.compare(
        measure_rows,
        sums,
        counts=np.ones(rows, dtype=np.int64),
        strata=np.zeros(rows, dtype=np.int64),
        metrics=metrics,
        primary=primary,
        seed=seed,
    )


def _compute_metrics(totals: npt.NDArray[np.float64]) -> dict[MetricName, Any]:
    """Computes all metrics, shape [...], from sums over rows, shape [..., 3]."""
    loss = totals[..., NLL] / totals[..., TOKENS]
    return {
        "loss": loss,
        "perplexity": np.exp(np.minimum(loss, _LARGEST)),
        "tokenAccuracy": totals[..., HITS] / totals[..., TOKENS],
    }


def score(metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
    """Computes one metric of one model from the sums of a split."""
    return measure(predictions.astype(np.float64))[metric]


def evaluation(inputs: EvaluationInputs, baseline: BaseModel, predictions: Predictions) -> Evaluation:
    """Compares base model and tuned model on the test rows."""
    spec = inputs.evaluation
    sums: dict[ModelRole, Sums] = {"baseline": sums_of(baseline), "tuned": predictions.astype(np.float64)}
    return compare(sums, metrics=spec.metrics, primary=spec.primary_metric, seed=inputs.seed)


def sums_of(baseline: BaseModel) -> Sums:
    """Returns the sums of the base model, shape [rows, 3]."""
    return np.array(baseline.sums, dtype=np.float64)
