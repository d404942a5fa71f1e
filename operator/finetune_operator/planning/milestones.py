"""PURE. Derives the milestones of a run that the metrics count, from two successive statuses.

A milestone is counted once, when the operator has written the status that shows the milestone. If the process
is killed between the write and the count, the milestone is missing from the metrics.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from finetune_operator.api import AttemptStatus, FineTuneJob, FineTuneJobStatus
from finetune_operator.names import Condition
from finetune_operator.objects import moment
from finetune_operator.planning.lookup import condition
from finetune_trainer.contract import Stage

MetricName = Literal[
    "finetune_jobs_finished",
    "finetune_attempts",
    "finetune_gpu_seconds",
    "finetune_gates",
    "finetune_queue_wait_seconds",
    "finetune_stage_duration_seconds",
    "finetune_time_to_first_step_seconds",
    "finetune_recovery_seconds",
    "finetune_resumed_attempts",
    "finetune_lost_steps",
    "finetune_in_place_restarts",
]


RESTARTED_IN_PLACE = "RestartedInPlace"
"""Value of the label `outcome` for the lost steps of attempts that restarted in place and went on."""


@dataclass(frozen=True)
class Milestone:
    """An increment of a counter, or an observation of a histogram."""

    metric: MetricName
    labels: Mapping[str, str] = field(default_factory=dict)
    value: float = 1.0


def find_milestones(
    job: FineTuneJob, before: FineTuneJobStatus | None, after: FineTuneJobStatus
) -> tuple[Milestone, ...]:
    """Returns the milestones between two statuses.

    Args:
        job: the FineTuneJob.
        before: the status before the write; None for a new job.
        after: the status that was written.
    """
    before = before or FineTuneJobStatus()
    namespace = str(job.metadata["namespace"])
    return (
        *_attempts(before, after),
        *_gpu_seconds(namespace, before, after),
        *_resumes(namespace, before, after),
        *_losses(namespace, before, after),
        *_restarts_in_place(namespace, before, after),
        *_first_step(job, before, after),
        *_gate(namespace, before, after),
        *_end(job, namespace, before, after),
    )


def _attempts(before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Milestone]:
    known = {attempt.job: attempt for attempt in before.attempts}
    for index, attempt in enumerate(after.attempts):
        earlier = known.get(attempt.job)
        stage = {"stage": attempt.stage}
        if attempt.running_since and not (earlier and earlier.running_since):
            waited = _seconds(attempt.start_time, attempt.running_since)
            yield Milestone("finetune_queue_wait_seconds", stage, waited)
            if failed := _failure_before(after.attempts[:index], attempt):
                yield Milestone("finetune_recovery_seconds", stage, _seconds(failed, attempt.running_since))
        if attempt.outcome == "Running" or (earlier and earlier.outcome != "Running"):
            continue
        labels = {
            **stage,
            "outcome": attempt.outcome,
            "class": attempt.failure or "",
            "node": attempt.node or "",
        }
        yield Milestone("finetune_attempts", labels)
        if attempt.outcome == "Succeeded" and attempt.end_time:
            same = [
                a for a in after.attempts if (a.stage, a.spec_digest) == (attempt.stage, attempt.spec_digest)
            ]
            duration = _seconds(same[0].start_time, attempt.end_time)
            yield Milestone("finetune_stage_duration_seconds", stage, duration)


def _gpu_seconds(namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Milestone]:
    """The GPU time of each attempt by use, counted when no pod of the attempt holds a GPU any more."""
    known = {attempt.job for attempt in before.attempts if _has_released_gpus(attempt)}
    for attempt in after.attempts:
        if attempt.gpu_seconds and _has_released_gpus(attempt) and attempt.job not in known:
            for use, held in attempt.gpu_seconds:
                if use != "total" and held:
                    yield Milestone("finetune_gpu_seconds", {"namespace": namespace, "use": use}, held)


def _has_released_gpus(attempt: AttemptStatus) -> bool:
    return attempt.outcome != "Running" and attempt.gpu_seconds is not None and not attempt.gpus_held


def _failure_before(earlier: list[AttemptStatus], attempt: AttemptStatus) -> datetime | None:
    """The end of the attempt before this attempt, if that attempt failed in the same stage."""
    last = earlier[-1] if earlier else None
    if last and last.outcome == "Failed" and last.stage == attempt.stage:
        return last.end_time
    return None


def _resumes(namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Milestone]:
    known = {attempt.job for attempt in before.attempts if attempt.resumed_from_step is not None}
    for attempt in after.attempts:
        if attempt.resumed_from_step is not None and attempt.job not in known:
            yield Milestone("finetune_resumed_attempts", {"namespace": namespace})


def _losses(namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Milestone]:
    """The lost steps of each attempt, counted when they are final."""
    known = {attempt.job for attempt in _final_losses(before)}
    for attempt in _final_losses(after):
        if attempt.job not in known:
            labels = {"namespace": namespace, "outcome": attempt.outcome, "class": attempt.failure or ""}
            yield Milestone("finetune_lost_steps", labels, attempt.lost_steps or 0)


def _restarts_in_place(
    namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus
) -> Iterator[Milestone]:
    """The new restarts in place, and the optimizer steps that they repeat."""
    known = {attempt.job: attempt.in_place_restarts for attempt in before.attempts}
    for attempt in after.attempts:
        now, then = attempt.in_place_restarts, known.get(attempt.job)
        if now is None or (new := now.count - (then.count if then else 0)) <= 0:
            continue
        labels = {"namespace": namespace, "class": now.failure.value}
        yield Milestone("finetune_in_place_restarts", labels, new)
        if lost := max(0, now.lost_steps - (then.lost_steps if then else 0)):
            yield Milestone("finetune_lost_steps", {**labels, "outcome": RESTARTED_IN_PLACE}, lost)


def _final_losses(status: FineTuneJobStatus) -> list[AttemptStatus]:
    """The attempts of Train that lost steps, without an attempt whose pods may still save a checkpoint."""
    train = [attempt for attempt in status.attempts if attempt.stage == Stage.TRAIN.value]
    final = train if status.completion_time else train[:-1]
    return [attempt for attempt in final if attempt.lost_steps]


def _first_step(job: FineTuneJob, before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Milestone]:
    """The first optimizer step of the first Train attempt."""
    train = [attempt for attempt in after.attempts if attempt.stage == Stage.TRAIN.value]
    progress, created = after.progress, moment(job.metadata.get("creationTimestamp"))
    first = len(train) == 1 and train[0].number == 1 and train[0].outcome == "Running"
    first = first and train[0].in_place_restarts is None
    stepped = before.progress is not None and bool(before.progress.step)
    if first and progress and progress.step and not stepped and created:
        yield Milestone("finetune_time_to_first_step_seconds", value=_seconds(created, progress.updated))


def _gate(namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Milestone]:
    was, now = (condition(status, Condition.GATE_PASSED) for status in (before, after))
    decided = {"True", "False"}
    if now and now.status in decided and not (was and was.status in decided):
        result = "passed" if now.status == "True" else "missed"
        yield Milestone("finetune_gates", {"namespace": namespace, "result": result})


def _end(
    job: FineTuneJob, namespace: str, before: FineTuneJobStatus, after: FineTuneJobStatus
) -> Iterator[Milestone]:
    if before.completion_time or not after.completion_time:
        return
    succeeded = condition(after, Condition.SUCCEEDED)
    labels = {
        "namespace": namespace,
        "task": job.spec.task,
        "method": job.spec.method.type,
        "outcome": after.state.value if after.state else "",
        "reason": succeeded.reason if succeeded else "",
    }
    yield Milestone("finetune_jobs_finished", labels)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
