"""The run and the config of a FineTuneJob."""

from typing import Any

import pytest

from finetune_operator.planning.stages import STAGES
from finetune_operator.rendering import trainer_config
from finetune_trainer.contract import HIGHER_IS_BETTER, METRICS, PRIMARY_METRIC, TASKS, Stage, Task
from tests.operator import scenes

EVERY = ["accuracy", "macroF1", "microF1", "weightedF1", "mcc"]


def run(spec: dict[str, Any]) -> Any:
    return scenes.asked_of(scenes.job_of({"spec": spec}), scenes.settings()).run


@pytest.mark.parametrize("task", TASKS)
def test_metrics_default_to_the_metrics_of_the_task(task: Task) -> None:
    measured = run({"task": task}).evaluation
    assert measured.metrics == METRICS[task]
    assert measured.primary_metric == PRIMARY_METRIC[task]


def test_every_metric_belongs_to_one_task_and_the_primary_metric_is_among_them() -> None:
    named = [metric for metrics in METRICS.values() for metric in metrics]
    assert sorted(named) == sorted(HIGHER_IS_BETTER)
    assert all(PRIMARY_METRIC[task] in METRICS[task] for task in METRICS)


def test_metrics_of_the_spec_override_the_defaults() -> None:
    asked = {"metrics": ["perplexity", "loss"], "primaryMetric": "perplexity"}
    measured = run({"task": "TextGeneration", "evaluation": asked}).evaluation
    assert (measured.metrics, measured.primary_metric) == (("perplexity", "loss"), "perplexity")


DEFAULTS: list[dict[str, Any]] = [
    {"evaluation": {"metrics": EVERY, "primaryMetric": "macroF1"}},
    {"dataset": {"columns": {"text": "text", "label": "label", "messages": "messages"}}},
    {"dataset": {"columns": {}}},
    {"training": {"trainOn": "Completion"}},
    {"training": {"headInit": "Auto", "classWeights": "None"}},
    {"output": {"mergeAdapter": False}},
    {"output": {"mergeAdapter": False}, "method": {"type": "LoRA", "lora": {"rank": 16}}},
    {"output": {"servedBaseName": "minilm"}, "method": {"type": "LoRA"}},
]
OTHERS: list[dict[str, Any]] = [
    {"evaluation": {"primaryMetric": "mcc"}},
    {"evaluation": {"gate": {"minimum": 0.5}}},
    {"dataset": {"columns": {"text": "body"}}},
    {"training": {"trainOn": "All"}},
    {"training": {"headInit": "Random"}},
    {"training": {"classWeights": "Balanced"}},
    {"method": {"type": "LoRA"}, "output": {"mergeAdapter": True}},
    {"method": {"type": "LoRA"}, "output": {"servedBaseName": "org/minilm"}},
    {"resources": {"memory": "8Gi"}},
    {"storage": {"secretRef": {"name": "other"}}},
]


def digest(spec: dict[str, Any]) -> str:
    job = scenes.job_of({"spec": spec})
    return trainer_config.spec_digest(job, scenes.asked_of(job, scenes.settings()).run)


@pytest.mark.parametrize("written", DEFAULTS, ids=str)
def test_a_default_in_the_spec_does_not_change_the_digest(written: dict[str, Any]) -> None:
    """The API server of an earlier release stored some defaults in the job."""
    method = {key: {"type": value["type"]} for key, value in written.items() if key == "method"}
    assert digest(written) == digest(method)


@pytest.mark.parametrize("changed", OTHERS, ids=str)
def test_another_value_changes_the_digest(changed: dict[str, Any]) -> None:
    method = {key: value for key, value in changed.items() if key == "method"}
    assert digest(changed) != digest(method)


def test_fields_that_may_always_be_changed_do_not_affect_the_digest() -> None:
    assert digest({"suspend": True, "ttl": {"podsAfterFinished": "1h", "afterFinished": "2h"}}) == digest({})
    assert digest({"checkpoints": {"everyMinutes": 5, "keep": 3}}) == digest({})
    assert digest({"failurePolicy": {"maxRestarts": 0}}) == digest({})
    assert digest({"failurePolicy": {"inPlaceRestarts": 0}}) == digest({})
    assert digest({"finishTraining": True}) == digest({})


def test_the_digest_of_a_job_without_checkpoints_in_its_spec_is_that_of_the_release_before() -> None:
    """Another digest would start Prepare and Train of each existing job anew."""
    assert digest({}) == "sha256:ae90f00d25c39f0b774a93597262b259bb8c49d235f7ecc5436edcbd892d4e2d"


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
    assert STAGES[Stage.TRAIN].summarize(job.status) == ("loss 1.5000 on 1,200 test rows; base model 2.5000.")
