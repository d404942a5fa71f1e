"""Which failures count, for how long, and how long a stage waits for its next attempt."""

from datetime import timedelta

import pytest

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason
from finetune_operator.planning.policies.restart import GiveUp, delay, verdict
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import PlanInput
from finetune_trainer.contract import Stage
from tests.operator import scenes


def tried(*failures: tuple[str, int]) -> tuple[PlanInput, list[AttemptStatus]]:
    """Train attempts that failed with a class, so many minutes after the first."""
    attempts = [
        {
            "stage": "Train",
            "number": number,
            "outcome": "Failed",
            "class": failure,
            "reason": "R",
            "message": "m",
            "endTime": (scenes.NOW + timedelta(minutes=minutes)).isoformat(),
        }
        for number, (failure, minutes) in enumerate(failures, 1)
    ]
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": attempts}})
    assert job.status
    observed = scenes.observed_of(job, {}, scenes.settings())
    resolution = resolve(job, observed, scenes.settings())
    return PlanInput(
        job, observed, scenes.settings(), scenes.NOW, job.status, resolution
    ), job.status.attempts


def judged(*failures: tuple[str, int]) -> GiveUp | None:
    inputs, tries = tried(*failures)
    return verdict(inputs, Stage.TRAIN, tries)


@pytest.mark.parametrize("failure", ["UserConfig", "UserData", "Numerical"])
def test_what_would_end_the_same_is_not_tried_again(failure: str) -> None:
    assert judged((failure, 0))


@pytest.mark.parametrize("failure", ["Communication", "Hang", "Internal"])
def test_faults_are_tried_again_three_times(failure: str) -> None:
    assert judged(*[(failure, i) for i in range(3)]) is None
    given_up = judged(*[(failure, i) for i in range(4)])
    assert given_up
    assert given_up.reason == Reason.RETRIES_EXHAUSTED


def test_preemption_never_counts() -> None:
    assert judged(*[("Preempted", i) for i in range(20)]) is None


def test_storage_does_not_count_for_the_first_hour() -> None:
    assert judged(*[("Storage", i * 5) for i in range(12)]) is None
    assert judged(*[("Storage", minutes) for minutes in (0, 61, 66, 71)]) is None
    assert judged(*[("Storage", minutes) for minutes in (0, 61, 66, 71, 76)])


def test_out_of_memory_is_tried_once_with_less() -> None:
    assert judged(("OutOfMemory", 0)) is None
    given_up = judged(("OutOfMemory", 0), ("OutOfMemory", 1))
    assert given_up
    assert "Half the micro-batch did not help" in given_up.message


def test_an_odd_micro_batch_cannot_be_halved() -> None:
    inputs, tries = tried(("OutOfMemory", 0))
    odd = [tries[0].model_copy(update={"micro_batch_size": 3})]

    given_up = verdict(inputs, Stage.TRAIN, odd)

    assert given_up
    assert "micro-batch of 3 cannot be halved" in given_up.message


def test_waits_double_up_to_five_minutes_and_differ_between_jobs() -> None:
    waits = [delay(tried(*[("Internal", i) for i in range(n)])[1], scenes.UID) for n in range(1, 9)]

    assert waits[1] == pytest.approx(2 * waits[0])
    assert 10 <= waits[0] <= 12.5
    assert 300 <= waits[-1] == waits[-2] <= 375
    one, other = (delay(tried(("Internal", 0))[1], uid) for uid in ("a", "b"))
    assert one != other
