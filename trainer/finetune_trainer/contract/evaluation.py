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
    """A measured value with its 95 % bootstrap interval over the test rows."""

    value: FiniteFloat
    """What was measured."""
    low: FiniteFloat
    """Lower end of the interval."""
    high: FiniteFloat
    """Upper end of the interval."""


class Scores(Model):
    """What one model scores on the test rows."""

    primary: FiniteFloat
    """Value of the primary metric, rounded to four decimals, where a printer column can reach it."""
    metrics: Annotated[dict[MetricName, Interval], Field(max_length=16)]
    """Every requested metric by name."""


class Evaluation(Model):
    """Base model and tuned model on the same held-out rows."""

    primary_metric: MetricName
    """The metric that decides."""
    rows: PositiveInt
    """Test rows that all models were measured on."""
    majority: Scores | None = None
    """TextClassification: always answering with the most frequent class of the training rows."""
    baseline: Scores
    """The base model: as it is (TextGeneration), or a linear probe (logistic regression) on its frozen
    features (TextClassification)."""
    tuned: Scores | None = None
    """The best checkpoint of this run."""
    delta: Scores | None = None
    """Tuned minus baseline, whichever way the metric is better; intervals from a paired bootstrap over the
    test rows."""
