"""PURE: compares models on the same test rows, with bootstrap confidence intervals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Evaluation, Interval, MetricName, Scores

RESAMPLES = 1000
PRIMARY_DIGITS = 4
"""Decimal places of the primary score, because kubectl prints all digits of a column."""
CONFIDENCE = 0.95
_BLOCK = 2_000_000
"""Maximum number of weights in memory."""

ModelRole = Literal["majority", "baseline", "tuned"]
Array = npt.NDArray[Any]
Weights = npt.NDArray[np.float64]
"""How often each row counts, shape [resamples, rows]."""
Values = npt.NDArray[np.float64]
"""A metric in each resample, shape [resamples]."""
Measure = Callable[[Array, Weights], Mapping[MetricName, Values]]
"""Computes every metric from the predictions of one model, shape [rows, ...], and the weights of the rows."""


def measure_once(measure: Measure, predictions: Array) -> dict[MetricName, float]:
    """Computes every metric, each row counting once.

    Args:
        measure: the metrics of the task.
        predictions: the predictions of one model, shape [rows, ...].
    """
    values = measure(predictions, np.ones((1, len(predictions))))
    return {name: float(value[0]) for name, value in values.items()}


def compare(
    measure: Measure,
    predictions: Mapping[ModelRole, Array],
    *,
    counts: npt.NDArray[np.int64],
    strata: npt.NDArray[np.int64],
    metrics: Sequence[MetricName],
    primary: MetricName,
    seed: int,
) -> Evaluation:
    """Scores all models, with 95 % percentile bootstrap intervals (Efron 1979) and paired differences.

    Each resample draws test rows with replacement within each stratum, and all models share the resample. The
    strata keep the number of test rows of each class: without strata, the interval of macro F1 lies below the
    score where classes have few rows (Davison and Hinkley 1997, section 3.2). An interval always includes its
    score.

    Args:
        measure: the metrics of the task.
        predictions: of each model, shape [rows, ...]: `baseline`, and where they exist `majority`, `tuned`.
        counts: the number of test rows that each row stands for, shape [rows].
        strata: the stratum of each row, shape [rows].
        metrics: the metrics to report; the primary metric is added.
        primary: the metric that decides.
        seed: of the resampling.
    """
    parts: dict[ModelRole, list[Mapping[MetricName, Values]]] = {role: [] for role in predictions}
    for weights in _draw_weights(counts, strata, seed):
        for role, of in predictions.items():
            parts[role].append(measure(of, weights))
    names = tuple(dict.fromkeys((*metrics, primary)))
    values = {
        role: {name: np.concatenate([block[name] for block in blocks]) for name in names}
        for role, blocks in parts.items()
    }
    scores = {role: _build_scores(of, primary) for role, of in values.items()}
    delta = None
    if "tuned" in values:
        gains = {name: values["tuned"][name] - values["baseline"][name] for name in names}
        delta = _build_scores(gains, primary)
    return Evaluation(
        primary_metric=primary,
        rows=int(counts.sum()),
        majority=scores.get("majority"),
        baseline=scores["baseline"],
        tuned=scores.get("tuned"),
        delta=delta,
    )


def _draw_weights(
    counts: npt.NDArray[np.int64], strata: npt.NDArray[np.int64], seed: int
) -> Iterator[Weights]:
    """Yields the weights of the rows in blocks of resamples; the first resample is the original test rows.

    Drawing n rows with replacement equals a multinomial draw over distinct rows.
    """
    yield counts.astype(np.float64)[None]
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    block = max(1, _BLOCK // len(counts))
    for start in range(0, RESAMPLES, block):
        weights = np.empty((min(block, RESAMPLES - start), len(counts)))
        for rows in members:
            of = counts[rows]
            weights[:, rows] = random.multinomial(of.sum(), of / of.sum(), size=len(weights))
        yield weights


def _build_scores(values: Mapping[MetricName, Values], primary: MetricName) -> Scores:
    """Computes scores and intervals from the values of each metric.

    The first value is the score on the test rows; the other values are the scores of the resamples.
    """
    tail = 100 * (1 - CONFIDENCE) / 2
    intervals: dict[MetricName, Interval] = {}
    for name, (score, *resampled) in values.items():
        low, high = np.percentile(resampled, [tail, 100 - tail])
        intervals[name] = Interval(
            value=float(score), low=min(float(low), float(score)), high=max(float(high), float(score))
        )
    return Scores(primary=round(intervals[primary].value, PRIMARY_DIGITS), metrics=intervals)
