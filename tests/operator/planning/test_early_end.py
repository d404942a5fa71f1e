"""The end of training before its last step: at the user's request, or instead of a failure of the job."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator import names
from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason, State
from finetune_operator.planning import early_end
from finetune_operator.planning.plan import plan
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import Plan, PlanInput
from finetune_operator.rendering.jobs import config_of
from finetune_operator.runtime.cluster import typed
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING = [{"is": "Running"}, {"index": 1, "is": "Running"}]
HANG = {"outcome": "Failed", "class": "Hang", "reason": "RankSilent", "message": "m", "step": 120}
SAVED = {"checkpointStep": 110}
WITHOUT_STEPS = {"finishCause": "Train failed 2 times."}
GONE = WITHOUT_STEPS | {
    "outcome": "Failed",
    "class": "Storage",
    "reason": "CheckpointMissing",
    "message": "m",
}
LAST_RESTART: dict[str, Any] = {"onTrainFailure": "Finish", "maxRestarts": 0}
DEADLINE_OF_TRAIN = 14 * 24 * 3600
DEADLINE = {"onTrainFailure": "Finish", "activeDeadline": "20m"}


def inputs_of(*attempts: dict[str, Any], status: dict[str, Any] | None = None, **spec: Any) -> PlanInput:
    """A job after some attempts of Train."""
    numbered = [{"stage": "Train", "number": number, **each} for number, each in enumerate(attempts, 1)]
    document = {"reached": "Prepare", "attempts": [PREPARED, *numbered], **(status or {})}
    job = scenes.job_of({"spec": spec, "status": document})
    assert job.status
    observed = scenes.observed_of(job, {}, scenes.settings())
    resolution = resolve(job, observed, scenes.settings())
    return PlanInput(job, observed, scenes.settings(), scenes.NOW, job.status, resolution)


def planned(
    *attempts: dict[str, Any],
    pods: list[dict[str, Any]] | None = None,
    train: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Plan:
    """The plan for a job after some attempts of Train.

    Args:
        attempts: fields of the attempts; the number follows from the position.
        pods: the pods of the last attempt; None: the last attempt has ended.
        train: fields of the Job of the last attempt.
        status: fields of the status.
        spec: fields of the spec.
    """
    inputs = inputs_of(*attempts, status=status, **spec)
    shown = {"stage": "Train", "attempt": len(attempts), "pods": pods, **(train or {})}
    document = {"jobs": [] if pods is None else [shown]}
    observed = scenes.observed_of(inputs.job, document, inputs.settings)
    return plan(inputs.job, observed, inputs.settings, inputs.now)


def ended(made: Plan) -> tuple[State | None, str]:
    """State and reason of the job."""
    return made.status.state, next(c.reason for c in made.status.conditions if c.type == "Running")


def begun(made: Plan) -> tuple[str, bool]:
    """The Job that a plan creates, and whether its attempt makes no steps."""
    (job,) = [manifest for manifest in made.create if manifest["kind"] == "Job"]
    config = config_of(job)
    assert config
    return job["metadata"]["name"], bool(config.finish)


def last(made: Plan) -> AttemptStatus:
    return made.status.attempts[-1]


def test_a_job_without_checkpoints_trains_although_it_ends_training() -> None:
    saved = {"outcome": "Suspended", "reason": "FinishedByUser", **SAVED}
    missing = {"outcome": "Failed", "class": "Storage", "reason": "CheckpointMissing", "message": "m"} | SAVED

    def ends(*attempts: dict[str, object]) -> bool:
        return early_end.finishes(inputs_of(*attempts, finishTraining=True))

    assert ends(saved)
    assert not ends(saved, missing)
    assert ends(saved, missing, saved)


@pytest.mark.parametrize(
    "failed",
    [
        HANG,
        {"outcome": "Failed", "class": "Numerical", "reason": "NonFiniteLoss", "message": "m", "step": 120},
        {"outcome": "Failed", "class": "UserData", "reason": "R", "message": "m", "step": 120},
    ],
    ids=lambda failed: str(failed["class"]),
)
def test_the_best_weights_are_published_instead_of_a_failure(failed: dict[str, Any]) -> None:
    assert ended(planned(failed | SAVED, failurePolicy={"maxRestarts": 0}))[0] is State.FAILED
    made = planned(failed | SAVED, failurePolicy=LAST_RESTART)
    assert begun(made) == ("tickets-0b5c3-t2", True)
    assert made.notes[0].startswith("InProgress: Train attempt 2 begins without further steps: Train ")


@pytest.mark.parametrize("spec", [{"finishTraining": True}, {"failurePolicy": LAST_RESTART}], ids=str)
@pytest.mark.parametrize("annotated", [True, False])
def test_the_operator_recognises_its_attempt_without_steps(spec: dict[str, Any], annotated: bool) -> None:
    tried = HANG | SAVED
    (job,) = [m for m in planned(tried, **spec).create if m["kind"] == "Job"]
    cause = job["metadata"]["annotations"][names.ANNOTATION_FINISH_CAUSE]
    if not annotated:
        cause = "Training is over."
        del job["metadata"]["annotations"][names.ANNOTATION_FINISH_CAUSE]
    job["metadata"] |= {"uid": "u", "creationTimestamp": scenes.NOW.isoformat()}
    inputs = inputs_of(tried, **spec)
    observed = replace(inputs.observed, jobs=(typed("Job", job),))
    for _ in range(2):
        made = plan(inputs.job, observed, inputs.settings, inputs.now)
        assert (last(made).number, last(made).outcome, last(made).finish_cause) == (2, "Running", cause)
        assert not made.create
        inputs = replace(inputs, job=inputs.job.model_copy(update={"status": made.status}))


def test_the_first_attempt_without_steps_follows_at_once() -> None:
    just_now = HANG | SAVED | {"endTime": scenes.NOW.isoformat()}
    again = planned(just_now, failurePolicy={"onTrainFailure": "Finish"})
    assert ended(again) == (State.WAITING, "Retrying")
    assert begun(planned(just_now, failurePolicy=LAST_RESTART)) == ("tickets-0b5c3-t2", True)


def test_a_failed_attempt_without_steps_is_tried_again_after_the_back_off() -> None:
    policy = {"onTrainFailure": "Finish", "maxRestarts": 1}
    just_now = WITHOUT_STEPS | HANG | {"step": None, "endTime": scenes.NOW.isoformat()}
    made = planned(HANG | SAVED, HANG | SAVED, just_now, failurePolicy=policy)
    assert ended(made) == (State.WAITING, "Retrying")


def test_without_a_known_checkpoint_the_job_fails() -> None:
    assert ended(planned(HANG, failurePolicy=LAST_RESTART)) == (State.FAILED, "RetriesExhausted")
    made = planned(HANG | SAVED, GONE, failurePolicy=LAST_RESTART)
    assert ended(made) == (State.FAILED, "RetriesExhausted")
    assert made.status.message
    assert made.status.message.endswith("Train attempt 2 found no checkpoint to publish.")
    limited = {"outcome": "Suspended", "reason": "ActiveDeadlineExceeded", "activeSeconds": 1200, "step": 120}
    made = planned(limited | SAVED, GONE, failurePolicy=DEADLINE)
    assert ended(made) == (State.FAILED, "ActiveDeadlineExceeded")
    assert made.status.message
    assert made.status.message.endswith("No checkpoint is known.")


def test_an_attempt_that_died_before_its_first_step_does_not_bring_back_a_missing_checkpoint() -> None:
    stopped = {"outcome": "Suspended", "reason": "FinishedByUser", "step": 110, **SAVED}
    pods = [{"code": 137}, {"index": 1, "code": 137}]
    made = planned(stopped, GONE, {"outcome": "Running"}, pods=pods, finishTraining=True)
    assert (last(made).outcome, last(made).checkpoint_step) == ("Failed", None)
    tries = [a.model_dump(mode="json", by_alias=True, exclude_none=True) for a in made.status.attempts[1:]]
    assert not early_end.finishes(inputs_of(*tries, finishTraining=True))


def test_an_attempt_without_steps_has_restarts_of_its_own() -> None:
    policy = {"onTrainFailure": "Finish", "maxRestarts": 1}
    trained, without = HANG | SAVED, WITHOUT_STEPS | HANG | {"step": None}
    assert begun(planned(trained, trained, without, failurePolicy=policy)) == ("tickets-0b5c3-t4", True)
    made = planned(trained, trained, without, without, failurePolicy=policy)
    assert ended(made) == (State.FAILED, "RetriesExhausted")
    assert made.status.message
    assert made.status.message.startswith("Train failed 2 times. Train failed 2 times without progress;")


def test_a_failure_after_the_users_request_to_end_training_does_not_fail_the_job() -> None:
    made = planned(HANG | SAVED, finishTraining=True, failurePolicy={"maxRestarts": 0})
    assert begun(made) == ("tickets-0b5c3-t2", True)


def test_training_goes_on_if_the_policy_permits_further_steps_again() -> None:
    history = (HANG | SAVED, {"outcome": "Running", **WITHOUT_STEPS})
    assert last(planned(*history, pods=RUNNING, failurePolicy=LAST_RESTART)).outcome == "Running"
    more = planned(*history, pods=RUNNING, failurePolicy=LAST_RESTART | {"maxRestarts": 5})
    assert (last(more).outcome, last(more).reason) == ("Suspended", Reason.FINISHED_BY_USER)


def test_an_attempt_without_steps_goes_on_however_long_the_history_is() -> None:
    wrong = {
        "outcome": "Failed",
        "class": "Numerical",
        "reason": "NonFiniteLogits",
        "message": "m",
        "step": 120,
    }
    preempted = WITHOUT_STEPS | {
        "outcome": "Failed",
        "class": "Preempted",
        "reason": "Preempted",
        "message": "m",
    }
    history = (wrong | SAVED, *([preempted] * 60), {"outcome": "Running", **WITHOUT_STEPS})
    made = planned(*history, pods=RUNNING, failurePolicy={"onTrainFailure": "Finish"})
    assert made.status.attempts_dropped
    assert last(made).outcome == "Running"


RAN = {"activeSeconds": 1200, "step": 120, **SAVED}
STOPPED = {"outcome": "Suspended", "reason": "ActiveDeadlineExceeded", **RAN}


def test_a_limit_ends_training_and_not_the_job() -> None:
    before = {"outcome": "Suspended", "reason": "SuspendedByUser", **RAN}
    made = planned(before, {"outcome": "Running"}, pods=RUNNING, failurePolicy=DEADLINE)
    assert ended(made) == (State.WAITING, "Stopping")
    assert (last(made).outcome, last(made).reason) == ("Suspended", Reason.ACTIVE_DEADLINE_EXCEEDED)
    assert made.status.message == (
        "The job has reached spec.failurePolicy.activeDeadline, which is 20m. Train ends early. 2 pods are"
        " still stopping."
    )
    assert begun(planned(STOPPED, failurePolicy=DEADLINE)) == ("tickets-0b5c3-t2", True)
    assert ended(planned(STOPPED, failurePolicy={"activeDeadline": "20m"}))[0] is State.FAILED


def test_an_attempt_without_steps_runs_past_the_limit_and_says_why() -> None:
    running = {"outcome": "Running", "finishCause": "The budget is used up."}
    made = planned(STOPPED, running, pods=RUNNING, failurePolicy=DEADLINE)
    assert last(made).outcome == "Running"
    assert made.requeue_after == DEADLINE_OF_TRAIN
    (said,) = [c.message for c in made.status.conditions if c.type == "Running"]
    assert said == ("All pods of Train attempt 2 run. Train makes no further steps: The budget is used up.")
    pending = planned(STOPPED, running, pods=[{"is": "Pending"}], failurePolicy=DEADLINE)
    assert pending.requeue_after == 15


@pytest.mark.parametrize("earlier", [(), ({"outcome": "Suspended", "reason": "SuspendedByUser", **RAN},)])
def test_an_attempt_that_has_made_all_steps_goes_on_past_the_limit(
    earlier: tuple[dict[str, Any], ...],
) -> None:
    shown = {
        "activity": "EvaluatingTuned",
        "percent": 91,
        "step": 300,
        "totalSteps": 300,
        "checkpointStep": 300,
    }
    running = {"outcome": "Running", "activeSeconds": 1300}
    status = {"progress": shown | {"updated": scenes.NOW.isoformat()}}
    made = planned(*earlier, running, pods=RUNNING, status=status, failurePolicy=DEADLINE)
    assert last(made).outcome == "Running"
    assert made.requeue_after == DEADLINE_OF_TRAIN


def test_the_checkpoint_of_an_attempt_that_a_queue_evicted_counts() -> None:
    shown = {"activity": "Training", "percent": 40, "step": 120, "totalSteps": 300, "checkpointStep": 110}
    status = {"progress": shown | {"updated": scenes.NOW.isoformat()}}
    running = {"outcome": "Running", "activeSeconds": 1300}
    made = planned(running, pods=[], train={"spec": {"suspend": True}}, status=status, failurePolicy=DEADLINE)
    assert made.status.state is not State.FAILED
    assert (last(made).outcome, last(made).checkpoint_step) == ("Suspended", 110)


def test_a_limit_in_prepare_still_fails_the_job() -> None:
    prepare = {"stage": "Prepare", "number": 1, "outcome": "Running", "activeSeconds": 1300}
    job = scenes.job_of({"spec": {"failurePolicy": DEADLINE}, "status": {"attempts": [prepare]}})
    observed = scenes.observed_of(job, {"jobs": [{"stage": "Prepare", "gone": True}]}, scenes.settings())
    made = plan(job, observed, scenes.settings(), scenes.NOW)
    assert made.status.state is State.FAILED


@pytest.mark.parametrize(("skipped", "expected"), [(None, None), (121, 121)])
def test_an_attempt_without_steps_reports_only_a_step_that_training_has_skipped(
    skipped: int | None, expected: int | None
) -> None:
    diverged = {
        "outcome": "Failed",
        "class": "Numerical",
        "reason": "NonFiniteLoss",
        "message": "m",
        "step": 120,
    }
    tries = [diverged | SAVED | {"divergedStep": 121}]
    if skipped:
        tries.append(HANG | SAVED | {"skippedStep": skipped, "resumedFromStep": 110})
    policy = {"onTrainFailure": "Finish", "maxRestarts": 0, "onDivergence": "RollBack" if skipped else "Fail"}
    (job,) = [m for m in planned(*tries, failurePolicy=policy).create if m["kind"] == "Job"]
    config = config_of(job)
    assert config
    assert (config.finish, config.skipped_step) == (True, expected)


@pytest.mark.parametrize(
    ("attempt", "end"),
    [
        ({"step": 110}, "Training ended early at step 110 of 300. Train failed 2 times."),
        ({}, "Training ended early at step 110 of 300. Train failed 2 times."),
        ({"step": 300}, "The model is published at s3://models/support/demo/tickets/v2/."),
    ],
)
def test_the_end_of_the_job_names_the_step_and_the_cause(attempt: dict[str, Any], end: str) -> None:
    tries = [HANG | SAVED, {"outcome": "Succeeded", **WITHOUT_STEPS, **attempt}]
    numbered = [{"stage": "Train", "number": number, **each} for number, each in enumerate(tries, 1)]
    history = [PREPARED, *numbered, {"stage": "Publish", "outcome": "Succeeded"}]
    status = {"reached": "Publish", "attempts": history}
    job = scenes.job_of({"spec": {"failurePolicy": LAST_RESTART}, "status": status})
    made = plan(job, scenes.observed_of(job, {}, scenes.settings()), scenes.settings(), scenes.NOW)
    assert made.status.state is State.SUCCEEDED
    assert made.status.message
    assert made.status.message.endswith(end)
