"""The table of tasks and the table of metrics.

A new task is one line in TASKS and one package below `finetune_trainer.tasks`. A new metric is one row in
METRIC_TABLE and one function in the `metrics` module of each of its tasks.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

TASKS: dict[str, str] = {
    "TextClassification": "text_classification",
    "TextGeneration": "text_generation",
}
"""The name of each task in the API, and the package of the task below `finetune_trainer.tasks`."""


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics."""

    name: str
    """Name in the API."""
    title: str
    """Name in the report and in the model card."""
    higher_is_better: bool
    """Whether a larger value is better; the maximum of such a metric is 1."""
    tasks: tuple[str, ...]
    """Names of the tasks that have this metric."""
    primary: bool = False
    """Whether this metric is the primary metric of a job that names no primary metric."""


METRIC_TABLE = (
    Metric("accuracy", "accuracy", higher_is_better=True, tasks=("TextClassification",)),
    Metric("macroF1", "macro F1", higher_is_better=True, tasks=("TextClassification",), primary=True),
    Metric("microF1", "micro F1", higher_is_better=True, tasks=("TextClassification",)),
    Metric("weightedF1", "weighted F1", higher_is_better=True, tasks=("TextClassification",)),
    Metric("mcc", "Matthews correlation", higher_is_better=True, tasks=("TextClassification",)),
    Metric("loss", "loss", higher_is_better=False, tasks=("TextGeneration",), primary=True),
    Metric("perplexity", "perplexity", higher_is_better=False, tasks=("TextGeneration",)),
    Metric("tokenAccuracy", "token accuracy", higher_is_better=True, tasks=("TextGeneration",)),
)


def _one_of(known: Collection[str]) -> Any:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return name

    return AfterValidator(check)


def _enum(known: Collection[str]) -> Any:
    return WithJsonSchema({"type": "string", "enum": list(known)})


_METRIC_NAMES = tuple(metric.name for metric in METRIC_TABLE)
Task = Annotated[str, _one_of(TASKS), _enum(TASKS)]
MetricName = Annotated[str, _one_of(_METRIC_NAMES), _enum(_METRIC_NAMES)]
HIGHER_IS_BETTER: dict[MetricName, bool] = {metric.name: metric.higher_is_better for metric in METRIC_TABLE}
"""For each metric, whether a larger value is better."""
METRICS: dict[Task, tuple[MetricName, ...]] = {
    task: tuple(metric.name for metric in METRIC_TABLE if task in metric.tasks) for task in TASKS
}
"""The metrics of each task. A job that names no metrics reports all of them."""
PRIMARY_METRIC: dict[Task, MetricName] = {
    task: metric.name for task in TASKS for metric in METRIC_TABLE if metric.primary and task in metric.tasks
}
"""The primary metric of a job that names no primary metric, for each task."""
TITLES: dict[MetricName, str] = {metric.name: metric.title for metric in METRIC_TABLE}
"""The name of each metric in the report and in the model card."""
