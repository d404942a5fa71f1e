"""A FineTuneJob as the trainer's input."""

from typing import Any, get_args

import pytest

from finetune_operator.planning.results import told
from finetune_operator.rendering import trainer_config
from finetune_trainer.contract import METRICS, PRIMARY_METRIC, MetricName, Stage, Task
from tests.operator import scenes

EVERY = ["accuracy", "macroF1", "microF1", "weightedF1", "mcc"]


def run(spec: dict[str, Any]) -> Any:
    return scenes.asked_of(scenes.job_of({"spec": spec}), scenes.settings()).run


@pytest.mark.parametrize("task", get_args(Task))
def test_metrics_default_to_those_of_the_task(task: Task) -> None:
    measured = run({"task": task}).evaluation
    assert measured.metrics == METRICS[task]
    assert measured.primary_metric == PRIMARY_METRIC[task]


def test_every_metric_is_of_one_task_and_what_decides_is_among_them() -> None:
    named = [metric for metrics in METRICS.values() for metric in metrics]
    assert sorted(named) == sorted(get_args(MetricName))
    assert all(PRIMARY_METRIC[task] in METRICS[task] for task in METRICS)


def test_metrics_that_are_asked_for_count() -> None:
    asked = {"metrics": ["perplexity", "loss"], "primaryMetric": "perplexity"}
    measured = run({"task": "TextGeneration", "evaluation": asked}).evaluation
    assert (measured.metrics, measured.primary_metric) == (("perplexity", "loss"), "perplexity")


def test_a_release_that_wrote_the_defaults_out_asked_for_the_same() -> None:
    """The API server of an earlier release stored them in the job."""
    left_out = scenes.job_of()
    written = scenes.job_of({"spec": {"evaluation": {"metrics": EVERY, "primaryMetric": "macroF1"}}})
    digests = {
        trainer_config.spec_digest(job, scenes.asked_of(job, scenes.settings()).run)
        for job in (left_out, written)
    }
    assert len(digests) == 1


def test_the_result_of_a_generator_names_no_majority_class() -> None:
    scores = {"primary": 1.5, "metrics": {}}
    evaluation = {
        "primaryMetric": "loss",
        "rows": 1200,
        "baseline": {**scores, "primary": 2.5},
        "tuned": scores,
    }
    job = scenes.job_of({"status": {"evaluation": evaluation}})
    assert job.status
    assert told(job.status, Stage.TRAIN) == "loss 1.500 on 1,200 test rows; base model 2.500."
