"""Metrics of text generation. Pure.

Tokens count alike, whatever row they are in: every metric is a sum over all rows divided by a sum.
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
"""Of each row, shape [rows, 3]: negative log-likelihood (natural), trained tokens, tokens that are the
likeliest."""
NLL, TOKENS, HITS = range(3)
_LARGEST = 700.0
"""exp of more is no float64; a loss of 12 is already that of a model that knows nothing of 150,000 tokens."""


def measure_rows(sums: Sums, weights: Weights) -> dict[MetricName, Any]:
    """Every metric in each resample, shape [resamples]."""
    return _from_totals(weights @ sums)


def measure(sums: Sums) -> dict[MetricName, float]:
    """Every metric of one model."""
    return measure_once(measure_rows, sums)


def compare(
    sums: Mapping[ModelRole, Sums], *, metrics: Sequence[MetricName], primary: MetricName, seed: int
) -> Evaluation:
    """Scores all models on the same rows, see `bootstrap.compare`; all rows are one stratum.

    Args:
        sums: of `baseline` and `tuned`.
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


def _from_totals(totals: npt.NDArray[np.float64]) -> dict[MetricName, Any]:
    """All metrics, shape [...], from sums over rows, shape [..., 3]."""
    loss = totals[..., NLL] / totals[..., TOKENS]
    return {
        "loss": loss,
        "perplexity": np.exp(np.minimum(loss, _LARGEST)),
        "tokenAccuracy": totals[..., HITS] / totals[..., TOKENS],
    }


def score(metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
    """One metric of one model, from the sums of a split."""
    return measure(predictions.astype(np.float64))[metric]


def evaluation(inputs: EvaluationInputs, baseline: BaseModel, predictions: Predictions) -> Evaluation:
    """Base model and tuned model on the test rows."""
    spec = inputs.evaluation
    sums: dict[ModelRole, Sums] = {"baseline": sums_of(baseline), "tuned": predictions.astype(np.float64)}
    return compare(sums, metrics=spec.metrics, primary=spec.primary_metric, seed=inputs.seed)


def sums_of(baseline: BaseModel) -> Sums:
    """The sums of the base model."""
    return np.array(baseline.sums, dtype=np.float64)
