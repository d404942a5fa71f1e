"""The messages of the conditions of a job, at each point of its life."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api import ConditionStatus
from finetune_operator.names import Condition
from finetune_operator.planning.plan import plan
from finetune_trainer.contract import Progress, Stage
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING: dict[str, Any] = {
    "jobs": [{"stage": "Train", "pods": [{"is": "Running"}, {"index": 1, "is": "Running"}]}]
}
STOPPING: dict[str, Any] = {"jobs": [{"stage": "Train", "gone": True, "pods": [{"is": "Running"}]}]}


def conditions(job: dict[str, Any], observed: dict[str, Any]) -> dict[str, ConditionStatus]:
    made, configured = scenes.job_of(job), scenes.settings()
    shown = plan(made, scenes.observed_of(made, observed, configured), configured, scenes.NOW).status
    return {c.type: c for c in shown.conditions}


def training(**spec: Any) -> dict[str, Any]:
    status = {"reached": "Prepare", "attempts": [PREPARED, {"stage": "Train"}]}
    return {"spec": spec, "status": status}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Condition.PREPARED, "True: 3,200 training rows, 400 validation rows"),
        (Condition.RUNNING, "True: All pods of Train attempt 1 run."),
        (Condition.EVALUATED, "Unknown: Train has not ended."),
        (Condition.PUBLISHED, "Unknown: Publish has not begun."),
        (Condition.SUSPENDED, "False: The job is not suspended."),
        (Condition.FINISHED, "False: The job has not ended."),
        (Condition.SUCCEEDED, "Unknown: The job has not ended."),
    ],
)
def test_each_condition_has_a_sentence_while_all_pods_run(kind: Condition, says: str) -> None:
    shown = conditions(training(), RUNNING)[kind]

    assert f"{shown.status}: {shown.message}".startswith(says)


def test_a_suspended_job_reports_stopping_pods_and_then_how_to_resume() -> None:
    stopping = conditions(training(suspend=True), STOPPING)
    suspended = conditions(training(suspend=True), {})

    assert stopping["Suspended"].message == "Suspending: 1 pod is still stopping."
    assert suspended["Suspended"].message == suspended["Running"].message
    assert suspended["Suspended"].message == "Suspended by spec.suspend; set it to false to go on with Train."
    assert suspended["Finished"].message == "The job has not ended."


def test_each_condition_of_a_finished_job_describes_the_end() -> None:
    failed = conditions({"spec": {"resources": {"profile": "none"}}}, {})
    published = {"stage": "Publish", "outcome": "Succeeded"}
    attempts = [PREPARED, {"stage": "Train", "outcome": "Succeeded"}, published]
    succeeded = conditions({"status": {"reached": "Publish", "attempts": attempts}}, {})

    assert failed["Finished"].message == failed["Running"].message == "The job has failed."
    assert "'none'" in failed["Succeeded"].message
    assert failed["Prepared"].message == "Prepare has not succeeded; see the condition Succeeded."
    assert failed["Published"].message == "Publish has not begun."
    assert succeeded["Finished"].message == succeeded["Running"].message == "The job has succeeded."
    assert "is published at" in succeeded["Succeeded"].message


def failed_train(message: str, **cause: Any) -> dict[str, Any]:
    attempt = {"stage": "Train", "outcome": "Failed", "reason": "SomeReason", "message": message, **cause}
    return {"status": {"reached": "Prepare", "attempts": [PREPARED, attempt]}}


def test_one_condition_holds_the_cause_of_a_failure_and_the_others_refer_to_it() -> None:
    failed = conditions(failed_train("Row 7 is bad.", **{"class": "UserData"}), {})

    assert [kind for kind, c in failed.items() if "Row 7" in c.message] == ["Succeeded"]
    assert failed["Evaluated"].message == "Train attempt 1 failed; see the condition Succeeded."
    assert failed["Evaluated"].reason == failed["Succeeded"].reason == "SomeReason"


def test_a_job_that_tries_again_says_which_attempt_failed() -> None:
    job = failed_train("Gone.", **{"class": "Hang", "endTime": scenes.NOW.isoformat()})
    retrying = conditions(job, {})

    assert retrying["Running"].reason == "Retrying"
    assert retrying["Running"].message == (
        "Train attempt 1 failed and is tried again shortly; status.attempts says why."
    )


def test_the_condition_gate_passed_holds_the_cause_of_a_failed_gate() -> None:
    attempts = [PREPARED, {"stage": "Train", "outcome": "Succeeded"}]
    spec = {"evaluation": {"gate": {"minimum": 0.99}}}
    held = conditions({"spec": spec, "status": {"reached": "Train", "attempts": attempts}}, {})

    assert held["Published"].message == "The gate is not passed; see the condition GatePassed."
    assert "gate.minimum 0.99" in held["GatePassed"].message


def test_drift_is_reported_while_the_pods_run() -> None:
    drifted = {"jobs": [RUNNING["jobs"][0] | {"spec": {"activeDeadlineSeconds": 60}}]}
    shown = conditions(training(), drifted)["Running"]

    assert (shown.status, shown.reason) == ("True", "Drifted")
    assert "spec.activeDeadlineSeconds" in shown.message


@pytest.mark.parametrize(
    ("ratio", "shown"), [(1.49, None), (2.0, {"rank": 1, "node": "node-1", "ratio": 2.0})]
)
def test_a_slow_process_is_shown_with_its_node(ratio: float, shown: dict[str, Any] | None) -> None:
    job, configured = scenes.job_of(training()), scenes.settings()
    news = Progress(stage=Stage.TRAIN, attempt=1, slowest_rank=1, slowest_rank_ratio=ratio)
    observed = replace(scenes.observed_of(job, RUNNING, configured), progress=news)
    progress = plan(job, observed, configured, scenes.NOW).status.progress
    assert progress
    slow = progress.slow_rank
    assert (slow and slow.model_dump()) == shown
