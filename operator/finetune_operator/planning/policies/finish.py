"""Ends training early where `spec.finishTraining` is set; the next attempt takes the best weights. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning.stages import finishes, stage_of
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Stops an attempt of Train that makes steps, once the job has a checkpoint.

    The pods save a checkpoint before they end. Without a checkpoint there is nothing to publish, so that the
    attempt goes on until its first checkpoint.
    """
    running = inputs.running
    if running is None or stage_of(running) is not Stage.TRAIN or running.finishes:
        return None
    saved = inputs.observed.progress.checkpoint_step if inputs.observed.progress else None
    if not finishes(inputs.job, inputs.status, inputs.digest) and not (
        inputs.job.spec.finish_training and saved
    ):
        return None
    message = f"spec.finishTraining was set during Train attempt {running.number}."
    return Decision(
        State.WAITING,
        Reason.STOPPING,
        "Train ends early: its pods save a checkpoint and stop. The next attempt publishes the best weights.",
        stop=Stop("Suspended", Reason.FINISHED_BY_USER, message),
        requeue_after=10,
    )
