from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.api import FineTuneJob
from finetune_operator.planning.invalid_spec import status_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def status_at(raw: dict[str, Any], now: datetime = NOW) -> dict[str, Any]:
    with pytest.raises(ValidationError) as error:
        FineTuneJob.model_validate(raw)
    return status_of(raw, error.value, now)


RAW: dict[str, Any] = {
    "apiVersion": "finetune.dev/v0",
    "kind": "FineTuneJob",
    "metadata": {"name": "old", "generation": 3},
    "spec": {"task": "Sorcery"},
}


def test_the_message_names_the_field_and_the_job_has_not_ended() -> None:
    status = status_at(RAW)
    assert [c["type"] for c in status["conditions"]] == ["Succeeded", "Ready"]
    for condition in status["conditions"]:
        assert (condition["status"], condition["reason"]) == ("Unknown", "SpecInvalid")
        assert condition["observedGeneration"] == 3
        assert condition["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert "spec.task" in status["message"]
    assert status["state"] == "Waiting"


def test_the_stored_status_is_kept() -> None:
    prepared = {"type": "Prepared", "status": "True", "reason": "Completed"}
    attempts = [{"stage": "Train", "number": 1}]
    status = status_at(RAW | {"status": {"attempts": attempts, "conditions": [prepared]}})
    assert status["attempts"] == attempts
    assert prepared in status["conditions"]


def test_the_same_error_gives_the_same_status() -> None:
    first = status_at(RAW)
    assert status_at(RAW | {"status": first}, NOW.replace(hour=9)) == first
