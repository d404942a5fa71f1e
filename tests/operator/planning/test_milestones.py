"""Milestones between two statuses: each is found once, with its labels and its duration."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.api import AttemptStatus, FineTuneJob, FineTuneJobStatus, ProgressStatus
from finetune_operator.planning.milestones import Milestone, find_milestones
from tests.operator import scenes

CREATED = datetime(2026, 5, 1, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return CREATED + timedelta(seconds=seconds)


def job(**spec: Any) -> FineTuneJob:
    found = scenes.job_of({"spec": {"resources": {"nodes": 2, "gpusPerNode": 4}, **spec}})
    found.metadata["creationTimestamp"] = CREATED.isoformat()
    return found


def attempt(stage: str = "Train", number: int = 1, **fields: Any) -> AttemptStatus:
    values = {
        "stage": stage,
        "number": number,
        "generation": 1,
        "configDigest": "sha256:c",
        "specDigest": "sha256:s",
        "job": f"tickets-{stage[0].lower()}{number}",
        "startTime": at(10),
        "outcome": "Running",
        **fields,
    }
    return AttemptStatus.model_validate(values)


def status(*attempts: AttemptStatus, **fields: Any) -> FineTuneJobStatus:
    return FineTuneJobStatus(attempts=list(attempts), **fields)


def found(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> list[Milestone]:
    return list(find_milestones(job(), before, after))


def test_equal_statuses_have_no_milestones() -> None:
    running = status(attempt(runningSince=at(40)))
    assert found(running, running) == []
    assert found(None, FineTuneJobStatus()) == []


def test_the_wait_of_an_attempt_ends_when_all_its_pods_run() -> None:
    waiting = status(attempt())
    running = status(attempt(runningSince=at(70)))
    assert found(None, waiting) == []
    expected = [Milestone("finetune_queue_wait_seconds", {"stage": "Train"}, 60.0)]
    assert found(waiting, running) == found(None, running) == expected


def test_an_attempt_that_failed_is_counted_with_its_class_and_its_node() -> None:
    end = {"runningSince": at(40), "endTime": at(140), "outcome": "Failed", "class": "Hang", "node": "gpu-7"}
    labels = {"stage": "Train", "outcome": "Failed", "class": "Hang", "node": "gpu-7"}
    assert found(status(attempt(runningSince=at(40))), status(attempt(**end))) == [
        Milestone("finetune_attempts", labels)
    ]


@pytest.mark.parametrize("outcome", ["Succeeded", "Failed", "Suspended", "Superseded"])
def test_the_gpu_time_of_an_attempt_is_counted_by_use_when_its_pods_have_released_the_gpus(
    outcome: str,
) -> None:
    used = {"usageTime": at(150), "gpus": 8, "runningSince": at(40)}
    counting = {"gpuSeconds": {"total": 880, "training": 700, "waiting": 180}, "gpusHeld": 8}
    final = {"gpuSeconds": {"total": 890, "training": 700, "lost": 90, "waiting": 100}, "gpusHeld": 0}
    running = status(attempt(**used, **counting))
    stopping = status(attempt(**used, **counting, outcome=outcome, endTime=at(140)))
    stopped = status(attempt(**used, **final, outcome=outcome, endTime=at(140)))

    def counted(before: FineTuneJobStatus, after: FineTuneJobStatus) -> dict[str, float]:
        milestones = [m for m in found(before, after) if m.metric == "finetune_gpu_seconds"]
        assert all(m.labels["namespace"] == job().metadata["namespace"] for m in milestones)
        return {m.labels["use"]: m.value for m in milestones}

    assert counted(running, stopping) == {}
    expected = {"training": 700, "lost": 90, "waiting": 100}
    assert counted(stopping, stopped) == counted(running, stopped) == expected
    assert counted(stopped, stopped) == {}


def test_a_stage_lasts_from_its_first_attempt_until_its_success() -> None:
    first = attempt(startTime=at(0), runningSince=at(5), endTime=at(60), outcome="Failed")
    running = attempt(number=2, startTime=at(80), runningSince=at(90))
    ended = attempt(number=2, startTime=at(80), runningSince=at(90), endTime=at(200), outcome="Succeeded")
    waits = Milestone("finetune_queue_wait_seconds", {"stage": "Train"}, 10.0)
    recovers = Milestone("finetune_recovery_seconds", {"stage": "Train"}, 30.0)
    assert found(status(first), status(first, running)) == [waits, recovers]
    milestones = {m.metric: m for m in found(status(first, running), status(first, ended))}
    assert milestones["finetune_stage_duration_seconds"].value == 200.0


@pytest.mark.parametrize(
    ("before", "step", "number", "counts"),
    [(None, 3, 1, True), (0, 3, 1, True), (2, 3, 1, False), (None, 0, 1, False), (None, 3, 2, False)],
)
def test_the_first_step_of_the_first_attempt_is_seen_once(
    before: int | None, step: int, number: int, *, counts: bool
) -> None:
    def progress(done: int) -> ProgressStatus:
        return ProgressStatus(percent=20, activity="Training", step=done, updated=at(90))

    running = attempt(number=number, runningSince=at(40))
    earlier = status(running, progress=None if before is None else progress(before))
    expected = [Milestone("finetune_time_to_first_step_seconds", value=90.0)] if counts else []
    assert found(earlier, status(running, progress=progress(step))) == expected


def test_an_attempt_that_resumes_is_counted_once() -> None:
    loading = status(attempt(number=2, runningSince=at(40)))
    resumed = status(attempt(number=2, runningSince=at(40), resumedFromStep=0))
    expected = [Milestone("finetune_resumed_attempts", {"namespace": job().metadata["namespace"]})]
    assert found(loading, resumed) == expected
    assert found(resumed, resumed) == []


@pytest.mark.parametrize(
    ("outcome", "cause"), [("Failed", {"class": "Hang"}), ("Failed", {}), ("Suspended", {})]
)
def test_lost_steps_are_counted_when_the_next_attempt_begins(outcome: str, cause: dict[str, str]) -> None:
    """Until then, the pods of the attempt may save a checkpoint."""
    stopped = attempt(outcome=outcome, lostSteps=20, **cause)
    saved = attempt(outcome=outcome, lostSteps=5, **cause)
    labels = {
        "namespace": job().metadata["namespace"],
        "outcome": outcome,
        "class": cause.get("class", ""),
    }
    expected = [Milestone("finetune_lost_steps", labels, 5)]
    assert found(status(stopped), status(saved)) == []
    assert found(status(saved), status(saved, attempt(number=2))) == expected
    assert found(status(saved), status(saved, completion_time=at(90)))[:1] == expected
    assert found(status(saved, attempt(number=2)), status(saved, attempt(number=2), attempt(number=3))) == []


def test_an_attempt_that_saved_its_last_step_has_lost_nothing() -> None:
    saved = attempt(outcome="Failed", lostSteps=0)
    assert found(status(saved), status(saved, attempt(number=2))) == []


@pytest.mark.parametrize(("value", "result"), [("True", ["passed"]), ("False", ["missed"]), ("Unknown", [])])
def test_a_gate_is_decided_once(value: str, result: list[str]) -> None:
    def gate(decided: str) -> FineTuneJobStatus:
        condition = {
            "type": "GatePassed",
            "status": decided,
            "reason": "R",
            "observedGeneration": 1,
            "lastTransitionTime": at(5),
        }
        return FineTuneJobStatus.model_validate({"conditions": [condition]})

    assert [m.labels["result"] for m in found(gate("Unknown"), gate(value))] == result
    assert found(gate(value), gate(value)) == []


def test_the_end_of_a_job_is_counted_once_with_its_reason() -> None:
    conditions = [
        {
            "type": "Succeeded",
            "status": "False",
            "reason": "TooManyBadRows",
            "observedGeneration": 1,
            "lastTransitionTime": at(5),
        }
    ]
    document = {"state": "Failed", "completionTime": at(5), "conditions": conditions}
    after = FineTuneJobStatus.model_validate(document)
    (milestone,) = found(None, after)
    assert milestone.metric == "finetune_jobs_finished"
    assert milestone.labels == {
        "namespace": job().metadata["namespace"],
        "task": "TextClassification",
        "method": "Full",
        "outcome": "Failed",
        "reason": "TooManyBadRows",
    }
    assert found(after, after) == []


def in_place(count: int, lost: int, reason: str = "RankKilled", failure: str = "Internal") -> dict[str, Any]:
    return {"inPlaceRestarts": {"count": count, "class": failure, "reason": reason, "lostSteps": lost}}


def test_restarts_in_place_and_the_steps_that_they_repeat_are_counted_once() -> None:
    running, once = attempt(), attempt(**in_place(1, 7))
    later = attempt(outcome="Succeeded", **in_place(3, 12, "RankSilent", "Hang"))
    namespace = job().metadata["namespace"]
    internal = {"namespace": namespace, "class": "Internal"}
    assert found(status(running), status(once)) == [
        Milestone("finetune_in_place_restarts", internal, 1),
        Milestone("finetune_lost_steps", {**internal, "outcome": "RestartedInPlace"}, 7),
    ]
    assert found(status(once), status(once)) == []
    hang = {"namespace": namespace, "class": "Hang"}
    assert found(status(once), status(later))[-2:] == [
        Milestone("finetune_in_place_restarts", hang, 2),
        Milestone("finetune_lost_steps", {**hang, "outcome": "RestartedInPlace"}, 5),
    ]
    assert found(status(attempt(**in_place(1, 0))), status(attempt(**in_place(2, 0)))) == [
        Milestone("finetune_in_place_restarts", internal, 1)
    ]


def test_the_first_step_after_a_restart_in_place_is_not_the_first_step_of_the_job() -> None:
    restarted = attempt(runningSince=at(40), **in_place(1, 0))
    starting = ProgressStatus(percent=0, activity="Starting", updated=at(80))
    training = ProgressStatus(percent=20, activity="Training", step=3, updated=at(90))
    assert found(status(restarted, progress=starting), status(restarted, progress=training)) == []
