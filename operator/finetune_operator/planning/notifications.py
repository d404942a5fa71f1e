"""Decides which events of a job are reported to which notification targets. Pure.

The status that shows an event also lists the notifications of the event as Pending. One write therefore
stores both, and a restart of the operator loses no notification. The ids are deterministic, so that a
receiver recognises a notification that arrives twice.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from finetune_operator.api import AttemptStatus, FineTuneJob, FineTuneJobStatus, NotificationStatus
from finetune_operator.names import Condition, NotificationEvent, Reason
from finetune_operator.planning.lookup import is_condition_true
from finetune_operator.planning.types import Blocked, DeliveryResult
from finetune_operator.settings import Settings, allows

MAX_LISTED = 64
"""The most deliveries that a status lists."""
MESSAGE_LIMIT = 256
ENDS = {
    "Succeeded": NotificationEvent.SUCCEEDED,
    "Failed": NotificationEvent.FAILED,
    "GateFailed": NotificationEvent.GATE_FAILED,
}
"""The event of each final state."""


class Happening(NamedTuple):
    """An event of a job, with the id of its notifications."""

    event: NotificationEvent
    id: str


def check(job: FineTuneJob, settings: Settings) -> Blocked | None:
    """The first notification target of a job that is unknown or that the job may not use."""
    for number, wanted in enumerate(job.spec.notifications or ()):
        if reason := _why_refused(job, wanted.target, settings):
            return Blocked(reason, _describe_refusal(job, number, wanted.target, reason, settings))
    return None


def settle(
    job: FineTuneJob, stored: FineTuneJobStatus, results: Iterable[DeliveryResult], settings: Settings
) -> FineTuneJobStatus:
    """Adds the results of deliveries to the stored status of a job."""
    if not stored.notifications:
        return stored
    ended = {(result.id, result.target): result for result in results}
    entries = [_settle(job, entry, ended, settings) for entry in stored.notifications]
    return stored.model_copy(update={"notifications": entries})


def announce(
    job: FineTuneJob, after: FineTuneJobStatus, settings: Settings, now: datetime
) -> FineTuneJobStatus:
    """Adds the notifications of new events to the status that a reconcile writes.

    Args:
        job: the FineTuneJob with its stored status.
        after: the status that the reconcile writes.
        settings: the settings of the operator.
        now: the time of new events.
    """
    known = after.notifications or []
    listed = {(entry.id, entry.target) for entry in known}
    new = [
        entry
        for happening in find_events(job, job.status or FineTuneJobStatus(), after)
        for entry in _notify(job, happening, settings, now)
        if (entry.id, entry.target) not in listed
    ]
    return after.model_copy(update={"notifications": _shorten([*known, *new])}) if new else after


def is_pending(status: FineTuneJobStatus) -> bool:
    """Whether the status lists a notification that is not delivered yet."""
    return any(entry.state == "Pending" for entry in status.notifications or ())


def find_events(job: FineTuneJob, before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Happening]:
    """Returns the events between two statuses of a job, in the order in which they happened."""
    uid, generation = job.metadata["uid"], job.metadata["generation"]
    if after.start_time and not before.start_time:
        yield Happening(NotificationEvent.STARTED, f"{uid}-started")
    outcomes = {attempt.job: attempt.outcome for attempt in before.attempts}
    for attempt in after.attempts:
        if attempt.outcome == "Failed" and outcomes.get(attempt.job) != "Failed":
            yield Happening(NotificationEvent.ATTEMPT_FAILED, f"{uid}-{name_of(attempt)}-failed")
    if is_condition_true(after, Condition.GATE_PASSED) and not is_condition_true(
        before, Condition.GATE_PASSED
    ):
        yield Happening(NotificationEvent.GATE_PASSED, f"{uid}-{generation}-gatepassed")
    if after.completion_time and not before.completion_time and after.state:
        yield Happening(ENDS[after.state.value], f"{uid}-{generation}-{after.state.value.lower()}")


def name_of(attempt: AttemptStatus) -> str:
    """The name of an attempt in ids, such as train-2."""
    return f"{attempt.stage.lower()}-{attempt.number}"


def _notify(
    job: FineTuneJob, happening: Happening, settings: Settings, now: datetime
) -> Iterator[NotificationStatus]:
    """The notifications of one event, one for each target that receives the event."""
    for target in _targets_of(job, happening.event, settings):
        refusal = _why_lost(job, target, settings)
        yield NotificationStatus(
            id=happening.id,
            target=target,
            event=happening.event,
            time=now.replace(microsecond=0),
            state="Failed" if refusal else "Pending",
            message=refusal,
        )


def _targets_of(job: FineTuneJob, event: NotificationEvent, settings: Settings) -> list[str]:
    """The names of the targets that receive an event of a job, also those that are unknown or forbidden."""
    targets, namespace = settings.notifications.targets, job.metadata["namespace"]
    named = [
        wanted.target
        for wanted in job.spec.notifications or ()
        if event in (wanted.events or NotificationEvent)
        and (wanted.target not in targets or event in targets[wanted.target].events)
    ]
    told_of_all = [
        name
        for name, target in sorted(targets.items())
        if target.all_jobs and event in target.events and allows(target.allowed_namespaces, namespace)
    ]
    return list(dict.fromkeys([*named, *told_of_all]))


def _settle(
    job: FineTuneJob,
    entry: NotificationStatus,
    ended: dict[tuple[str, str], DeliveryResult],
    settings: Settings,
) -> NotificationStatus:
    """A delivery with its result; a delivery to a target that the settings no longer allow has failed."""
    if entry.state != "Pending":
        return entry
    if result := ended.get((entry.id, entry.target)):
        failure = result.failure
    elif (lost := _why_lost(job, entry.target, settings)) is not None:
        failure = lost
    else:
        return entry
    state = "Delivered" if failure is None else "Failed"
    return entry.model_copy(update={"state": state, "message": failure and failure[:MESSAGE_LIMIT]})


def _shorten(entries: list[NotificationStatus]) -> list[NotificationStatus]:
    """Leaves out the oldest deliveries: first those that have ended."""
    surplus = len(entries) - MAX_LISTED
    if surplus <= 0:
        return entries
    order = sorted(range(len(entries)), key=lambda index: (entries[index].state == "Pending", index))
    left_out = set(order[:surplus])
    return [entry for index, entry in enumerate(entries) if index not in left_out]


def _why_refused(job: FineTuneJob, target: str, settings: Settings) -> Reason | None:
    if target not in settings.notifications.targets:
        return Reason.NOTIFICATION_TARGET_UNKNOWN
    if not allows(settings.notifications.targets[target].allowed_namespaces, job.metadata["namespace"]):
        return Reason.NOTIFICATION_TARGET_FORBIDDEN
    return None


def _why_lost(job: FineTuneJob, target: str, settings: Settings) -> str | None:
    """Why a notification cannot be delivered: the settings have no such target for the namespace."""
    if _why_refused(job, target, settings) is None:
        return None
    return "The operator's settings have no such notification target for this namespace."


def _describe_refusal(job: FineTuneJob, number: int, target: str, reason: Reason, settings: Settings) -> str:
    field, namespace = f"spec.notifications[{number}].target", job.metadata["namespace"]
    allowed = [
        name
        for name, known in sorted(settings.notifications.targets.items())
        if allows(known.allowed_namespaces, namespace)
    ]
    way_out = (
        f"Name one of these: {', '.join(allowed)}."
        if allowed
        else "Leave out spec.notifications, or ask the admin of the operator for a target."
    )
    if reason is Reason.NOTIFICATION_TARGET_UNKNOWN:
        return f"{field}: there is no notification target {target!r}. {way_out}"
    return f"{field}: jobs of namespace {namespace} may not use notification target {target!r}. {way_out}"
