"""spec.finishTraining: which attempts of Train the operator stops."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.planning.attempts import record_attempts
from finetune_operator.planning.policies import finish
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import Blocked, Decision, PlanInput
from finetune_trainer.contract import Progress
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING = [{"is": "Running"}, {"index": 1, "is": "Running"}]
SHOWN = {"activity": "Training", "percent": 40, "updated": scenes.NOW.isoformat()}
SAVED = {"step": 120, "totalSteps": 300, "checkpointStep": 110}


def inputs_of(
    *,
    wanted: bool = True,
    pods: list[dict[str, Any]] = RUNNING,
    news: dict[str, Any] | None = None,
    shown: dict[str, Any] | None = None,
    **attempt: Any,
) -> PlanInput:
    """A job whose Train attempt 1 runs.

    Args:
        wanted: spec.finishTraining.
        pods: the pods of the attempt.
        news: fields of the progress that the trainer reports now.
        shown: fields of the progress in the status.
        attempt: fields of the attempt.
    """
    progress = {"progress": SHOWN | shown} if shown else {}
    status = {"reached": "Prepare", "attempts": [PREPARED, {"stage": "Train", **attempt}], **progress}
    job = scenes.job_of({"spec": {"finishTraining": wanted}, "status": status})
    assert job.status
    observed = scenes.observed_of(job, {"jobs": [{"stage": "Train", "pods": pods}]}, scenes.settings())
    if news:
        document = {"stage": "Train", "attempt": 1, "activity": "Training", **news}
        observed = replace(observed, progress=Progress.model_validate(document))
    resolution = resolve(job, observed, scenes.settings())
    return record_attempts(PlanInput(job, observed, scenes.settings(), scenes.NOW, job.status, resolution))


def stopped(decision: Decision | None) -> tuple[str, str] | None:
    """Outcome and message of the attempt that a decision stops."""
    return (decision.stop.outcome, decision.stop.message) if decision and decision.stop else None


SET = ("Suspended", "spec.finishTraining was set during Train attempt 1.")


@pytest.mark.parametrize("where", ["news", "shown"])
def test_an_attempt_with_a_checkpoint_ends(where: str) -> None:
    assert stopped(finish.check(inputs_of(**{where: SAVED}))) == SET
    assert finish.check(inputs_of(wanted=False, **{where: SAVED})) is None
    assert finish.check(inputs_of(**{where: SAVED | {"checkpointStep": None}})) is None


@pytest.mark.parametrize("where", ["news", "shown"])
def test_an_attempt_that_has_made_all_steps_goes_on(where: str) -> None:
    assert finish.check(inputs_of(**{where: SAVED | {"step": 300}})) is None


def test_an_attempt_with_a_failed_pod_keeps_its_cause() -> None:
    pods = [{"code": 9, "says": {"class": "Hang"}}, RUNNING[1]]
    assert finish.check(inputs_of(pods=pods, news=SAVED)) is None


def test_an_attempt_that_no_other_could_follow_goes_on() -> None:
    inputs = inputs_of(news=SAVED)
    assert finish.check(replace(inputs, resolution=Blocked("StoreChanged", "m"))) is None


def test_an_attempt_that_finishes_ends_if_training_shall_go_on() -> None:
    assert finish.check(inputs_of(finishCause="c.", news=SAVED)) is None
    outcome, message = stopped(finish.check(inputs_of(wanted=False, finishCause="c."))) or ("", "")
    assert outcome == "Suspended"
    assert message.startswith("Training is not over any more: ")
