"""The comparison of the base model with the tuned model."""

from typing import Annotated

from pydantic import (
    Field,
    FiniteFloat,
    PositiveInt,
)

from finetune_trainer.contract.base import Model
from finetune_trainer.contract.tasks import MetricName


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
