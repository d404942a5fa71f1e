"""All models of a task on the same test rows, as documents with bootstrap intervals. Pure."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Evaluation, Interval, MetricName, Scores

RESAMPLES = 1000
PRIMARY_DIGITS = 4
"""kubectl prints a column's number with all its digits."""
CONFIDENCE = 0.95
ModelRole = Literal["majority", "baseline", "tuned"]
Points = Mapping[MetricName, float]
"""What one model scores."""
Resampled = Mapping[MetricName, npt.NDArray[np.float64]]
"""What it scores in every resample of the test rows, each of shape [RESAMPLES]."""


def compared(
    points: Mapping[ModelRole, Points],
    resampled: Mapping[ModelRole, Resampled],
    *,
    rows: int,
    metrics: Sequence[MetricName],
    primary: MetricName,
) -> Evaluation:
    """Every model's scores with 95 % percentile bootstrap intervals (Efron 1979), and the paired difference.

    Args:
        points: of `baseline` and, where there are such models, `majority` and `tuned`.
        resampled: of the same; every resample drew the same rows for all of them.
        rows: test rows.
        metrics: what to report; the primary metric is added where it is missing.
        primary: the metric that decides.
    """
    names = tuple(dict.fromkeys((*metrics, primary)))
    scores = {model: _scores(points[model], resampled[model], names, primary) for model in points}
    delta = None
    if "tuned" in points:
        gain = {name: points["tuned"][name] - points["baseline"][name] for name in names}
        gains = {name: resampled["tuned"][name] - resampled["baseline"][name] for name in names}
        delta = _scores(gain, gains, names, primary)
    return Evaluation(
        primary_metric=primary,
        rows=rows,
        majority=scores.get("majority"),
        baseline=scores["baseline"],
        tuned=scores.get("tuned"),
        delta=delta,
    )


def _scores(points: Points, resampled: Resampled, names: Sequence[MetricName], primary: MetricName) -> Scores:
    tail = 100 * (1 - CONFIDENCE) / 2
    intervals: dict[MetricName, Interval] = {}
    for name in names:
        low, high = np.percentile(resampled[name], [tail, 100 - tail])
        intervals[name] = Interval(value=points[name], low=float(low), high=float(high))
    return Scores(primary=round(points[primary], PRIMARY_DIGITS), metrics=intervals)
