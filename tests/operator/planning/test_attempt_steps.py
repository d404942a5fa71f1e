"""The steps of an attempt: reached, resumed from, saved in a checkpoint, and lost."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.api import AttemptStatus, FineTuneJobStatus
from finetune_operator.planning.plan import plan
from finetune_operator.planning.restart_budget import failures_since_progress
from finetune_operator.planning.types import Plan
from finetune_trainer.contract import Progress
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING = [{"is": "Running"}, {"index": 1, "is": "Running"}]
PREEMPTED = {"class": "Preempted", "reason": "Preempted", "message": "m"}


def planned(
    pods: list[dict[str, Any]] | None = None,
    *,
    attempt: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    progress: dict[str, Any] | None = None,
    gone: bool = False,
    **spec: Any,
) -> Plan:
    """The plan for a job with a Train attempt.

    Args:
        pods: the pods of the attempt.
        attempt: fields of the attempt.
        status: fields of the status.
        progress: the newest progress of the attempt.
        gone: whether the Job of the attempt is deleted.
        spec: fields of the spec.
    """
    attempts = [PREPARED, {"stage": "Train", **(attempt or {})}]
    job = scenes.job_of(
        {"spec": spec, "status": {"reached": "Prepare", "attempts": attempts, **(status or {})}}
    )
    failed = any("code" in pod for pod in pods or ())
    train = {"stage": "Train", "pods": pods or [], "gone": gone, "status": {"is": "Failed"} if failed else {}}
    configured = scenes.settings()
    observed = scenes.observed_of(job, {"jobs": [train]}, configured)
    news = Progress.model_validate({"stage": "Train", "attempt": 1, **progress}) if progress else None
    return plan(job, replace(observed, progress=news), configured, scenes.NOW)


def train(made: Plan) -> AttemptStatus:
    return made.status.attempts[-1]


def steps(made: Plan) -> tuple[int | None, int | None, int | None, int | None]:
    """Reached, resumed from, saved, lost."""
    found = train(made)
    return found.step, found.resumed_from_step, found.checkpoint_step, found.lost_steps


def says(
    step: int | None = None, checkpoint: int | None = None, resumed: int | None = None, **more: Any
) -> Any:
    """The termination message of a pod that was preempted."""
    saved = {"step": checkpoint, "digest": scenes.DIGEST} if checkpoint is not None else None
    found = {**PREEMPTED, "step": step, "checkpoint": saved, "resumedFromStep": resumed, **more}
    return {key: value for key, value in found.items() if value is not None}


def stored(**progress: Any) -> dict[str, Any]:
    """The progress in the status."""
    known = {"percent": 40, "activity": "Training", "updated": scenes.NOW.isoformat()}
    return {"progress": known | progress}


def test_a_failed_attempt_has_the_steps_of_the_message_of_its_pods() -> None:
    bug = {"class": "Internal", "reason": "Bug", "message": "m", "step": 118}
    lost = says(120, 100, 50, **{"class": "Communication", "reason": "PeerLost"})

    made = planned([{"code": 10, "says": bug}, {"index": 1, "code": 7, "says": lost}])

    assert (train(made).outcome, train(made).reason) == ("Failed", "Bug")
    assert steps(made) == (120, 50, 100, 20)


def test_a_pod_without_a_message_has_the_steps_of_the_progress() -> None:
    shown = stored(step=110, checkpointStep=90)
    newer = {"step": 125, "checkpointStep": 100, "resumedFromStep": 50}

    assert steps(planned([{"code": 137}, *RUNNING[1:]], status=shown)) == (None, None, None, None)
    killed = [{"code": 137}, {"index": 1, "code": 137}]
    assert steps(planned(killed, status=shown)) == (110, None, 90, 20)
    assert steps(planned(killed, status=shown, progress=newer)) == (125, 50, 100, 25)
    assert steps(planned(killed)) == (None, None, None, None)


def test_an_attempt_without_a_checkpoint_loses_all_its_steps() -> None:
    made = planned([{"code": 8, "says": says(120)}, {"index": 1, "code": 8, "says": says(120)}])

    assert steps(made) == (120, None, None, 120)


def test_a_checkpoint_proves_that_its_step_was_reached() -> None:
    made = planned([{"code": 8, "says": says(checkpoint=100, resumed=100)}, {"index": 1, "code": 137}])

    assert steps(made) == (100, 100, 100, 0)


def test_a_killed_attempt_without_a_message_can_resume_from_the_checkpoint_of_an_earlier_attempt() -> None:
    first = {"stage": "Train", "number": 1, "outcome": "Failed", "step": 103, "checkpointStep": 100}
    killed = {"stage": "Train", "number": 2}
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [PREPARED, first, killed]}})
    pods = [{"code": 137}, {"code": 7, "index": 1, "says": says(104, attempt=2, reason="PeerLost")}]
    shown = {"jobs": [{"stage": "Train", "attempt": 2, "status": {"is": "Failed"}, "pods": pods}]}

    made = plan(job, scenes.observed_of(job, shown, scenes.settings()), scenes.settings(), scenes.NOW)

    assert steps(made) == (104, None, 100, 4)

    pods[1]["says"] = says(attempt=2, reason="PeerLost")
    made = plan(job, scenes.observed_of(job, shown, scenes.settings()), scenes.settings(), scenes.NOW)

    assert steps(made) == (None, None, 100, None)


@pytest.mark.parametrize(
    ("resumed", "saved", "reached", "expected"),
    [(80, 80, 90, (90, 80, 80, 10)), (None, None, 50, (50, None, None, 50))],
    ids=["an older checkpoint was read", "no checkpoint was read"],
)
def test_a_checkpoint_that_an_attempt_could_not_resume_from_does_not_count(
    resumed: int | None, saved: int | None, reached: int, expected: tuple[int | None, ...]
) -> None:
    first = {"stage": "Train", "number": 1, "outcome": "Failed", "step": 103, "checkpointStep": 100}
    second = {"stage": "Train", "number": 2}
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [PREPARED, first, second]}})
    said = says(reached, saved, resumed, attempt=2, **{"class": "Hang", "reason": "RankSilent"})
    pods = [{"code": 9, "says": said}, {"code": 7, "index": 1, "says": said}]
    shown = {"jobs": [{"stage": "Train", "attempt": 2, "status": {"is": "Failed"}, "pods": pods}]}

    made = plan(job, scenes.observed_of(job, shown, scenes.settings()), scenes.settings(), scenes.NOW)

    assert steps(made) == expected


def test_late_messages_correct_the_checkpoint_of_an_attempt_of_which_nothing_was_known() -> None:
    first = {"stage": "Train", "number": 1, "outcome": "Failed", "step": 103, "checkpointStep": 100}
    known = {"stage": "Train", "number": 2, "outcome": "Suspended", "checkpointStep": 100}
    job = scenes.job_of(
        {"spec": {"suspend": True}, "status": {"reached": "Prepare", "attempts": [PREPARED, first, known]}}
    )
    pods = [{"code": 8, "says": says(50, attempt=2)}, {"index": 1, "code": 8, "says": says(50, attempt=2)}]
    shown = {"jobs": [{"stage": "Train", "attempt": 2, "pods": pods, "gone": True}]}

    made = plan(job, scenes.observed_of(job, shown, scenes.settings()), scenes.settings(), scenes.NOW)

    assert steps(made) == (50, None, None, 50)


def test_a_resumed_attempt_that_trains_no_step_makes_no_progress() -> None:
    first = {"stage": "Train", "number": 1, "outcome": "Failed", "step": 100, "checkpointStep": 100}
    pods = [{"code": 9, "says": says(checkpoint=100, resumed=100, **{"class": "Hang", "attempt": 2})}]
    attempts = [PREPARED, first, {"stage": "Train", "number": 2}]
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": attempts}})
    train_job = {
        "stage": "Train",
        "attempt": 2,
        "status": {"is": "Failed"},
        "pods": [*pods, {"code": 7, "index": 1}],
    }
    shown = scenes.observed_of(job, {"jobs": [train_job]}, scenes.settings())

    made = plan(job, shown, scenes.settings(), scenes.NOW)

    assert steps(made) == (100, 100, 100, 0)
    assert failures_since_progress(made.status.attempts[1:]) == made.status.attempts[1:]


def test_steps_of_pods_are_at_most_the_total_of_the_run() -> None:
    wild = says(2**70, 2**69, 2**68)
    made = planned([{"code": 8, "says": wild}, {"index": 1, "code": 8, "says": wild}])

    assert steps(made) == (300, 300, 300, 0)


def test_steps_of_another_attempt_or_of_prepare_do_not_count() -> None:
    other = {"code": 8, "says": says(120, 100, 50, attempt=2)}
    made = planned([other, {"index": 1, "code": 8}], progress={"attempt": 2, "step": 7, "checkpointStep": 7})
    assert steps(made) == (None, None, None, None)

    job = scenes.job_of({"status": {"attempts": [{"stage": "Prepare"}]}})
    pods = [{"code": 8, "says": says(120, 100, 50)}]
    shown = {"jobs": [{"stage": "Prepare", "status": {"is": "Failed"}, "pods": pods}]}
    found = plan(job, scenes.observed_of(job, shown, scenes.settings()), scenes.settings(), scenes.NOW)
    assert train(found).outcome == "Failed"
    assert steps(found) == (None, None, None, None)


def test_a_running_attempt_shows_at_once_where_it_resumed() -> None:
    made = planned(RUNNING, progress={"activity": "Training", "step": 101, "resumedFromStep": 100})

    assert steps(made) == (None, 100, None, None)
    assert made.status.message == "Training (attempt 1, resumed from step 100): step 101."


def test_the_progress_shows_the_newest_checkpoint() -> None:
    at = scenes.NOW.timestamp() - 90.7
    made = planned(RUNNING, progress={"step": 120, "checkpointStep": 100, "checkpointTime": at})

    assert made.status.progress
    assert made.status.progress.checkpoint_step == 100
    assert made.status.progress.checkpoint_time == datetime(2026, 1, 1, 11, 58, 29, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [4e9, 2.0**53])
def test_a_checkpoint_is_never_of_the_future(seconds: float) -> None:
    made = planned(RUNNING, progress={"step": 120, "checkpointStep": 100, "checkpointTime": seconds})

    assert made.status.progress
    assert made.status.progress.checkpoint_time == scenes.NOW


def test_a_new_checkpoint_alone_does_not_write_the_status() -> None:
    shown = stored(step=110, checkpointStep=90)
    newer = {"activity": "Training", "step": 112, "checkpointStep": 111, "checkpointTime": 1e9}
    before = planned(RUNNING, status=shown).status

    made = planned(RUNNING, status=shown, progress=newer)

    assert made.status == before
    assert before.progress
    assert before.progress.checkpoint_step == 90


def test_a_suspended_attempt_gets_the_checkpoint_that_its_pods_save_while_they_stop() -> None:
    shown = stored(step=110, checkpointStep=90)
    stopped = planned(RUNNING, status=shown, suspend=True)
    assert train(stopped).outcome == "Suspended"
    assert steps(stopped) == (110, None, 90, 20)

    known = {"outcome": "Suspended", "step": 110, "checkpointStep": 90, "lostSteps": 20}
    stopping = planned(RUNNING, attempt=known, gone=True, suspend=True)
    assert steps(stopping) == (110, None, 90, 20)
    pods = [{"code": 8, "says": says(113, 113)}, {"index": 1, "code": 8, "says": says(113, 113)}]
    ended = planned(pods, attempt=known, gone=True, suspend=True)
    assert steps(ended) == (113, None, 113, 0)
    later = {**known, "step": 113, "checkpointStep": 113, "lostSteps": 0}
    assert steps(planned([], attempt=later, gone=True, suspend=True)) == (113, None, 113, 0)


def test_a_successful_attempt_keeps_its_checkpoints_and_has_lost_nothing() -> None:
    message = {**says(None, 280, 100), "class": "Success", "reason": "Completed", "payload": {}}
    pods = [{"code": 0, "says": message}, {"index": 1, "code": 0, "says": "success"}]
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [PREPARED, {"stage": "Train"}]}})
    train_job = {"stage": "Train", "status": {"is": "Complete"}, "pods": pods}
    shown = scenes.observed_of(job, {"jobs": [train_job]}, scenes.settings())

    made = plan(job, shown, scenes.settings(), scenes.NOW)

    assert train(made).outcome == "Succeeded"
    assert steps(made) == (None, 100, 280, None)


def test_steps_need_the_total_of_the_run() -> None:
    pods = [{"code": 8, "says": says(2**70, 2**70)}, {"index": 1, "code": 8}]
    job = scenes.job_of({"status": {"attempts": [PREPARED, {"stage": "Train"}]}})
    assert isinstance(job.status, FineTuneJobStatus)
    assert job.status.chosen is None
    shown = {"jobs": [{"stage": "Train", "status": {"is": "Failed"}, "pods": pods}]}

    made = plan(job, scenes.observed_of(job, shown, scenes.settings()), scenes.settings(), scenes.NOW)

    assert steps(made) == (None, None, None, None)


def in_place(count: int, lost: int = 0) -> dict[str, Any]:
    cause = {"class": "Internal", "reason": "RankKilled"}
    return {"inPlaceRestarts": {"count": count, "lostSteps": lost, **cause}}


def restarts(made: Plan) -> tuple[int, int] | None:
    found = train(made).in_place_restarts
    return (found.count, found.lost_steps) if found else None


def test_a_running_attempt_shows_its_restarts_in_place_at_once_and_reports_them() -> None:
    made = planned(RUNNING, progress=in_place(1, lost=4))
    assert restarts(made) == (1, 4)
    assert [event.reason for event in made.events] == ["RestartedInPlace"]
    known = planned(RUNNING, attempt=in_place(1, lost=4), progress=in_place(1, lost=4))
    assert restarts(known) == (1, 4)
    assert known.events == ()
    assert restarts(planned(RUNNING, progress={"step": 1})) is None


def test_an_ended_attempt_has_the_restarts_in_place_of_the_messages_of_its_pods() -> None:
    ended = [
        {"code": 8, "says": says(9)},
        {"index": 1, "code": 8, "says": says(9, **in_place(2, lost=10**6))},
    ]
    made = planned(ended, attempt=in_place(1))
    assert made.status.chosen
    assert restarts(made) == (2, made.status.chosen.total_steps)
    assert train(made).outcome == "Failed"


def test_restarts_in_place_stay_known_when_no_pod_reports_them() -> None:
    killed = [{"code": 137}, {"index": 1, "code": 137}]
    assert restarts(planned(killed, attempt=in_place(2, lost=3))) == (2, 3)
