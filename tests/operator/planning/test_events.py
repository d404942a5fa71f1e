"""The Events of a change of status; the golden cases show the usual Events."""

import pytest

from finetune_operator.api import FineTuneJobStatus
from finetune_operator.names import Reason
from finetune_operator.planning.events import events_between
from finetune_operator.planning.plan import plan
from finetune_trainer.contract import InPlaceRestarts
from tests.operator import scenes


def status(reason: str, message: str, **changed: str) -> FineTuneJobStatus:
    """The status of a job that cannot be run, with another message."""
    job, configured = scenes.job_of({"spec": {"resources": {"profile": "none"}}}), scenes.settings()
    made = plan(job, scenes.observed_of(job, {}, configured), configured, scenes.NOW).status
    conditions = [
        c.model_copy(update={"reason": reason, "message": message, "status": changed.get(c.type, "False")})
        for c in made.conditions
    ]
    return made.model_copy(update={"conditions": conditions})


FAILED = status("ColumnsMissing", "Prepare attempt 1 failed. No 'text'.", Finished="True")


def test_a_failure_gives_one_event_that_says_failed_once() -> None:
    (event,) = events_between(None, FAILED)

    assert (event.type, event.reason) == ("Warning", "ColumnsMissing")
    assert event.message == "The job has ended. Prepare attempt 1 failed. No 'text'."
    assert events_between(FAILED, FAILED) == ()


def test_a_problem_gives_an_event_when_it_begins_and_when_its_reason_changes() -> None:
    secret = status(Reason.SECRET_MISSING, "Waiting for Secret demo/s3.")
    key = status(Reason.KEY_MISSING, "Waiting for key secretKey.")

    assert [e.reason for e in events_between(None, secret)] == ["SecretMissing"]
    assert events_between(secret, secret) == ()
    assert [e.message for e in events_between(secret, key)] == ["Waiting for key secretKey."]


@pytest.mark.parametrize("reason", [Reason.WAITING_FOR_PODS, Reason.RETRYING, Reason.STOPPING])
def test_a_reason_that_passes_without_action_gives_no_event(reason: Reason) -> None:
    assert events_between(None, status(reason, "Soon.")) == ()


def test_a_message_is_cut_between_characters_to_the_limit_of_an_event() -> None:
    (event,) = events_between(None, status(Reason.SECRET_MISSING, "\u00e9" * 2000))

    assert event.message == "\u00e9" * 500


def test_each_restart_in_place_gives_one_event_with_the_last_cause() -> None:
    job = scenes.job_of({"status": {"attempts": [{"stage": "Train", "outcome": "Running"}]}})
    assert job.status
    (running,) = job.status.attempts

    def restarted(count: int) -> FineTuneJobStatus:
        cause = {"count": count, "class": "Internal", "reason": "RankKilled"}
        changed = running.model_copy(update={"in_place_restarts": InPlaceRestarts.model_validate(cause)})
        return FineTuneJobStatus(attempts=[changed])

    before = FineTuneJobStatus(attempts=[running])
    (event,) = events_between(before, restarted(1))
    assert (event.type, event.reason) == ("Warning", "RestartedInPlace")
    assert event.message == (
        "Train attempt 1 has restarted in place once; the last cause was RankKilled (class Internal)."
    )
    assert events_between(restarted(1), restarted(1)) == ()
    (event,) = events_between(restarted(1), restarted(3))
    assert "in place 3 times" in event.message
