"""Ends a job, or its training, at failurePolicy.activeDeadline or failurePolicy.maxGpuHours. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning import early_end, job_limits
from finetune_operator.planning.job_limits import Limit, gpu_hours
from finetune_operator.planning.policies import restart
from finetune_operator.planning.policies.stopping import STOPPING_SECONDS, hold_while_pods_stop
from finetune_operator.planning.stages import train_attempts
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.planning.usage import gpu_seconds


def check(inputs: PlanInput) -> Decision | None:
    """Ends a job that has used up a limit.

    The running attempt is stopped first. While its pods save a checkpoint and end, the job waits, so that the
    cause of the end names the checkpoint. If the limit is raised meanwhile, the job goes on: the attempt has
    the outcome Suspended and counts as no failure. A failed or successful attempt keeps its own outcome, and
    a failure after which the stage gets no further attempt is the cause of the end of the job.

    With failurePolicy.onTrainFailure Finish and a checkpoint, the limit ends training and not the job.
    """
    limit = job_limits.reached(inputs)
    if limit is None or _has_other_end(inputs) or restart.gives_up(inputs):
        return None
    stop = None
    if running := inputs.running:
        message = f"{running.stage} attempt {running.number} was stopped: {limit.message}"
        stop = Stop("Suspended", limit.reason, message)
    if early_end.replaces_failure(inputs):
        return _end_training(inputs, limit, stop)
    return hold_while_pods_stop(inputs, limit.sentence, stop) or Decision(
        State.FAILED, limit.reason, f"{limit.message}{_result(inputs, limit)}", stop=stop
    )


def _end_training(inputs: PlanInput, limit: Limit, stop: Stop | None) -> Decision | None:
    """Stops the running attempt; None where no attempt runs, or where the attempt makes no further steps."""
    running = inputs.running
    if running is None or running.finish_cause is not None or early_end.all_steps_done(inputs):
        return None
    message = f"{limit.sentence} Train ends early: its pods save a checkpoint and stop."
    return Decision(State.WAITING, Reason.STOPPING, message, stop=stop, requeue_after=STOPPING_SECONDS)


def _has_other_end(inputs: PlanInput) -> bool:
    """Whether a pod of the running attempt has failed, or all its pods have succeeded.

    The end of the attempt is then recorded first, with its own cause or result.
    """
    return inputs.progress_of_attempt is not None and inputs.progress_of_attempt.kind != "going"


def _result(inputs: PlanInput, limit: Limit) -> str:
    """What the job used and reached until its end, beside the figure of the limit."""
    parts = []
    used = gpu_seconds(inputs.status, inputs.now)
    if used and limit.reason is not Reason.GPU_BUDGET_EXHAUSTED:
        parts.append(f"The job used {gpu_hours(used)}.")
    train = train_attempts(inputs.status.attempts)
    steps = [attempt.step for attempt in train if attempt.step is not None]
    if steps:
        total = f" of {inputs.status.chosen.total_steps}" if inputs.status.chosen else ""
        parts.append(f"Train reached step {max(steps)}{total}.")
    if train:
        saved = early_end.newest_checkpoint(inputs)
        known = "No checkpoint is known" if saved is None else f"The newest checkpoint is of step {saved}"
        parts.append(f"{known}.")
    return "".join(f" {part}" for part in parts)
