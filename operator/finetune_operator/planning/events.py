"""Derives Kubernetes Events from the change of a status, so that no Event is posted twice. Pure."""

from collections.abc import Iterable

from finetune_operator.api import AttemptStatus, FineTuneJobStatus
from finetune_operator.names import Condition, Reason
from finetune_operator.objects import Manifest, kept_alive_by
from finetune_operator.planning.lookup import condition, is_condition_true
from finetune_operator.planning.stages import STAGES, stage_of
from finetune_operator.planning.types import Event
from finetune_trainer.contract import InPlaceRestarts

PROBLEMS = {
    Reason.UNSCHEDULABLE,
    Reason.IMAGE_PULL_FAILED,
    Reason.QUOTA_EXCEEDED,
    Reason.POD_SECURITY,
    Reason.PODS_REFUSED,
    Reason.SECRET_MISSING,
    Reason.CONFIG_MAP_MISSING,
    Reason.KEY_MISSING,
    Reason.VOLUME_FAILED,
    Reason.INIT_CONTAINER_FAILED,
    Reason.NAME_CONFLICT,
    Reason.STORE_CHANGED,
    Reason.BASE_JOB_MISSING,
    Reason.PERMISSION_DENIED,
    Reason.DRIFTED,
}
"""Reasons to wait that a person should look into."""
TEXT_LIMIT = 1000
"""The most bytes of a message; the API server allows 1,024."""


def events_between(
    before: FineTuneJobStatus | None, after: FineTuneJobStatus, pods: Iterable[Manifest] = ()
) -> tuple[Event, ...]:
    """The Events of one reconcile; `pods` are the pods of the run."""
    ends = _end_events(before, after)
    attempts = [m for m in _attempt_events(before, after) if not (ends and m.type == "Warning")]
    sidecars = _sidecar_events(pods) if _has_attempt_ended(before, after) else []
    restarts = _restart_events(before, after)
    found = [
        *restarts,
        *attempts,
        *sidecars,
        *_gate_events(before, after),
        *_waiting_events(before, after),
        *ends,
    ]
    return tuple(Event(m.type, m.reason, _cut(m.message)) for m in found)


def describe_sidecars(pod: Manifest) -> str:
    """Names the containers that keep a pod alive after its trainer has ended."""
    found = kept_alive_by(pod)
    who = f"Container {found[0]} keeps" if len(found) == 1 else f"Containers {', '.join(found)} keep"
    return f"{who} pod {pod['metadata']['name']} alive after the trainer ended; the operator deletes the pod."


def _has_attempt_ended(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> bool:
    known = {a.job: a.outcome for a in before.attempts} if before else {}
    return any(
        a.outcome in ("Succeeded", "Failed") and known.get(a.job, "Running") == "Running"
        for a in after.attempts
    )


def _sidecar_events(pods: Iterable[Manifest]) -> list[Event]:
    """A Warning about the first pod of a gang that injected containers keep alive."""
    kept = [pod for pod in pods if kept_alive_by(pod)][:1]
    return [Event("Warning", Reason.SIDECAR_RUNNING, describe_sidecars(pod)) for pod in kept]


def _attempt_events(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> list[Event]:
    known = {a.job: a.outcome for a in before.attempts} if before else {}
    return [
        event for a in after.attempts if a.outcome != known.get(a.job) and (event := _attempt_event(a, after))
    ]


def _attempt_event(attempt: AttemptStatus, after: FineTuneJobStatus) -> Event | None:
    if attempt.outcome == "Failed":
        cause = f"{attempt.stage} attempt {attempt.number}: {attempt.message}"
        return Event("Warning", attempt.reason or Reason.POD_LOST, cause)
    if attempt.outcome == "Resized":
        return Event("Warning", attempt.reason or Reason.CAPACITY_LOST, attempt.message or "")
    if attempt.outcome != "Succeeded":
        return None
    row = STAGES[stage_of(attempt)]
    return Event("Normal", row.condition, row.summarize(after))


def _restart_events(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> list[Event]:
    """A Warning about each attempt that restarted in place since the earlier status."""
    known = {a.job: a.in_place_restarts for a in before.attempts} if before else {}
    return [
        Event("Warning", Reason.RESTARTED_IN_PLACE, describe_restarts(a, now))
        for a in after.attempts
        if (now := a.in_place_restarts) and now.count > (((then := known.get(a.job)) and then.count) or 0)
    ]


def describe_restarts(attempt: AttemptStatus, restarts: InPlaceRestarts) -> str:
    """Describes the restarts in place of an attempt, with the cause of the last restart."""
    times = "once" if restarts.count == 1 else f"{restarts.count} times"
    return (
        f"{attempt.stage} attempt {attempt.number} has restarted in place {times}; the last cause was"
        f" {restarts.reason} (class {restarts.failure})."
    )


def _gate_events(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> list[Event]:
    now = condition(after, Condition.GATE_PASSED)
    if now is None or now.status != "True" or is_condition_true(before, Condition.GATE_PASSED):
        return []
    return [Event("Normal", now.reason, now.message)]


def _waiting_events(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> list[Event]:
    now, then = condition(after, Condition.RUNNING), condition(before, Condition.RUNNING)
    if now is None or now.reason not in PROBLEMS or (then and then.reason == now.reason):
        return []
    return [Event("Warning", now.reason, now.message)]


def _end_events(before: FineTuneJobStatus | None, after: FineTuneJobStatus) -> list[Event]:
    if is_condition_true(after, Condition.SUSPENDED) and not is_condition_true(before, Condition.SUSPENDED):
        return [Event("Normal", Reason.SUSPENDED_BY_USER, after.message or "")]
    if not is_condition_true(after, Condition.FINISHED) or is_condition_true(before, Condition.FINISHED):
        return []
    summary = condition(after, Condition.SUCCEEDED)
    if summary is None or summary.status == "True":
        return []  # the Event of the Publish attempt reports the success
    return [Event("Warning", summary.reason, f"The job has ended. {summary.message}")]


def _cut(text: str) -> str:
    return text.encode()[:TEXT_LIMIT].decode(errors="ignore")
