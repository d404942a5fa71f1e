"""Builds the status of a FineTuneJob that this version of the operator cannot read. Pure."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_operator.names import Condition, Reason, State
from finetune_operator.objects import Manifest

MESSAGE_LIMIT = 2048


def status_of(raw: Manifest, error: ValidationError, now: datetime) -> dict[str, Any]:
    """The stored status, with the state Waiting and the cause in the conditions Succeeded and Ready."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = (
        f"{where}: {first['msg']}. This version of the operator cannot read the job: it was stored with"
        " another version of the CustomResourceDefinition. Correct the field; the job then goes on by itself."
    )
    before = raw.get("status") or {}
    fact = {
        "status": "Unknown",
        "reason": Reason.SPEC_INVALID.value,
        "message": message[:MESSAGE_LIMIT],
        "observedGeneration": raw["metadata"].get("generation", 0),
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    stored = before.get("conditions") or []
    old = next((c for c in stored if c.get("type") == Condition.SUCCEEDED), None)
    if old and old.get("reason") == Reason.SPEC_INVALID and "lastTransitionTime" in old:
        fact["lastTransitionTime"] = old["lastTransitionTime"]
    summaries = (Condition.SUCCEEDED, Condition.READY)
    kept = [c for c in stored if c.get("type") not in (*summaries, Condition.STALLED)]
    return {
        **before,
        "state": State.WAITING.value,
        "message": message[:MESSAGE_LIMIT],
        "conditions": [*kept, *({"type": kind.value, **fact} for kind in summaries)],
    }
