"""Tasks, metrics, and the comparison of the base model with the tuned model."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    FiniteFloat,
    PositiveInt,
)

from finetune_trainer.contract.base import Model

Task = Literal["TextClassification", "TextGeneration"]


MetricName = Literal[
    "accuracy", "macroF1", "microF1", "weightedF1", "mcc", "loss", "perplexity", "tokenAccuracy"
]


HIGHER_IS_BETTER: dict[MetricName, bool] = {
    "accuracy": True,
    "macroF1": True,
    "microF1": True,
    "weightedF1": True,
    "mcc": True,
    "loss": False,
    "perplexity": False,
    "tokenAccuracy": True,
}
"""Which way each metric is better; those of which more is better are at most 1."""


METRICS: dict[Task, tuple[MetricName, ...]] = {
    "TextClassification": ("accuracy", "macroF1", "microF1", "weightedF1", "mcc"),
    "TextGeneration": ("loss", "perplexity", "tokenAccuracy"),
}
"""The metrics of each task, all of which are reported unless a job asks for fewer."""


PRIMARY_METRIC: dict[Task, MetricName] = {"TextClassification": "macroF1", "TextGeneration": "loss"}
"""The metric that decides where a job does not say."""


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
