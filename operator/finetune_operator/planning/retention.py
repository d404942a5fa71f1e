"""Decides which objects of a finished job are deleted, and when. Pure."""

from dataclasses import dataclass

from finetune_operator.api.fields import seconds_of
from finetune_operator.names import Condition
from finetune_operator.objects import since
from finetune_operator.planning.lookup import condition, is_condition_true, jobs_of, reference
from finetune_operator.planning.notifications import is_pending
from finetune_operator.planning.stages import STAGES, is_frozen
from finetune_operator.planning.types import PlanInput, Reference
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import Stage


@dataclass(frozen=True)
class Removal:
    """The objects of a finished job to delete now, and the seconds until the next reconcile."""

    delete: tuple[Reference, ...] = ()
    requeue_after: float | None = None


def has_ended(inputs: PlanInput) -> bool:
    """Whether the job has finished and does not start again.

    A finished job stays finished, with one exception: a user may correct the spec of a job that failed before
    a Train pod ran. If the changed spec asks for another run, the job starts again.
    """
    finished = condition(inputs.job.status, Condition.FINISHED)
    if finished is None or finished.status != "True":
        return False
    return not (
        not is_condition_true(inputs.job.status, Condition.SUCCEEDED)
        and finished.observed_generation < inputs.job.metadata["generation"]
        and not is_frozen(inputs.job.status)
        and (
            not isinstance(inputs.resolution, ResolvedRun)
            or not inputs.status.attempts
            or inputs.status.attempts[-1].spec_digest != inputs.digest
        )
    )


def removal(inputs: PlanInput) -> Removal:
    """The children of a finished job after ttl.podsAfterFinished, the FineTuneJob after ttl.afterFinished.

    The deletion of a Job deletes its pods and their logs. The cleanup record stays. The FineTuneJob stays
    while a notification is pending: its status is the only durable list of pending notifications.
    """
    ttl, meta = inputs.job.spec.ttl, inputs.job.metadata
    passed = since(inputs.status.completion_time or inputs.now, inputs.now)
    observed = inputs.observed
    children = [
        child
        for child in (
            *jobs_of(inputs.job, observed, *STAGES, Stage.READBACK),
            *observed.services,
            *observed.network_policies,
        )
        if not child["metadata"].get("deletionTimestamp")
    ]
    timers: list[float] = []
    delete: list[Reference] = []
    if children:
        if (left := seconds_of(ttl.pods_after_finished) - passed) <= 0:
            delete += [reference(child) for child in children]
        else:
            timers.append(left)
    if ttl.after_finished is not None:
        if (left := seconds_of(ttl.after_finished) - passed) > 0:
            timers.append(left)
        elif not is_pending(inputs.status):
            delete.append(Reference("FineTuneJob", meta["name"], meta["uid"]))
    return Removal(tuple(delete), min(timers, default=None))
