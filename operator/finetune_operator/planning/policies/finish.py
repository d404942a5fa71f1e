"""Ends training early where `spec.finishTraining` is set; the next attempt takes the best weights. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning import early_end
from finetune_operator.planning.policies.stopping import STOPPING_SECONDS
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Stops an attempt of Train whose work is not the work that `spec.finishTraining` asks for.

    An attempt that makes steps is stopped once the job has a checkpoint. The pods save a checkpoint before
    they end. Without a checkpoint there is nothing to publish, so the attempt goes on until its first
    checkpoint. After the last step, the attempt already measures its best weights.

    An attempt that finishes is stopped if training is not over any more: `spec.finishTraining` is false
    again, or a change of `spec.failurePolicy` permits further steps.

    An attempt is stopped only if the next attempt can be built, and if no pod has failed: the cause of a
    failure is recorded first.
    """
    running, progress = inputs.running, inputs.progress_of_attempt
    if running is None or stage_of(running) is not Stage.TRAIN:
        return None
    if not isinstance(inputs.resolution, ResolvedRun) or progress is None or progress.kind != "going":
        return None
    if running.finishes:
        return None if early_end.is_over(inputs) else _train_on(running.number)
    if not inputs.job.spec.finish_training or early_end.all_steps_done(inputs):
        return None
    if not early_end.has_checkpoint(inputs.status, inputs.digest) and not _has_checkpoint(inputs):
        return None
    message = f"spec.finishTraining was set during Train attempt {running.number}."
    return Decision(
        State.WAITING,
        Reason.STOPPING,
        early_end.ANNOUNCEMENT,
        stop=Stop("Suspended", Reason.FINISHED_BY_USER, message),
        requeue_after=STOPPING_SECONDS,
    )


def _train_on(number: int) -> Decision:
    message = f"spec.finishTraining or spec.failurePolicy changed during Train attempt {number}."
    return Decision(
        State.WAITING,
        Reason.STOPPING,
        f"{message} The next attempt resumes training.",
        stop=Stop("Suspended", Reason.FINISHED_BY_USER, message),
        requeue_after=STOPPING_SECONDS,
    )


def _has_checkpoint(inputs: PlanInput) -> bool:
    """Whether the running attempt has reported a checkpoint: now, or in the stored progress."""
    reports = (inputs.observed.progress, inputs.status.progress)
    return any(report.checkpoint_step for report in reports if report)
