"""The comparison of the base model with the tuned model."""

from typing import Annotated

from pydantic import (
    Field,
    FiniteFloat,
    PositiveInt,
)

from finetune_trainer.contract.base import Model
from finetune_trainer.contract.tasks import HIGHER_IS_BETTER, MetricName


class Interval(Model):
    """The value of a metric, with a 95 % bootstrap interval over the test rows."""

    value: FiniteFloat
    """Value of the metric on the test rows."""
    low: FiniteFloat
    """Lower bound of the interval."""
    high: FiniteFloat
    """Upper bound of the interval."""


class Scores(Model):
    """The scores of one model on the test rows."""

    primary: FiniteFloat
    """Value of the primary metric, rounded to four decimals, for the printer columns of kubectl."""
    metrics: Annotated[dict[MetricName, Interval], Field(max_length=16)]
    """All requested metrics by name."""


class Evaluation(Model):
    """The scores of the base model and of the tuned model on the same test rows."""

    primary_metric: MetricName
    """The metric that selects the best checkpoint and that the gate is compared with."""
    rows: PositiveInt
    """Number of test rows; all models are measured on the same test rows."""
    majority: Scores | None = None
    """TextClassification: a model that always answers with the most frequent class of the training rows."""
    baseline: Scores
    """The base model: unchanged for TextGeneration; for TextClassification, a linear probe (logistic
    regression) on its frozen features."""
    tuned: Scores | None = None
    """The best checkpoint of this run."""
    delta: Scores | None = None
    """Tuned minus baseline, also for metrics whose lower values are better. The intervals come from a paired
    bootstrap over the test rows."""


def baseline_name(evaluation: Evaluation) -> str:
    """Name of the baseline, for people."""
    return "linear probe" if evaluation.majority is not None else "base model"


def comparison(difference: Interval, *, higher_is_better: bool) -> str:
    """Compares the tuned model with the baseline.

    Args:
        difference: tuned minus baseline.
        higher_is_better: direction of the metric.

    Returns:
        `better than`, `worse than`, or `equal to`; with `not distinguishably` in front where the interval
        includes zero.
    """
    if difference.value == difference.low == difference.high == 0:
        return "equal to"
    direction = "better than" if (difference.value > 0) is higher_is_better else "worse than"
    if difference.low > 0 or difference.high < 0:
        return direction
    return f"not distinguishably {direction}"


def describe(evaluation: Evaluation) -> str:
    """Describes the result of an evaluation in a sentence."""
    name, baseline = evaluation.primary_metric, baseline_name(evaluation)
    tuned, before = evaluation.tuned, evaluation.baseline.primary
    if tuned is None:
        return f"{name} of the {baseline} {before:.4f}; no model was tuned."
    rows = "test row" if evaluation.rows == 1 else "test rows"
    measured = f"{name} {tuned.primary:.4f} on {evaluation.rows:,} {rows}"
    difference = evaluation.delta.metrics.get(name) if evaluation.delta else None
    if difference is None:
        return f"{measured}; {baseline} {before:.4f}."
    compared = comparison(difference, higher_is_better=HIGHER_IS_BETTER[name])
    majority = evaluation.majority
    return (
        f"{measured}: {compared} the {baseline}'s {before:.4f} by {abs(difference.value):.4f} "
        f"(95 % interval of the difference {difference.low:+.4f} to {difference.high:+.4f})"
        + (f"; the majority class reaches {majority.primary:.4f}." if majority else ".")
    )
