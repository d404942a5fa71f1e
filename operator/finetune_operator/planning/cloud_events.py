"""Makes the CloudEvent of a notification from a FineTuneJob. Pure.

A CloudEvent holds only facts that no longer change after the event: the same notification has the same
content after a restart of the operator. A CloudEvent holds no row of the data and no credentials.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_operator.api import FineTuneJob, FineTuneJobStatus, NotificationStatus
from finetune_operator.names import PLURAL, Condition, NotificationEvent
from finetune_operator.planning.lookup import condition
from finetune_operator.planning.notifications import ENDS, name_of
from finetune_trainer.contract import Scores

TYPE_PREFIX = "dev.finetune.job"
TYPE_VERSION = "v1"
"""Version of the content of `data`. A change that receivers cannot ignore needs another version."""


@dataclass(frozen=True)
class Notification:
    """A CloudEvent for one target."""

    id: str
    target: str
    time: datetime
    """Time of the event."""
    body: bytes = field(repr=False)
    """The CloudEvent in JSON (structured mode)."""


def pending(job: FineTuneJob, status: FineTuneJobStatus) -> tuple[Notification, ...]:
    """The notifications that the status of a job lists as Pending."""
    return tuple(
        Notification(entry.id, entry.target, entry.time, _encode(job, status, entry))
        for entry in status.notifications or ()
        if entry.state == "Pending"
    )


def cloud_event(job: FineTuneJob, status: FineTuneJobStatus, entry: NotificationStatus) -> dict[str, Any]:
    """The CloudEvent (version 1.0) of one notification."""
    namespace, name = job.metadata["namespace"], job.metadata["name"]
    return {
        "specversion": "1.0",
        "id": entry.id,
        "type": f"{TYPE_PREFIX}.{entry.event.lower()}.{TYPE_VERSION}",
        "source": f"/namespaces/{namespace}/{PLURAL}/{name}",
        "subject": f"{namespace}/{name}",
        "time": _timestamp(entry.time),
        "datacontenttype": "application/json",
        "data": {
            "event": entry.event.value,
            "namespace": namespace,
            "name": name,
            "uid": job.metadata["uid"],
            "task": job.spec.task,
            **_details(status, entry),
        },
    }


def _encode(job: FineTuneJob, status: FineTuneJobStatus, entry: NotificationStatus) -> bytes:
    return json.dumps(cloud_event(job, status, entry), ensure_ascii=False, separators=(",", ":")).encode()


def _details(status: FineTuneJobStatus, entry: NotificationStatus) -> dict[str, Any]:
    """The facts of one kind of event."""
    match entry.event:
        case NotificationEvent.ATTEMPT_FAILED:
            return _attempt(status, entry)
        case NotificationEvent.GATE_PASSED:
            return _measurements(status)
        case NotificationEvent.STARTED:
            return {}
        case _:
            return _end(status, entry)


def _attempt(status: FineTuneJobStatus, entry: NotificationStatus) -> dict[str, Any]:
    """The failed attempt; nothing where status.attempts no longer lists the attempt."""
    for attempt in status.attempts:
        if entry.id.endswith(f"-{name_of(attempt)}-failed"):
            facts = {
                "stage": attempt.stage,
                "number": attempt.number,
                "class": attempt.failure,
                "reason": attempt.reason,
                "message": attempt.message,
            }
            return {"attempt": {key: value for key, value in facts.items() if value is not None}}
    return {}


def _end(status: FineTuneJobStatus, entry: NotificationStatus) -> dict[str, Any]:
    """How the job ended; nothing where the job has been started again since."""
    if status.completion_time is None or not status.state or ENDS.get(status.state.value) is not entry.event:
        return {}
    summary = condition(status, Condition.SUCCEEDED)
    facts: dict[str, Any] = {
        "phase": status.state.value,
        "reason": summary.reason if summary else None,
        "message": summary.message if summary else None,
        "startTime": _timestamp(status.start_time) if status.start_time else None,
        "completionTime": _timestamp(status.completion_time),
        "attempts": len(status.attempts) + (status.attempts_dropped.total if status.attempts_dropped else 0),
        "model": {"uri": status.model.uri, "digest": status.model.digest}
        if status.model and status.model.uri
        else None,
        "report": status.report,
    }
    known = {key: value for key, value in facts.items() if value is not None}
    return known | _measurements(status)


def _measurements(status: FineTuneJobStatus) -> dict[str, Any]:
    """The figures of the primary metric, and the result of the gate."""
    found: dict[str, Any] = {}
    if measured := status.evaluation:
        figures = {"baseline": measured.baseline, "tuned": measured.tuned, "delta": measured.delta}
        found["metric"] = {
            "name": measured.primary_metric,
            **{name: _primary(scores) for name, scores in figures.items() if scores},
        }
    gate = condition(status, Condition.GATE_PASSED)
    if gate and gate.status != "Unknown":
        found["gate"] = {"passed": gate.status == "True", "message": gate.message}
    return found


def _primary(scores: Scores) -> float:
    return scores.primary


def _timestamp(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
