"""spec.evaluation: the metrics, and the metric that decides."""

from typing import Annotated

from pydantic import Field
from pydantic.config import JsonDict

from finetune_operator.api.changes import Covered
from finetune_operator.api.fields import rule
from finetune_operator.api.gate import GateSpec, gate_rules
from finetune_trainer.contract import METRICS, PRIMARY_METRIC, MetricName, Model, Task


class EvaluationSpec(Model):
    """Metrics that are measured on the test rows, for the base model and for the tuned model."""

    metrics: Annotated[
        Annotated[
            list[MetricName],
            Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None,
        Covered.BY_THE_RUN,
    ] = None
    """Metrics to report. TextClassification has accuracy, macroF1, microF1, weightedF1 and mcc.
    TextGeneration has loss (mean negative log-likelihood of the trained tokens of all test rows), perplexity
    (exponential of the loss) and tokenAccuracy (share of those tokens that are the likeliest tokens).
    Default: all metrics of the task."""
    primary_metric: Annotated[MetricName | None, Covered.BY_THE_RUN] = None
    """Metric that chooses the best checkpoint, that the gate applies to, and that `kubectl get` shows.
    Default: macroF1 for TextClassification, loss (lower is better) for TextGeneration."""
    gate: GateSpec | None = None
    """Limits that the tuned model must reach on the test rows to be published. Default: the tuned model is
    published in any case."""

    def measured_for(self, task: Task) -> tuple[MetricName, ...]:
        """The metrics to report."""
        return METRICS[task] if self.metrics is None else tuple(self.metrics)

    def deciding_for(self, task: Task) -> MetricName:
        """The metric that decides."""
        return self.primary_metric or PRIMARY_METRIC[task]


def _by_task(values: dict[Task, str]) -> str:
    """CEL: of these expressions the one of the job's task."""
    *others, last = values.items()
    return "".join(f"self.task == '{task}' ? {value} : " for task, value in others) + last[1]


_KNOWN = _by_task({task: str(list(metrics)) for task, metrics in METRICS.items()})
_PRIMARY = _by_task({task: f"'{metric}'" for task, metric in PRIMARY_METRIC.items()})
_DECIDES = f"(has(self.evaluation.primaryMetric) ? self.evaluation.primaryMetric : ({_PRIMARY}))"
_MESSAGE = "; ".join(f"{task} has {', '.join(metrics)}" for task, metrics in METRICS.items())
EVALUATION_RULES: tuple[JsonDict, ...] = (
    rule(
        f"!has(self.evaluation.metrics) || self.evaluation.metrics.all(m, m in ({_KNOWN}))",
        f"evaluation.metrics names a metric of another task: {_MESSAGE}",
        ".evaluation.metrics",
    ),
    rule(
        f"!has(self.evaluation.primaryMetric) || self.evaluation.primaryMetric in ({_KNOWN})",
        f"evaluation.primaryMetric is a metric of another task: {_MESSAGE}",
        ".evaluation.primaryMetric",
    ),
    rule(
        f"!has(self.evaluation.metrics) || {_DECIDES} in self.evaluation.metrics",
        "evaluation.metrics lacks the primaryMetric, which decides (left out it is"
        f" {', '.join(f'{metric} for {task}' for task, metric in PRIMARY_METRIC.items())}): add it, or set"
        " primaryMetric to one of metrics",
        ".evaluation.metrics",
    ),
    *gate_rules(_DECIDES),
)
"""CEL rules between the task, its metrics and the gate."""
