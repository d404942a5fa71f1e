"""The end of training before its last step: at the user's request, or instead of a failure of the job."""

from typing import Any

import pytest

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason, State
from finetune_operator.planning import early_end
from finetune_operator.planning.plan import plan
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import Plan, PlanInput
from finetune_operator.rendering.jobs import config_of
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING = [{"is": "Running"}, {"index": 1, "is": "Running"}]
HANG = {"outcome": "Failed", "class": "Hang", "reason": "RankSilent", "message": "m", "step": 120}
SAVED = {"checkpointStep": 110}
WITHOUT_STEPS = {"stage": "Train", "finishes": True}
LAST_RESTART: dict[str, Any] = {"onTrainFailure": "Finish", "maxRestarts": 0}
DEADLINE = {"onTrainFailure": "Finish", "activeDeadline": "20m"}


def inputs_of(*attempts: dict[str, Any], **spec: Any) -> PlanInput:
    """A job after some attempts of Train."""
    numbered = [{"stage": "Train", "number": number, **each} for number, each in enumerate(attempts, 1)]
    job = scenes.job_of({"spec": spec, "status": {"reached": "Prepare", "attempts": [PREPARED, *numbered]}})
    assert job.status
    observed = scenes.observed_of(job, {}, scenes.settings())
    resolution = resolve(job, observed, scenes.settings())
    return PlanInput(job, observed, scenes.settings(), scenes.NOW, job.status, resolution)


def planned(*attempts: dict[str, Any], pods: list[dict[str, Any]] | None = None, **spec: Any) -> Plan:
    """The plan for a job after some attempts of Train; the last attempt runs if it has pods."""
    inputs = inputs_of(*attempts, **spec)
    shown = {"stage": "Train", "attempt": len(attempts), "pods": pods}
    observed = scenes.observed_of(inputs.job, {"jobs": [shown] if pods else []}, inputs.settings)
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
    assert made.notes[0].startswith("InProgress: Train attempt 2 begins without further steps. Train ")


def test_the_back_off_and_the_failures_of_training_do_not_hold_the_attempt_without_steps() -> None:
    just_now = HANG | SAVED | {"endTime": scenes.NOW.isoformat()}
    again = planned(just_now, failurePolicy={"onTrainFailure": "Finish"})
    assert ended(again) == (State.WAITING, "Retrying")
    assert begun(planned(just_now, failurePolicy=LAST_RESTART)) == ("tickets-0b5c3-t2", True)


def test_without_a_checkpoint_the_job_fails() -> None:
    assert ended(planned(HANG, failurePolicy=LAST_RESTART)) == (State.FAILED, "RetriesExhausted")
    gone = {"outcome": "Failed", "class": "Storage", "reason": "CheckpointMissing", "message": "none is left"}
    made = planned(HANG | SAVED, gone | WITHOUT_STEPS, failurePolicy=LAST_RESTART)
    assert ended(made) == (State.FAILED, "RetriesExhausted")


def test_an_attempt_without_steps_has_restarts_of_its_own() -> None:
    policy = {"onTrainFailure": "Finish", "maxRestarts": 1}
    trained, without = HANG | SAVED, WITHOUT_STEPS | HANG | {"step": None}
    assert begun(planned(trained, trained, without, failurePolicy=policy)) == ("tickets-0b5c3-t4", True)
    assert ended(planned(trained, trained, without, without, failurePolicy=policy)) == (
        State.FAILED,
        "RetriesExhausted",
    )


def test_training_goes_on_if_the_policy_permits_further_steps_again() -> None:
    history = (HANG | SAVED, {"outcome": "Running", **WITHOUT_STEPS})
    assert last(planned(*history, pods=RUNNING, failurePolicy=LAST_RESTART)).outcome == "Running"
    more = planned(*history, pods=RUNNING, failurePolicy=LAST_RESTART | {"maxRestarts": 5})
    assert (last(more).outcome, last(more).reason) == ("Suspended", Reason.FINISHED_BY_USER)


def test_a_limit_ends_training_and_not_the_job() -> None:
    ran = {"activeSeconds": 1200, "step": 120, **SAVED}
    before = {"outcome": "Suspended", "reason": "SuspendedByUser", **ran}
    stopped = {"outcome": "Suspended", "reason": "ActiveDeadlineExceeded", **ran}

    made = planned(before, {"outcome": "Running"}, pods=RUNNING, failurePolicy=DEADLINE)
    assert ended(made) == (State.WAITING, "Stopping")
    assert (last(made).outcome, last(made).reason) == ("Suspended", Reason.ACTIVE_DEADLINE_EXCEEDED)
    assert begun(planned(stopped, failurePolicy=DEADLINE)) == ("tickets-0b5c3-t2", True)
    assert ended(planned(stopped, failurePolicy={"activeDeadline": "20m"}))[0] is State.FAILED

    running = {"outcome": "Running", **WITHOUT_STEPS}
    assert last(planned(stopped, running, pods=RUNNING, failurePolicy=DEADLINE)).outcome == "Running"


def test_a_limit_in_prepare_still_fails_the_job() -> None:
    prepare = {"stage": "Prepare", "number": 1, "outcome": "Running", "activeSeconds": 1300}
    job = scenes.job_of({"spec": {"failurePolicy": DEADLINE}, "status": {"attempts": [prepare]}})
    observed = scenes.observed_of(job, {"jobs": [{"stage": "Prepare", "gone": True}]}, scenes.settings())
    made = plan(job, observed, scenes.settings(), scenes.NOW)
    assert made.status.state is State.FAILED


def test_the_end_of_the_job_names_the_step_and_the_cause() -> None:
    tries = [HANG | SAVED, {"outcome": "Succeeded", **WITHOUT_STEPS}]
    numbered = [{"stage": "Train", "number": number, **each} for number, each in enumerate(tries, 1)]
    history = [PREPARED, *numbered, {"stage": "Publish", "outcome": "Succeeded"}]
    status = {"reached": "Publish", "attempts": history}
    job = scenes.job_of({"spec": {"failurePolicy": LAST_RESTART}, "status": status})
    made = plan(job, scenes.observed_of(job, {}, scenes.settings()), scenes.settings(), scenes.NOW)
    assert made.status.state is State.SUCCEEDED
    assert made.status.message
    assert made.status.message.endswith("Training ended early at step 120 of 300 (RankSilent).")
