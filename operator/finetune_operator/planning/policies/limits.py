"""Ends a job that has used up spec.failurePolicy.activeDeadline or spec.failurePolicy.maxGpuHours. Pure.

The figures follow from the status and the time, so a restart of the operator changes no decision.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.api.fields import seconds_of
from finetune_operator.names import Reason, State
from finetune_operator.planning.policies import restart
from finetune_operator.planning.policies.stopping import hold_while_pods_stop
from finetune_operator.planning.stages import stage_of, train_attempts
from finetune_operator.planning.types import Decision, PlanInput, Stop
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
    reached: str
    """The limit without what has been used, which grows while pods stop."""


def check(inputs: PlanInput) -> Decision | None:
    """Ends a job that has used up a limit.

    The running attempt is stopped first. While its pods save a checkpoint and end, the job waits, so that the
    cause of the end names the checkpoint. If the limit is raised meanwhile, the job goes on: the attempt has
    the outcome Suspended and counts as no failure. A failed or successful attempt keeps its own outcome, and
    a failure after which the stage gets no further attempt is the cause of the end of the job.
    """
    limit = next((each for each in _limits(inputs) if each.left <= 0), None)
    if limit is None or _has_other_end(inputs) or restart.gives_up(inputs):
        return None
    stop = None
    if running := inputs.running:
        message = f"{running.stage} attempt {running.number} was stopped: {limit.message}"
        stop = Stop("Suspended", limit.reason, message)
    return hold_while_pods_stop(inputs, limit.reached, stop) or Decision(
        State.FAILED, limit.reason, f"{limit.message}{_result(inputs, limit)}", stop=stop
    )


def seconds_left(inputs: PlanInput) -> float | None:
    """Seconds until the running attempt reaches a limit of the job; None without a limit."""
    left = [limit.left for limit in _limits(inputs) if limit.left != float("inf")]
    return min(left, default=None)


def _has_other_end(inputs: PlanInput) -> bool:
    """Whether a pod of the running attempt has failed, or all its pods have succeeded.

    The end of the attempt is then recorded first, with its own cause or result.
    """
    return inputs.progress_of_attempt is not None and inputs.progress_of_attempt.kind != "going"


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
        f"The job used {_gpu_hours(used)}; spec.failurePolicy.maxGpuHours is {wanted}.",
        f"The job has reached spec.failurePolicy.maxGpuHours, which is {wanted}.",
    )


def _result(inputs: PlanInput, limit: Limit) -> str:
    """What the job used and reached until its end, beside the figure of the limit."""
    parts = []
    used = gpu_seconds(inputs.status, inputs.now)
    if used and limit.reason is not Reason.GPU_BUDGET_EXHAUSTED:
        parts.append(f"The job used {_gpu_hours(used)}.")
    train = train_attempts(inputs.status.attempts)
    steps = [attempt.step for attempt in train if attempt.step is not None]
    if steps:
        total = f" of {inputs.status.chosen.total_steps}" if inputs.status.chosen else ""
        parts.append(f"Train reached step {max(steps)}{total}.")
    if train:
        saved = train[-1].checkpoint_step
        known = "No checkpoint is known" if saved is None else f"The newest checkpoint is of step {saved}"
        parts.append(f"{known}.")
    return "".join(f" {part}" for part in parts)


def _gpu_hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.2f} GPU hours"
