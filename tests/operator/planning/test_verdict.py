"""The failures that count, and the back-off of a stage."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from finetune_operator.api import AttemptStatus, FailurePolicySpec
from finetune_operator.names import Reason
from finetune_operator.planning.attempt_history import LONGEST, shorten
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.restart_budget import delay
from finetune_operator.planning.types import PlanInput
from finetune_operator.planning.verdict import GiveUp, verdict
from finetune_trainer.contract import Stage
from tests.operator import scenes

Try = tuple[str, int] | tuple[str, int, int]


def tried(*failures: Try) -> tuple[PlanInput, list[AttemptStatus]]:
    """Failed Train attempts: class, minutes after the first attempt, and reached step."""
    short = {"stage": "Train", "outcome": "Failed", "reason": "R", "message": "m"}
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [short]}})
    assert job.status
    (template,) = job.status.attempts
    attempts = [
        template.model_copy(
            update={
                "number": number,
                "job": f"tickets-0b5c3-t{number}",
                "failure": failure,
                "end_time": scenes.NOW + timedelta(minutes=minutes),
                "step": step[0] if step else None,
            }
        )
        for number, (failure, minutes, *step) in enumerate(failures, 1)
    ]
    job = job.model_copy(update={"status": job.status.model_copy(update={"attempts": attempts})})
    assert job.status
    observed = scenes.observed_of(job, {}, scenes.settings())
    resolution = resolve(job, observed, scenes.settings())
    return PlanInput(job, observed, scenes.settings(), scenes.NOW, job.status, resolution), attempts


def placed(*failures: tuple[str, str, str | None, int | None]) -> tuple[PlanInput, list[AttemptStatus]]:
    """Failed Train attempts, a minute apart: class, reason, place, and reached step."""
    inputs, tries = tried(*[(failure, minute) for minute, (failure, *_) in enumerate(failures)])
    found = [
        attempt.model_copy(update={"reason": reason, "place": place, "step": step, "diverged_step": step})
        for attempt, (_, reason, place, step) in zip(tries, failures, strict=True)
    ]
    return inputs, found


def judged(*failures: Try) -> GiveUp | None:
    inputs, tries = tried(*failures)
    return verdict(inputs, Stage.TRAIN, tries)


@pytest.mark.parametrize("failure", ["UserConfig", "UserData", "Numerical"])
def test_a_failure_that_would_repeat_is_not_tried_again(failure: str) -> None:
    assert judged((failure, 0))


@pytest.mark.parametrize("failure", ["Communication", "Hang", "Internal"])
def test_failures_are_tried_again_three_times(failure: str) -> None:
    assert judged(*[(failure, i) for i in range(3)]) is None
    given_up = judged(*[(failure, i) for i in range(4)])
    assert given_up
    assert given_up.reason == Reason.RETRIES_EXHAUSTED


def test_a_job_sets_its_own_number_of_restarts() -> None:
    inputs, tries = tried(("Hang", 0), ("Hang", 1))
    job = inputs.job

    def of(most: int) -> GiveUp | None:
        spec = job.spec.model_copy(update={"failure_policy": FailurePolicySpec(max_restarts=most)})
        return verdict(replace(inputs, job=job.model_copy(update={"spec": spec})), Stage.TRAIN, tries)

    assert of(2) is None
    given_up = of(1)
    assert given_up
    assert given_up.message.startswith(
        "Train failed 2 times without progress; spec.failurePolicy allows 1 restart. The last cause: R: m"
    )


NOT_FINITE = ("Numerical", "NonFiniteLoss", None, 40)


@pytest.mark.parametrize(
    ("failures", "goes_on"),
    [
        ([NOT_FINITE], True),
        ([("Numerical", "NonFiniteGradient", None, 40)], True),
        ([("Numerical", "NonFiniteLoss", None, None)], False),
        ([("Numerical", "NonFiniteLogits", None, 40)], False),
        ([NOT_FINITE, ("Preempted", "Preempted", None, 60)], True),
        ([NOT_FINITE, ("Preempted", "Preempted", None, 60), ("Numerical", "NonFiniteLoss", None, 80)], False),
    ],
)
def test_a_job_may_go_on_once_without_the_step_that_was_not_finite(
    failures: list[tuple[str, str, str | None, int | None]], goes_on: bool
) -> None:
    inputs, tries = placed(*failures)
    rolling = FailurePolicySpec(on_divergence="RollBack", max_restarts=0)
    spec = inputs.job.spec.model_copy(update={"failure_policy": rolling})
    permitted = replace(inputs, job=inputs.job.model_copy(update={"spec": spec}))
    assert (verdict(permitted, Stage.TRAIN, tries) is None) == goes_on
    if tries[-1].failure == "Numerical":
        assert verdict(inputs, Stage.TRAIN, tries), "by default, the job fails"


def test_the_job_that_was_not_finite_twice_names_the_step_that_it_skipped() -> None:
    inputs, tries = placed(NOT_FINITE, ("Numerical", "NonFiniteLoss", None, 80))
    tries[1] = tries[1].model_copy(update={"skipped_step": 40})
    given_up = verdict(inputs, Stage.TRAIN, tries)
    assert given_up == GiveUp(
        "NonFiniteLoss",
        "Train attempt 2 failed. NonFiniteLoss: m The attempt had skipped step 40, which was not finite"
        " before.",
    )


BUG = ("Internal", "UnexpectedError", "training/loop.py:212", 40)
LOST_PEER = ("Communication", "PeerLost", "training/loop.py:212", 12)
PREEMPTED = ("Preempted", "Preempted", "Training", 12)


def test_a_failure_that_comes_twice_at_the_same_place_is_not_tried_again() -> None:
    inputs, tries = placed(BUG, BUG)

    assert verdict(inputs, Stage.TRAIN, tries[:1]) is None
    given_up = verdict(inputs, Stage.TRAIN, tries)

    assert given_up == GiveUp(
        "UnexpectedError",
        "Train attempt 2 failed in the same way as attempt 1 (at training/loop.py:212, step 40), so Train is"
        " not tried again. UnexpectedError: m Remove the cause, and apply the job with another name.",
    )


@pytest.mark.parametrize("between", [PREEMPTED, LOST_PEER, ("Storage", "StorageUnreachable", "Loading", 0)])
def test_failures_by_circumstances_between_two_equal_failures_change_nothing(
    between: tuple[str, str, str, int],
) -> None:
    inputs, tries = placed(BUG, between, BUG)
    given_up = verdict(inputs, Stage.TRAIN, tries)
    assert given_up
    assert "Train attempt 3 failed in the same way as attempt 1 " in given_up.message


@pytest.mark.parametrize(
    "other",
    [
        ("Internal", "UnexpectedError", "training/loop.py:213", 40),
        ("Internal", "UnexpectedError", "training/loop.py:212", 39),
        ("Internal", "RankCrashed", "training/loop.py:212", 40),
        ("Internal", "UnexpectedError", None, 40),
    ],
)
def test_a_failure_at_another_place_is_tried_again(other: tuple[str, str, str | None, int]) -> None:
    for pair in ((BUG, other), (other, BUG), (BUG, other, BUG)):
        inputs, tries = placed(*pair)
        assert verdict(inputs, Stage.TRAIN, tries) is None


def test_a_later_step_than_before_is_progress_and_no_repeat() -> None:
    inputs, tries = placed(BUG, (*PREEMPTED[:3], 60), BUG)
    assert verdict(inputs, Stage.TRAIN, tries) is None


def test_another_micro_batch_is_another_attempt() -> None:
    inputs, tries = placed(BUG, BUG)
    for field in ("micro_batch_size", "micro_batch_tokens"):
        halved = tries[1].model_copy(update={field: 4})
        assert verdict(inputs, Stage.TRAIN, [tries[0], halved]) is None


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("Preempted", "Preempted"),
        ("Communication", "PeerLost"),
        ("Hang", "RankSilent"),
        ("Storage", "StorageUnreachable"),
        ("Storage", "StorageError"),
        ("Internal", "RankKilled"),
    ],
)
def test_failures_by_circumstances_are_tried_again_wherever_they_come(failure: str, reason: str) -> None:
    inputs, tries = placed(*[(failure, reason, "training/loop.py:212", 40)] * 3)
    assert verdict(inputs, Stage.TRAIN, tries) is None


@pytest.mark.parametrize("reason", ["ObjectCorrupt", "PreparedCorrupt", "FolderIncomplete", "LineageMissing"])
def test_damaged_contents_of_the_store_are_read_by_two_attempts(reason: str) -> None:
    inputs, tries = placed(*[("Storage", reason, "s3/downloads.py:61", None)] * 2)
    assert verdict(inputs, Stage.TRAIN, tries[:1]) is None
    assert verdict(inputs, Stage.TRAIN, tries)


@pytest.mark.parametrize("reason", ["PreparedMissing", "PrepareResultMissing", "TrainResultMissing"])
def test_no_attempt_can_bring_back_a_lost_result_of_an_earlier_stage(reason: str) -> None:
    inputs, tries = placed(("Storage", reason, "data/shards.py:141", None))
    given_up = verdict(inputs, Stage.TRAIN, tries)
    assert given_up
    assert given_up.reason == reason


def test_preemption_never_counts() -> None:
    assert judged(*[("Preempted", i) for i in range(20)]) is None


def test_storage_does_not_count_for_the_first_hour() -> None:
    assert judged(*[("Storage", i * 5) for i in range(12)]) is None
    assert judged(*[("Storage", minutes) for minutes in (0, 61, 66, 71)]) is None
    assert judged(*[("Storage", minutes) for minutes in (0, 61, 66, 71, 76)])


def test_out_of_memory_is_tried_again_once_with_half_the_micro_batch() -> None:
    assert judged(("OutOfMemory", 0)) is None
    given_up = judged(("OutOfMemory", 0), ("OutOfMemory", 1))
    assert given_up
    assert "Half the micro-batch did not help: raise spec.resources.memory" in given_up.message


def test_the_advice_for_the_memory_of_a_gpu_is_not_the_advice_for_the_memory_of_a_pod() -> None:
    inputs, tries = tried(("OutOfMemory", 0), ("OutOfMemory", 1))
    on_gpu = [each.model_copy(update={"reason": "GpuMemoryExhausted"}) for each in tries]

    given_up = verdict(inputs, Stage.TRAIN, on_gpu)

    assert given_up
    assert "spec.method LoRA" in given_up.message
    assert "resources.memory" not in given_up.message


def test_an_odd_micro_batch_cannot_be_halved() -> None:
    inputs, tries = tried(("OutOfMemory", 0))
    odd = [tries[0].model_copy(update={"micro_batch_size": 3})]

    given_up = verdict(inputs, Stage.TRAIN, odd)

    assert given_up
    assert "micro-batch of 3 cannot be halved" in given_up.message


def test_a_budget_of_one_row_cannot_be_halved() -> None:
    inputs, tries = tried(("OutOfMemory", 0))
    assert inputs.status.chosen
    budget = {"micro_batch_size": None, "accumulation_steps": None, "micro_batch_tokens": 65}
    chosen = inputs.status.chosen.model_copy(update=budget)
    inputs = replace(inputs, status=inputs.status.model_copy(update={"chosen": chosen}))
    assert verdict(inputs, Stage.TRAIN, tries) is None

    longest = [tries[0].model_copy(update={"micro_batch_tokens": 64})]
    given_up = verdict(inputs, Stage.TRAIN, longest)

    assert given_up
    assert "micro-batch of 64 tokens cannot be halved" in given_up.message


def test_waits_double_up_to_five_minutes_and_differ_between_jobs() -> None:
    waits = [delay(tried(*[("Internal", i) for i in range(n)])[1], scenes.UID) for n in range(1, 9)]

    assert waits[1] == pytest.approx(2 * waits[0])
    assert 10 <= waits[0] <= 12.5
    assert 300 <= waits[-1] == waits[-2] <= 375
    one, other = (delay(tried(("Internal", 0))[1], uid) for uid in ("a", "b"))
    assert one != other


def test_failures_before_progress_no_longer_count() -> None:
    failures = [("Hang", number, 10 * number) for number in range(1, 31)]
    assert judged(*failures) is None

    stuck = [("Hang", 40 + i, 300) for i in range(3)]
    assert judged(*failures, *stuck[:2]) is None
    given_up = judged(*failures, *stuck)
    assert given_up
    assert given_up.message.startswith("Train failed 4 times without progress;")


def test_a_step_that_was_reached_before_is_no_progress() -> None:
    assert judged(("Hang", 0, 100), ("Hang", 1, 20), ("Hang", 2, 99), ("Hang", 3, 100))
    assert judged(("Hang", 0, 0), ("Hang", 1, 0), ("Hang", 2), ("Hang", 3, 0))


def test_a_preempted_attempt_that_came_further_is_progress() -> None:
    hangs = [("Hang", i, 5) for i in range(3)]
    assert judged(*hangs, ("Preempted", 4, 50), *hangs) is None
    assert judged(*hangs, ("Preempted", 4, 5), *hangs)


def test_the_free_hour_of_storage_counts_from_the_first_failure_of_an_outage() -> None:
    first = [("Storage", 0), ("Storage", 30)]
    later = [("Storage", minutes) for minutes in (600, 610, 620, 630, 655)]
    assert judged(*first, ("Hang", 599), *later) is None
    assert judged(*first, ("Preempted", 590, 7), *later) is None
    assert judged(*first, *later)
    assert judged(*first, ("Hang", 599), *later, *[("Storage", m) for m in (661, 662, 663)])


def test_the_back_off_starts_again_after_progress() -> None:
    without = tried(*[("Preempted", i, 100) for i in range(7)])[1]
    advancing = tried(*[("Preempted", i, 100 * i) for i in range(1, 8)])[1]

    assert delay(without, scenes.UID) > 300
    assert delay(advancing, scenes.UID) == delay(tried(("Preempted", 0))[1], scenes.UID)


CLASSES = [*["Preempted"] * 30, *["Storage"] * 6, *["Hang"] * 2, "Internal", "OutOfMemory"]


@settings(max_examples=150, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(CLASSES),
            st.integers(1, 90),
            st.none() | st.integers(0, 400),
            st.sampled_from([None, None, None, "training/loop.py:212", "training/loop.py:213"]),
        ),
        min_size=LONGEST - 5,
        max_size=200,
    ),
    st.integers(0, 20),
)
def test_dropped_attempts_change_no_decision(
    failures: list[tuple[str, int, int | None, str | None]], max_restarts: int
) -> None:
    """After each attempt, the bounded history gives the same decision as the whole history."""
    minutes, tries = 0, []
    for failure, passed, step, _ in failures:
        minutes += passed
        tries.append((failure, minutes, *(() if step is None else (step,))))
    inputs, whole = tried(*tries)
    places = [place for *_, place in failures]
    whole = [a.model_copy(update={"place": at}) for a, at in zip(whole, places, strict=True)]
    inputs = replace(inputs, settings=scenes.settings({"max_restarts": max_restarts}))
    kept = inputs.status.model_copy(update={"attempts": []})
    for number, attempt in enumerate(whole, 1):
        kept = shorten(kept.model_copy(update={"attempts": [*kept.attempts, attempt]}))
        assert len(kept.attempts) <= LONGEST
        assert kept.attempts[-1] == attempt
        dropped = kept.attempts_dropped
        assert len(kept.attempts) + (dropped.total if dropped else 0) == number
        assert sum(dropped.by_cause.values() if dropped else ()) == (dropped.total if dropped else 0)
        decided = verdict(inputs, Stage.TRAIN, whole[:number])
        assert verdict(inputs, Stage.TRAIN, kept.attempts) == decided
        assert delay(kept.attempts, scenes.UID) == delay(whole[:number], scenes.UID)
        if decided:
            return
