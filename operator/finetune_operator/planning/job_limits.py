"""The limits spec.failurePolicy.activeDeadline and maxGpuHours, and how much of them is left. Pure.

The figures follow from the status and the time, so a restart of the operator changes no decision.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.api.fields import seconds_of
from finetune_operator.names import Reason
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import PlanInput
from finetune_operator.planning.usage import active_seconds, gpu_seconds
from finetune_operator.planning.wording import duration
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_trainer.contract import Stage

HOUR = 3600


@dataclass(frozen=True)
class Limit:
    """A limit of the job, and how much of it is left."""

    reason: Reason
    left: float
    """Seconds until the limit is reached if the pods go on as now; infinite while nothing counts."""
    message: str
    """What has been used, and the limit."""
    sentence: str
    """The limit without what has been used, which grows while pods stop."""


def reached(inputs: PlanInput) -> Limit | None:
    """The limit that the job has used up; None where no limit is used up."""
    return next((limit for limit in _limits(inputs) if limit.left <= 0), None)


def seconds_left(inputs: PlanInput) -> float | None:
    """Seconds until the running attempt reaches a limit of the job; None without a limit that lies ahead."""
    left = [limit.left for limit in _limits(inputs) if 0 < limit.left < float("inf")]
    return min(left, default=None)


def _limits(inputs: PlanInput) -> Iterator[Limit]:
    """The limits that apply to the running attempt, or else to the next attempt.

    After an attempt was stopped, the limit that stopped the attempt comes first: until all pods have ended,
    the other limit may be reached too.
    """
    last = inputs.status.attempts[-1] if inputs.status.attempts else None
    found = [limit for limit in (_active_deadline(inputs), _gpu_budget(inputs)) if limit]
    yield from sorted(found, key=lambda limit: last is None or last.reason != limit.reason)


def _active_deadline(inputs: PlanInput) -> Limit | None:
    wanted = inputs.job.spec.failure_policy.active_deadline
    stage = stage_of(inputs.running) if inputs.running else inputs.stage
    if wanted is None or stage is Stage.PUBLISH:
        return None
    used = active_seconds(inputs.status, inputs.now)
    left = seconds_of(wanted) - used
    counts = inputs.running is not None and inputs.running.running_since is not None
    return Limit(
        Reason.ACTIVE_DEADLINE_EXCEEDED,
        left if counts or left <= 0 else float("inf"),
        f"The pods of the job ran for {duration(used)}; spec.failurePolicy.activeDeadline is {wanted}.",
        f"The job has reached spec.failurePolicy.activeDeadline, which is {wanted}.",
    )


def _gpu_budget(inputs: PlanInput) -> Limit | None:
    wanted = inputs.job.spec.failure_policy.max_gpu_hours
    running = inputs.running
    stage = stage_of(running) if running else inputs.stage
    if wanted is None or stage is None or not STAGE_PODS[stage].is_gang:
        return None
    used = gpu_seconds(inputs.status, inputs.now)
    held = sum(attempt.gpus_held or 0 for attempt in inputs.status.attempts)
    left = wanted * HOUR - used
    return Limit(
        Reason.GPU_BUDGET_EXHAUSTED,
        left / held if held else left if left <= 0 else float("inf"),
        f"The job used {gpu_hours(used)}; spec.failurePolicy.maxGpuHours is {wanted}.",
        f"The job has reached spec.failurePolicy.maxGpuHours, which is {wanted}.",
    )


def gpu_hours(seconds: float) -> str:
    """Describes a number of GPU seconds in GPU hours."""
    return f"{seconds / HOUR:,.2f} GPU hours"
