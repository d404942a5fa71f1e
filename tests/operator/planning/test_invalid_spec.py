from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.api import FineTuneJob
from finetune_operator.planning.invalid_spec import status_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def told_of(raw: dict[str, Any], now: datetime = NOW) -> dict[str, Any]:
    with pytest.raises(ValidationError) as error:
        FineTuneJob.model_validate(raw)
    return status_of(raw, error.value, now)


RAW: dict[str, Any] = {
    "apiVersion": "finetune.dev/v0",
    "kind": "FineTuneJob",
    "metadata": {"name": "old", "generation": 3},
    "spec": {"task": "Sorcery"},
}


def test_the_field_is_named_and_nothing_has_ended() -> None:
    status = told_of(RAW)
    (condition,) = status["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == (
        "Succeeded",
        "Unknown",
        "SpecInvalid",
    )
    assert condition["observedGeneration"] == 3
    assert condition["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert "spec.task" in status["message"]
    assert status["state"] == "Waiting"


def test_what_was_known_stays_known() -> None:
    prepared = {"type": "Prepared", "status": "True", "reason": "Completed"}
    attempts = [{"stage": "Train", "number": 1}]
    status = told_of(RAW | {"status": {"attempts": attempts, "conditions": [prepared]}})
    assert status["attempts"] == attempts
    assert prepared in status["conditions"]


def test_said_again_it_is_the_same() -> None:
    first = told_of(RAW)
    assert told_of(RAW | {"status": first}, NOW.replace(hour=9)) == first
