"""spec.failurePolicy.activeDeadline and maxGpuHours: what counts, how the job ends, and what the end says."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api import AttemptStatus, FineTuneJobStatus
from finetune_operator.names import Reason, State
from finetune_operator.planning.attempt_history import LONGEST, shorten
from finetune_operator.planning.plan import plan
from finetune_operator.planning.types import Plan
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING = [{"is": "Running"}, {"index": 1, "is": "Running"}]
GPUS = {"nodes": 2, "gpusPerNode": 4}
HOUR = 3600


def ago(seconds: float) -> str:
    return (scenes.NOW - timedelta(seconds=seconds)).isoformat()


def held(seconds: float, gpus: int = 8, counted: int = 0) -> dict[str, Any]:
    """Fields of a running attempt whose pods have run and held GPUs for some seconds."""
    return {
        "runningSince": ago(seconds),
        "usageTime": ago(seconds),
        "gpus": gpus,
        "gpusHeld": gpus,
        "gpuSeconds": {"total": counted},
    }


def planned(
    pods: list[dict[str, Any]],
    *attempts: dict[str, Any],
    policy: dict[str, Any],
    status: dict[str, Any] | None = None,
    later: float = 0,
    train: dict[str, Any] | None = None,
    **spec: Any,
) -> Plan:
    """The plan for a job whose last attempt is an attempt of Train.

    Args:
        pods: the pods of the last attempt.
        attempts: fields of the attempts of Train; the number follows from the position.
        policy: spec.failurePolicy.
        status: fields of the status.
        later: seconds after scenes.NOW.
        train: fields of the Job of the last attempt.
        spec: further fields of the spec.
    """
    tried = [{"stage": "Train", "number": number, **each} for number, each in enumerate(attempts, 1)]
    document = {
        "spec": {"resources": GPUS, "failurePolicy": policy, **spec},
        "status": {"reached": "Prepare", "attempts": [PREPARED, *tried], **(status or {})},
    }
    job = scenes.job_of(document)
    shown = {"stage": "Train", "attempt": len(attempts), "pods": pods, **(train or {})}
    observed = scenes.observed_of(job, {"jobs": [shown]}, scenes.settings())
    return plan(job, observed, scenes.settings(), scenes.NOW + timedelta(seconds=later))


def last(made: Plan) -> AttemptStatus:
    return made.status.attempts[-1]


def says(step: int, checkpoint: int, attempt: int = 1) -> dict[str, Any]:
    """The termination message of a pod that saved a checkpoint after SIGTERM."""
    return {
        "class": "Preempted",
        "reason": "Preempted",
        "message": "m",
        "attempt": attempt,
        "step": step,
        "checkpoint": {"step": checkpoint, "digest": scenes.DIGEST},
    }


def outcome(made: Plan) -> tuple[State | None, str]:
    """State and reason of the job."""
    return made.status.state, next(c.reason for c in made.status.conditions if c.type == "Running")


EARLIER = {"outcome": "Failed", "class": "Hang", "reason": "RankSilent", "activeSeconds": 600}


def test_the_active_deadline_counts_the_time_in_which_all_pods_ran_in_all_attempts() -> None:
    policy = {"activeDeadline": "20m"}
    within = planned(RUNNING, EARLIER, held(500), policy=policy)
    assert outcome(within) == (State.TRAINING, "InProgress")
    assert within.requeue_after == 100

    past = planned(RUNNING, EARLIER, held(600), policy=policy)
    assert outcome(past) == (State.WAITING, "Stopping")
    assert past.status.message == (
        "The job has reached spec.failurePolicy.activeDeadline, which is 20m. 2 pods are still stopping."
    )
    assert (last(past).outcome, last(past).reason, last(past).active_seconds) == (
        "Suspended",
        "ActiveDeadlineExceeded",
        600,
    )
    assert last(past).message == (
        "Train attempt 2 was stopped: The pods of the job ran for 20 min; spec.failurePolicy.activeDeadline"
        " is 20m."
    )
    assert [reference.kind for reference in past.delete] == ["Job"]
    assert past.requeue_after == 10


def test_attempts_that_the_status_dropped_count() -> None:
    dropped = {"total": 3, "activeSeconds": 1000, "gpuSeconds": {"total": 3 * HOUR}}
    made = planned(RUNNING, held(300), policy={"activeDeadline": "20m"}, status={"attemptsDropped": dropped})
    assert last(made).reason == "ActiveDeadlineExceeded"

    made = planned(RUNNING, held(HOUR / 8), policy={"maxGpuHours": 4}, status={"attemptsDropped": dropped})
    assert last(made).reason == "GpuBudgetExhausted"


def test_dropping_attempts_keeps_what_they_used() -> None:
    running = {"stage": "Train", "number": 90}
    used = {"activeSeconds": 10, "gpuSeconds": {"total": 80}, "gpus": 8, "gpusHeld": 0}
    lost = {"stage": "Train", "outcome": "Failed", "class": "Preempted", "reason": "Preempted", **used}
    tried = [{**lost, "number": number} for number in range(1, LONGEST + 2)]
    status = scenes.job_of({"status": {"reached": "Prepare", "attempts": [PREPARED, *tried, running]}}).status
    assert status
    once = shorten(status)
    assert once.attempts_dropped
    assert once.attempts_dropped.total == 3

    short = shorten(once.model_copy(update={"attempts": [*once.attempts[:-1], *status.attempts[-3:]]}))

    assert short.attempts_dropped
    assert short.attempts_dropped.total == 5
    assert short.attempts_dropped.active_seconds == 10 * short.attempts_dropped.total
    assert short.attempts_dropped.gpu_seconds
    assert short.attempts_dropped.gpu_seconds.total == 80 * short.attempts_dropped.total


def test_an_attempt_of_the_release_before_counts_from_the_time_at_which_its_pods_ran() -> None:
    before = {"outcome": "Failed", "class": "Hang", "runningSince": ago(2000), "endTime": ago(1000)}
    made = planned(RUNNING, before, {"runningSince": ago(450)}, policy={"activeDeadline": "1h"})
    assert made.requeue_after == HOUR - 1450
    assert last(made).gpu_seconds
    assert last(made).gpu_seconds.total == 8 * 450


def test_time_in_a_queue_does_not_count() -> None:
    policy = {"activeDeadline": "20m"}
    queued: dict[str, Any] = {"spec": {"suspend": True}}
    evicted = planned(RUNNING, held(700), policy=policy, train=queued)
    assert (last(evicted).running_since, last(evicted).active_seconds) == (None, 700)

    waiting = {"activeSeconds": 700}
    assert planned([], waiting, policy=policy, train=queued, later=10**6).status.state == State.WAITING
    admitted = planned(RUNNING, {**waiting, **held(400)}, policy=policy)
    assert admitted.requeue_after == 100
    ended = planned(RUNNING, {**waiting, **held(500)}, policy=policy)
    assert (last(ended).reason, last(ended).active_seconds) == ("ActiveDeadlineExceeded", 1200)


def test_the_gpu_budget_counts_each_gpu_from_the_node_of_its_pod_to_the_end_of_the_pod() -> None:
    policy = {"maxGpuHours": 1}
    one = [{"is": "Creating"}, {"index": 1, "is": "Pending"}]
    first = planned(one, {}, policy=policy)
    assert (last(first).gpus_held, last(first).gpus) == (4, 4)
    both = planned(RUNNING, {"usageTime": ago(300), "gpus": 4, "gpusHeld": 4}, policy=policy)
    assert (last(both).gpus_held, last(both).gpus) == (8, 8)
    assert both.status.gpu_seconds
    assert both.status.gpu_seconds.total == 4 * 300
    assert both.requeue_after == (HOUR - 4 * 300) / 8

    stopped = {"outcome": "Suspended", "reason": "GpuBudgetExhausted", **held(100, counted=3500)}
    stopping = planned([{"is": "Running"}, {"index": 1, "code": 8}], stopped, policy=policy, later=20)
    assert (last(stopping).gpus_held, last(stopping).gpus) == (4, 8)
    assert last(stopping).gpu_seconds
    assert last(stopping).gpu_seconds.total == 3500 + 8 * 120


def test_the_gpu_budget_stops_the_attempt_at_the_limit() -> None:
    policy = {"maxGpuHours": 2}
    counted = {"outcome": "Failed", "class": "Hang", "gpuSeconds": {"total": HOUR}}
    within = planned(RUNNING, counted, held(300), policy=policy)
    assert within.requeue_after == 150
    assert within.status.state is State.TRAINING

    past = planned(RUNNING, counted, held(450), policy=policy)
    assert (last(past).outcome, last(past).reason) == ("Suspended", "GpuBudgetExhausted")
    assert outcome(past) == (State.WAITING, "Stopping")


@pytest.mark.parametrize("reason", [Reason.ACTIVE_DEADLINE_EXCEEDED, Reason.GPU_BUDGET_EXHAUSTED])
def test_the_end_of_the_job_names_the_cost_and_the_checkpoint_that_the_pods_saved(reason: Reason) -> None:
    stopped = {"outcome": "Suspended", "reason": reason.value, "step": 110, "activeSeconds": 1200}
    stopped |= {"usageTime": ago(100), "gpus": 8, "gpusHeld": 8, "gpuSeconds": {"total": 3600}}
    pods = [{"code": 8, "says": says(113, 113)}, {"index": 1, "code": 8, "says": says(113, 113)}]
    policy = {"activeDeadline": "20m", "maxGpuHours": 1}

    made = planned(pods, stopped, policy=policy, train={"gone": True})

    assert outcome(made) == (State.FAILED, reason)
    used = {
        Reason.ACTIVE_DEADLINE_EXCEEDED: (
            "The pods of the job ran for 20 min; spec.failurePolicy.activeDeadline is 20m. The job used 1.22"
            " GPU hours."
        ),
        Reason.GPU_BUDGET_EXHAUSTED: "The job used 1.22 GPU hours; spec.failurePolicy.maxGpuHours is 1.",
    }
    assert made.status.message == (
        f"{used[reason]} Train reached step 113 of 300. The newest checkpoint is of step 113."
    )
    assert last(made).gpus_held == 0
    assert made.status.gpu_seconds == last(made).gpu_seconds
    assert made.requeue_after is None


def test_a_limit_that_is_raised_while_pods_stop_lets_the_job_go_on() -> None:
    past = planned(RUNNING, held(1200), policy={"activeDeadline": "20m"})
    stopped = last(past).model_dump(mode="json", by_alias=True, exclude_none=True) | {"gpusHeld": 0}
    made = planned([], stopped, policy={"activeDeadline": "2h", "maxRestarts": 0}, train={"gone": True})
    assert [manifest["metadata"]["name"] for manifest in made.create] == ["tickets-0b5c3-t2"]


def test_no_attempt_starts_without_a_rest_of_the_budget() -> None:
    failed = {"outcome": "Failed", "class": "Hang", "reason": "RankSilent", "step": 50}
    used = {**failed, "gpuSeconds": {"total": HOUR}, "gpus": 8, "gpusHeld": 0, "usageTime": ago(900)}
    assert planned([], used, policy={"maxGpuHours": 2}, train={"gone": True}).create
    made = planned([], used, policy={"maxGpuHours": 1}, train={"gone": True})
    assert not made.create
    assert outcome(made) == (State.FAILED, "GpuBudgetExhausted")
    assert made.status.message == (
        "The job used 1.00 GPU hours; spec.failurePolicy.maxGpuHours is 1. Train reached step 50 of 300. No"
        " checkpoint is known."
    )


def test_a_trained_model_is_published_without_gpus() -> None:
    used = {"gpuSeconds": {"total": 9 * HOUR}, "gpus": 8, "gpusHeld": 0, "usageTime": ago(900)}
    trained = {"outcome": "Succeeded", **used}
    made = planned([], trained, policy={"maxGpuHours": 1}, status={"reached": "Train"}, train={"gone": True})
    assert [manifest["metadata"]["name"] for manifest in made.create] == ["tickets-0b5c3-u1"]


def test_a_job_on_cpus_uses_no_gpu_hours() -> None:
    made = planned(RUNNING, {"runningSince": ago(10**6)}, policy={"maxGpuHours": 1}, resources={"nodes": 2})
    assert made.status.state is State.TRAINING
    assert made.status.gpu_seconds is None
    assert last(made).gpus_held is None


def test_time_alone_does_not_write_the_status() -> None:
    policy = {"activeDeadline": "24h", "maxGpuHours": 1000}
    first = planned(RUNNING, held(100), policy=policy)
    assert last(first).gpu_seconds
    assert last(first).gpu_seconds.total == 800
    job = scenes.job_of({"spec": {"resources": GPUS, "failurePolicy": policy}})
    job = job.model_copy(
        update={
            "status": FineTuneJobStatus.model_validate(first.status.model_dump(by_alias=True, mode="json"))
        }
    )
    observed = scenes.observed_of(job, {"jobs": [{"stage": "Train", "pods": RUNNING}]}, scenes.settings())
    later = scenes.NOW + timedelta(seconds=1000)
    assert plan(job, observed, scenes.settings(), later).status == first.status

    lost = replace(observed, pods=observed.pods[:1])
    ended = plan(job, lost, scenes.settings(), later).status.attempts[-1]
    assert ended.gpu_seconds
    assert ended.gpu_seconds.total == 800 + 8 * 1000


def test_a_failed_attempt_keeps_its_own_cause() -> None:
    bug = {"class": "Internal", "reason": "Bug", "message": "m"}
    pods = [{"code": 10, "says": bug}, {"index": 1, "is": "Running"}]
    collecting = planned(pods, {**held(3000), "failingSince": ago(5)}, policy={"activeDeadline": "20m"})
    assert last(collecting).outcome == "Running"

    ended = planned([pods[0], {"index": 1, "code": 7}], held(3000), policy={"activeDeadline": "20m"})
    assert last(ended).reason == "Bug"
    assert outcome(ended) == (State.FAILED, "ActiveDeadlineExceeded")


@pytest.mark.parametrize("policy", [{"maxRestarts": 0}, {}])
def test_a_cause_that_ends_the_job_anyway_is_not_hidden_by_a_limit(policy: dict[str, Any]) -> None:
    cause = {"class": "Hang"} if policy else {"class": "UserData"}
    failed = {"outcome": "Failed", "reason": "R", "message": "m", "activeSeconds": 9000, **cause}
    made = planned([], failed, policy={"activeDeadline": "20m", **policy}, train={"gone": True})
    assert outcome(made) == (State.FAILED, "RetriesExhausted" if policy else "R")


def test_the_message_does_not_change_while_pods_stop() -> None:
    stopped = {"outcome": "Suspended", "reason": "GpuBudgetExhausted", **held(450, counted=HOUR)}
    messages = {
        planned(RUNNING, stopped, policy={"maxGpuHours": 1}, later=later).status.message for later in (0, 60)
    }
    assert messages == {
        "The job has reached spec.failurePolicy.maxGpuHours, which is 1. 2 pods are still stopping."
    }


def test_a_suspended_job_waits_and_does_not_end() -> None:
    stopped = {"outcome": "Suspended", "activeSeconds": 9000}
    made = planned([], stopped, policy={"activeDeadline": "20m"}, train={"gone": True}, suspend=True)
    assert made.status.state is State.SUSPENDED
    resumed = planned([], stopped, policy={"activeDeadline": "20m"}, train={"gone": True})
    assert outcome(resumed) == (State.FAILED, "ActiveDeadlineExceeded")


def finished(condition: str, seconds: float) -> dict[str, Any]:
    """Fields of a Job whose condition became True some seconds ago."""
    return {"status": {"is": condition, "at": ago(seconds)}}


def test_time_after_the_end_of_a_job_that_the_operator_observes_late_does_not_count() -> None:
    policy = {"activeDeadline": "20m", "maxGpuHours": 3}
    pods = [{"code": 0, "says": "success"}, {"index": 1, "code": 0}]
    trained = planned(pods, held(6000), policy=policy, train=finished("Complete", 5000))
    assert (last(trained).outcome, last(trained).active_seconds) == ("Succeeded", 1000)
    assert last(trained).gpu_seconds
    assert last(trained).gpu_seconds.total == 8 * 1000
    assert [manifest["metadata"]["name"] for manifest in trained.create] == ["tickets-0b5c3-u1"]

    lost = {"class": "Hang", "reason": "RankSilent", "message": "m"}
    gone = [{"code": 9, "says": lost}, {"index": 1, "code": 9, "says": lost}]
    failed = planned(gone, held(6000), policy=policy, train=finished("Failed", 5000))
    assert (last(failed).outcome, last(failed).active_seconds) == ("Failed", 1000)
    assert failed.status.state is not State.FAILED


def test_time_after_a_suspension_that_the_operator_observes_late_does_not_count() -> None:
    queued: dict[str, Any] = {**finished("Suspended", 5000), "spec": {"suspend": True}}
    made = planned([], held(6000), policy={"activeDeadline": "20m", "maxGpuHours": 3}, train=queued)
    assert (last(made).running_since, last(made).active_seconds) == (None, 1000)
    assert last(made).gpu_seconds
    assert 8 * 1000 < last(made).gpu_seconds.total < 8 * 1500
    assert made.status.state is State.WAITING


def test_a_trained_model_is_published_after_the_active_deadline() -> None:
    trained = {"outcome": "Succeeded", "activeSeconds": 9000}
    status = {"reached": "Train"}
    made = planned([], trained, policy={"activeDeadline": "20m"}, status=status, train={"gone": True})
    assert [manifest["metadata"]["name"] for manifest in made.create] == ["tickets-0b5c3-u1"]
