"""Decides the next step of the cleanup of a deleted run. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from finetune_operator.names import Reason
from finetune_operator.objects import Manifest, condition_true, kept_alive_by, pods_of, terminated
from finetune_operator.planning import pending, store_access
from finetune_operator.planning.failure_classification import cause_of
from finetune_operator.planning.pending import Waiting
from finetune_operator.planning.termination_messages import Expected, Unreadable, message_of
from finetune_operator.planning.types import Blocked, Event
from finetune_operator.rendering.cleanup_record import CleanupRecord
from finetune_operator.rendering.jobs import profile_of
from finetune_operator.settings import Settings
from finetune_trainer.contract import Stage


@dataclass(frozen=True)
class CleanupStep:
    """The next step for one cleanup record, and the message about it.

    `wait`: the run still has Jobs or pods. `start`: create the cleanup Job. `running`: the Job runs.
    `completed`: no object is left in S3, delete the record. `failed`: the Job failed; Kubernetes removes the
    Job after its ttl, and the next step is `start` again.
    """

    kind: Literal["wait", "start", "running", "completed", "failed"]
    event: Event | None = None
    delete_job: bool = False
    """Whether the cleanup Job and its pods are deleted now instead of after the ttl of the Job."""


def next_step(
    record: CleanupRecord,
    job: Manifest | None,
    pods: tuple[Manifest, ...],
    events: tuple[Manifest, ...],
    *,
    settings: Settings,
    run_left: bool,
    now: datetime,
) -> CleanupStep:
    """The next step for a record whose FineTuneJob is gone.

    Args:
        record: the cleanup record.
        job: the cleanup Job of the record; None where no such Job exists.
        pods: the pods of the run.
        events: core/v1 Events about the cleanup Job and its pods.
        settings: the settings of the operator.
        run_left: whether the run has pods left, or Jobs that may still create pods.
        now: the current time.
    """
    if job is None:
        if run_left:
            return CleanupStep("wait")
        blocked = store_access.check(record.job, settings, profile_of(record, settings))
        return CleanupStep("wait", _waiting_event(record, blocked)) if blocked else CleanupStep("start")
    own = pods_of(pods, job)
    expected = Expected(Stage.CLEANUP, record.number, record.run.digest(), record.run)
    done = [pod for pod in own if (terminated(pod) or {}).get("exitCode") == 0]
    if done or condition_true(job, "Complete"):
        summary = _success_message(own, expected) or "The cleanup Job has succeeded"
        event = Event("Normal", Reason.CLEANED_UP, f"{summary}: {record.prefix}")
        # An injected container would keep the pod alive forever.
        return CleanupStep("completed", event, delete_job=any(kept_alive_by(pod) for pod in done))
    if failed := condition_true(job, "Failed"):
        causes = [cause.message for pod in own if (cause := cause_of(pod, expected, now))]
        message = _failure_message(
            record, causes[-1] if causes else failed.get("message", "the cleanup Job failed")
        )
        return CleanupStep("failed", Event("Warning", Reason.CLEANUP_FAILED, message))
    waits = pending.find_reason(job, own, events)
    return CleanupStep("running", _waiting_event(record, waits) if waits and waits.problem else None)


def _waiting_event(record: CleanupRecord, obstacle: Waiting | Blocked) -> Event:
    kind: Literal["Normal", "Warning"] = "Normal" if obstacle.reason == Reason.QUEUED else "Warning"
    return Event(kind, obstacle.reason, f"The cleanup of {record.prefix} waits: {obstacle.message}")


def _failure_message(record: CleanupRecord, cause: str) -> str:
    return (
        f"The objects below {record.prefix} could not be deleted: {cause.rstrip('.')}. Cleanup is tried again"
        " within an hour. Remove the cause; or delete the objects by hand, and then ControllerRevision"
        f" {record.job.metadata['namespace']}/{record.name}."
    )


def _success_message(pods: list[Manifest], expected: Expected) -> str | None:
    """The message of the pod that succeeded; None where no pod has a readable message."""
    for pod in reversed(pods):
        try:
            message = message_of(pod, expected)
        except Unreadable:
            continue
        if message.message:
            return message.message.rstrip(".")
    return None
