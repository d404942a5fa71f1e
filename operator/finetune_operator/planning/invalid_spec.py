"""Builds the status of a FineTuneJob that this version of the operator cannot read. Pure."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_operator.names import Condition, Reason, State
from finetune_operator.objects import Manifest

MESSAGE_LIMIT = 2048


def status_of(raw: Manifest, error: ValidationError, now: datetime) -> dict[str, Any]:
    """The stored status, with the state Waiting and the cause in the condition Succeeded."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = (
        f"{where}: {first['msg']}. This version of the operator cannot read the job: it was stored with"
        " another version of the CustomResourceDefinition. Correct the field; the job then goes on by itself."
    )
    before = raw.get("status") or {}
    condition = {
        "type": Condition.SUCCEEDED.value,
        "status": "Unknown",
        "reason": Reason.SPEC_INVALID.value,
        "message": message[:MESSAGE_LIMIT],
        "observedGeneration": raw["metadata"].get("generation", 0),
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    kept = [c for c in before.get("conditions") or [] if c.get("type") != "Succeeded"]
    old = next((c for c in before.get("conditions") or [] if c.get("type") == "Succeeded"), None)
    if old and old.get("reason") == "SpecInvalid" and "lastTransitionTime" in old:
        condition["lastTransitionTime"] = old["lastTransitionTime"]
    return {
        **before,
        "state": State.WAITING.value,
        "message": message[:MESSAGE_LIMIT],
        "conditions": [*kept, condition],
    }
