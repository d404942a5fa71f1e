"""The tables of tasks and metrics are complete."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from finetune_trainer.contract import METRIC_TABLE, METRICS, PRIMARY_METRIC, TASKS, MetricName, Task


def test_each_task_has_metrics_and_one_of_them_decides() -> None:
    for task in TASKS:
        primary = [metric.name for metric in METRIC_TABLE if metric.primary and task in metric.tasks]
        assert primary == [PRIMARY_METRIC[task]]
        assert PRIMARY_METRIC[task] in METRICS[task]


def test_each_metric_belongs_to_known_tasks_only() -> None:
    assert {task for metric in METRIC_TABLE for task in metric.tasks} == set(TASKS)


@pytest.mark.parametrize(("kind", "known"), [(Task, "TextClassification"), (MetricName, "macroF1")])
def test_an_unknown_name_is_refused_with_the_known_names(kind: Any, known: str) -> None:
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(known) == known
    with pytest.raises(ValidationError, match=f"must be one of .*{known}"):
        adapter.validate_python("Unknown")
    assert known in adapter.json_schema()["enum"]


def test_the_metrics_module_of_each_task_computes_the_metrics_of_the_table() -> None:
    classification = import_module("finetune_trainer.tasks.text_classification.metrics")
    truth = np.array([0, 1])
    assert set(classification.measure(truth, truth, 2)) == set(METRICS["TextClassification"])
    generation = import_module("finetune_trainer.tasks.text_generation.metrics")
    assert set(generation.measure(np.ones((2, 3)))) == set(METRICS["TextGeneration"])
