"""The GPU time of attempts by use, from what the pods report."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api import GpuSeconds
from finetune_operator.planning.plan import plan
from finetune_operator.planning.types import Plan
from finetune_trainer.contract import Progress
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
RUNNING = [{"is": "Running"}, {"index": 1, "is": "Running"}]
SPENT = {"startup": 10, "training": 60, "evaluation": 5, "checkpoint": 2}
HELD = {
    "runningSince": (scenes.NOW - timedelta(seconds=100)).isoformat(),
    "usageTime": (scenes.NOW - timedelta(seconds=100)).isoformat(),
    "gpus": 8,
    "gpusHeld": 8,
}


def planned(
    pods: list[dict[str, Any]],
    *attempts: dict[str, Any],
    seconds: dict[str, int] | None = None,
    gpus: int = 4,
    reporter: int | None = None,
) -> Plan:
    """The plan for a job whose last attempt is an attempt of Train.

    Args:
        pods: the pods of the last attempt.
        attempts: fields of the attempts of Train.
        seconds: the time of rank 0 by use, in the newest progress.
        gpus: GPUs of a pod.
        reporter: the attempt that the progress is about; None: the last attempt.
    """
    tried = [{"stage": "Train", "number": number, **each} for number, each in enumerate(attempts, 1)]
    job = scenes.job_of(
        {
            "spec": {"resources": {"nodes": 2, "gpusPerNode": gpus}},
            "status": {"reached": "Prepare", "attempts": [PREPARED, *tried]},
        }
    )
    shown = {"stage": "Train", "attempt": len(attempts), "pods": pods}
    observed = scenes.observed_of(job, {"jobs": [shown]}, scenes.settings())
    document = {"stage": "Train", "attempt": reporter or len(attempts), "activity": "Training", "step": 5}
    progress = Progress.model_validate({**document, "seconds": seconds}) if seconds else None
    return plan(job, replace(observed, progress=progress), scenes.settings(), scenes.NOW)


def used(made: Plan) -> GpuSeconds | None:
    return made.status.attempts[-1].gpu_seconds


def says(
    step: int, saved: int | None = None, resumed: int | None = None, spent: dict[str, int] | None = None
) -> dict[str, Any]:
    """The termination message of a pod that was preempted."""
    document = {
        "class": "Preempted",
        "reason": "Preempted",
        "message": "m",
        "step": step,
        "checkpoint": {"step": saved, "digest": scenes.DIGEST} if saved is not None else None,
        "resumedFromStep": resumed,
        "seconds": spent,
    }
    return {name: value for name, value in document.items() if value is not None}


def test_the_progress_of_rank_0_divides_the_gpu_time_of_a_running_attempt() -> None:
    made = planned(RUNNING, HELD, seconds=SPENT)
    expected = GpuSeconds(total=800, startup=80, training=480, evaluation=40, checkpoint=16, waiting=184)
    assert used(made) == made.status.gpu_seconds == expected


def test_without_a_report_the_added_time_is_waiting() -> None:
    before = {"total": 100, "startup": 40, "training": 50, "waiting": 10}
    made = planned(RUNNING, {**HELD, "step": None, "gpusHeld": 8, "gpuSeconds": before, "peakMemoryBytes": 1})
    assert used(made) == GpuSeconds(total=900, startup=40, training=50, waiting=810)
    assert used(planned(RUNNING, HELD, seconds=SPENT, reporter=2)) == GpuSeconds(total=800, waiting=800)


def test_the_message_of_the_pod_with_index_0_divides_the_time_of_an_ended_attempt() -> None:
    pods = [
        {"index": 1, "code": 8, "says": says(50, 40, spent={"training": 99})},
        {"code": 8, "says": says(50, 40, spent=SPENT)},
    ]
    made = planned(pods, HELD)
    expected = GpuSeconds(
        total=800, startup=80, training=384, lost=96, evaluation=40, checkpoint=16, waiting=184
    )
    assert used(made) == made.status.gpu_seconds == expected
    assert made.status.attempts[-1].gpus_held == 0


@pytest.mark.parametrize(
    ("step", "checkpoint", "resumed", "lost"),
    [(50, 50, 20, 0), (50, 40, 30, 240), (50, None, None, 480), (30, 30, 30, 0)],
)
def test_lost_is_the_share_of_the_steps_that_the_next_attempt_repeats(
    step: int, checkpoint: int | None, resumed: int | None, lost: int
) -> None:
    pods = [{"code": 8, "says": says(step, checkpoint, resumed, SPENT)}, {"index": 1, "code": 8}]
    found = used(planned(pods, HELD))
    assert found
    assert (found.training, found.lost) == (480 - lost, lost)


def test_steps_that_were_repeated_after_a_restart_in_place_are_lost() -> None:
    """Steps 20 to 50, after a restart in place steps 40 to 60, and the newest checkpoint is of step 50."""
    earlier = {"outcome": "Failed", "class": "Hang", "step": 25, "checkpointStep": 20, "gpusHeld": 0}
    restarts = {"count": 1, "class": "Hang", "reason": "RankSilent", "lostSteps": 10}
    ended = says(60, 50, 40, SPENT) | {"inPlaceRestarts": restarts, "attempt": 2}
    found = used(planned([{"code": 8, "says": ended}, {"index": 1, "code": 8}], earlier, HELD))
    assert found
    assert (found.training, found.lost) == (480 - 192, 192)


def test_a_late_checkpoint_gives_lost_time_back() -> None:
    ended = {**HELD, "outcome": "Suspended", "step": 50, "lostSteps": 50}
    before = {"total": 0, "lost": 60, "training": 0}
    pods = [{"code": 8, "says": says(50, 50)}, {"index": 1, "code": 8}]
    found = used(planned(pods, {**ended, "gpuSeconds": {**before, "total": 60}}))
    assert found
    assert (found.total, found.training, found.lost) == (860, 60, 0)


def test_reports_are_at_most_the_time_for_which_the_pods_held_gpus() -> None:
    wild = {"startup": 30, "training": 2**70, "evaluation": 2**80, "checkpoint": 2**90}
    assert used(planned(RUNNING, HELD, seconds=wild)) == GpuSeconds(total=800, startup=240, training=560)


def test_the_gpu_time_of_a_job_is_the_sum_of_its_attempts() -> None:
    earlier = {"total": 300, "training": 100, "lost": 150, "waiting": 50}
    first = {"outcome": "Failed", "class": "Hang", "gpuSeconds": earlier, "gpus": 8, "gpusHeld": 0}
    made = planned(RUNNING, first, HELD, seconds=SPENT)
    assert made.status.gpu_seconds == GpuSeconds(
        total=1100, startup=80, training=580, evaluation=40, checkpoint=16, lost=150, waiting=234
    )


def test_the_end_of_a_job_ends_the_count_although_a_pod_still_stops() -> None:
    bad_data = {"class": "UserData", "reason": "TooManyBadRows", "message": "m"}
    pods = [{"code": 3, "says": bad_data}, {"index": 1, "is": "Running"}]
    failing = (scenes.NOW - timedelta(seconds=61)).isoformat()
    made = planned(pods, {**HELD, "failingSince": failing})
    assert made.status.completion_time == scenes.NOW
    assert made.status.attempts[-1].gpus_held == 0
    assert used(made) == made.status.gpu_seconds == GpuSeconds(total=800, waiting=800)


def test_a_job_on_cpus_has_no_gpu_time() -> None:
    made = planned(RUNNING, {"runningSince": HELD["runningSince"]}, seconds=SPENT, gpus=0)
    assert used(made) is made.status.gpu_seconds is None
