"""Limits how long a Job waits for its pods and how long they run. Time in a queue does not count. Pure."""

from datetime import datetime

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason, State
from finetune_operator.objects import Manifest, condition_true, moment, pods_of, since
from finetune_operator.planning import gang_size, pending
from finetune_operator.planning.lookup import find_job, readback_name
from finetune_operator.planning.stages import STAGES, stage_of
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Ends a job whose running attempt has passed its deadline."""
    left = remaining(inputs)
    if left is None or left[0] > 0 or inputs.running is None:
        return None
    running, (_, detail) = inputs.running, left
    message = f"{running.stage} attempt {running.number}: {detail}"
    return Decision(
        State.FAILED,
        Reason.DEADLINE_EXCEEDED,
        message,
        stop=Stop("Failed", Reason.DEADLINE_EXCEEDED, message),
    )


def remaining(inputs: PlanInput) -> tuple[float, str] | None:
    """Seconds until the deadline of the running attempt, and the message for an attempt that misses it."""
    if inputs.running is None or (
        inputs.progress_of_attempt and inputs.progress_of_attempt.kind == "collecting"
    ):
        return None
    lost = inputs.progress_of_attempt is not None and inputs.progress_of_attempt.kind == "lost"
    name = readback_name(inputs, inputs.running) if lost else inputs.running.job
    job = find_job(inputs.observed, name)
    if job is None or is_queued(job):
        return None
    start = job_start(job) if lost else inputs.running.running_since or job_start(job)
    waits = pending.find_reason(job, pods_of(inputs.observed.pods, job), inputs.observed.events)
    if waits and (lost or not inputs.running.running_since):
        limit = inputs.settings.deadlines.pods_start + _extra_seconds(inputs, inputs.running)
        detail = f"its pods did not all start within {limit} s. {waits.message}"
    else:
        limit = STAGES[stage_of(inputs.running)].deadline(inputs.settings.deadlines)
        detail = (
            f"it did not end within {limit} s, the deadline in the operator's settings (deadlines): reduce"
            " the work, or ask the admin to raise the deadline."
        )
    return (limit - since(start, inputs.now), detail) if start else None


def _extra_seconds(inputs: PlanInput, attempt: AttemptStatus) -> int:
    """How much longer the pods of an attempt may take to start, because its gang may shrink."""
    return gang_size.extra_seconds(inputs.job, attempt.nodes) if stage_of(attempt) is Stage.TRAIN else 0


def is_queued(job: Manifest) -> bool:
    """Whether the Job is suspended, or is admitted and the Job controller has not yet seen the admission.

    The Job controller removes the condition Suspended in the same write that sets status.startTime. Until
    that write the Job has only its creation time, which may be days before its admission.
    """
    return bool(job["spec"].get("suspend") or condition_true(job, "Suspended"))


def job_start(job: Manifest) -> datetime | None:
    """When a Job began: its creation, or its admission by a queue.

    The control plane writes both times. Times of pods come from the clocks of their nodes and do not count.
    """
    times = (moment(job["metadata"].get("creationTimestamp")), moment(job.get("status", {}).get("startTime")))
    return max((t for t in times if t), default=None)
