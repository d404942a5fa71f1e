"""The attempt after a loss or gradient that is not finite, from its config to the status."""

from dataclasses import replace

from finetune_operator.planning.attempt_history import LONGEST, shorten
from finetune_operator.planning.divergence import step_to_skip
from finetune_operator.planning.plan import plan
from finetune_operator.rendering.jobs import config_of
from tests.operator import scenes

PREPARED = {"stage": "Prepare", "outcome": "Succeeded"}
NOT_FINITE = {
    "stage": "Train",
    "outcome": "Failed",
    "class": "Numerical",
    "reason": "NonFiniteLoss",
    "message": "m",
    "step": 45,
    "divergedStep": 40,
}
LOST = {
    "stage": "Train",
    "number": 2,
    "outcome": "Failed",
    "class": "Preempted",
    "reason": "Preempted",
    "message": "m",
    "step": 60,
    "skippedStep": 40,
}


def test_the_next_attempts_skip_the_step_and_the_status_says_so() -> None:
    for attempts in ([NOT_FINITE], [NOT_FINITE, LOST]):
        job = scenes.job_of(
            {
                "spec": {"failurePolicy": {"onDivergence": "RollBack"}},
                "status": {"reached": "Prepare", "attempts": [PREPARED, *attempts]},
            }
        )
        settings = scenes.settings()
        later = scenes.NOW.replace(year=scenes.NOW.year + 1)
        planned = plan(job, scenes.observed_of(job, {}, settings), settings, later)
        (train,) = (made for made in planned.create if made["kind"] == "Job")
        config = config_of(train)
        assert config
        assert config.skipped_step == 40
        train["metadata"] |= {"uid": "7", "creationTimestamp": later.isoformat()}
        observed = replace(scenes.observed_of(job, {}, settings), jobs=(train,))
        adopted = plan(job, observed, settings, later).status.attempts[-1]
        assert (adopted.number, adopted.skipped_step) == (len(attempts) + 1, 40)


def test_a_long_history_keeps_the_attempt_whose_step_is_skipped() -> None:
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [PREPARED, NOT_FINITE, LOST]}})
    assert job.status
    *_, diverged, lost = job.status.attempts
    later = [lost.model_copy(update={"number": n, "job": f"t{n}"}) for n in range(2, 100)]
    kept = shorten(job.status.model_copy(update={"attempts": [*job.status.attempts[:-1], *later]})).attempts
    assert len(kept) == LONGEST
    assert diverged in kept


def test_the_step_that_was_not_finite_is_that_of_the_pod_that_is_the_cause() -> None:
    """Before a restart in place, the attempt had reached step 60. After the restart, step 40 diverged."""
    cause = {"class": "Numerical", "reason": "NonFiniteGradient", "message": "m", "step": 40}
    peer = {"class": "Communication", "reason": "PeerLost", "message": "m", "step": 60}
    job = scenes.job_of(
        {"status": {"reached": "Prepare", "attempts": [PREPARED, {"stage": "Train", "outcome": "Running"}]}}
    )
    pods = [{"code": 6, "says": cause}, {"index": 1, "code": 7, "says": peer}]
    train = {"stage": "Train", "status": {"is": "Failed"}, "pods": pods}
    settings = scenes.settings()
    made = plan(job, scenes.observed_of(job, {"jobs": [train]}, settings), settings, scenes.NOW)
    attempt = made.status.attempts[-1]
    assert (attempt.step, attempt.diverged_step) == (60, 40)


def test_an_attempt_that_finishes_has_no_step_to_skip() -> None:
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [{**NOT_FINITE, "finishCause": "c."}]}})
    assert job.status
    assert step_to_skip(job.status.attempts) is None
