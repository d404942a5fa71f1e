"""Ends training before its last step; the next attempt of Train publishes the best weights. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning import early_end
from finetune_operator.planning.policies.stopping import STOPPING_SECONDS, hold_while_pods_stop
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Stops an attempt of Train whose work is not the work that the job asks for.

    With `spec.finishTraining`, an attempt that makes steps is stopped once the job has a checkpoint. The pods
    save a checkpoint before they end. Without a checkpoint there is nothing to publish, so the attempt goes
    on until its first checkpoint. After the last step, the attempt already measures its best weights.

    An attempt without steps is stopped if training is not over any more: `spec.finishTraining` is false
    again, or a change of `spec.failurePolicy` permits further steps.

    An attempt is stopped only if the next attempt can be built, and if no pod has failed: the cause of a
    failure is recorded first. While pods stop, the job waits with the cause of the end of training.
    """
    running = inputs.running
    if running is None:
        return _hold_until_pods_are_gone(inputs)
    going = inputs.progress_of_attempt is not None and inputs.progress_of_attempt.kind == "going"
    if stage_of(running) is not Stage.TRAIN or not going or not isinstance(inputs.resolution, ResolvedRun):
        return None
    if running.finish_cause is not None:
        return None if early_end.training_is_over(inputs) else _train_on(running.number)
    wanted = inputs.job.spec.finish_training and early_end.has_checkpoint(inputs)
    if not wanted or early_end.all_steps_done(inputs):
        return None
    message = f"spec.finishTraining was set during Train attempt {running.number}."
    return Decision(
        State.WAITING,
        Reason.STOPPING,
        "Train ends early: its pods save a checkpoint and stop. The next attempt publishes the best weights.",
        stop=Stop("Suspended", Reason.FINISHED_BY_USER, message),
        requeue_after=STOPPING_SECONDS,
    )


def _hold_until_pods_are_gone(inputs: PlanInput) -> Decision | None:
    if inputs.stage is not Stage.TRAIN or not early_end.finishes(inputs):
        return None
    return hold_while_pods_stop(inputs, f"{early_end.cause(inputs)} Train ends early.", None)


def _train_on(number: int) -> Decision:
    message = (
        "Training is not over any more: spec.finishTraining, spec.failurePolicy or the operator's settings"
        f" changed during Train attempt {number}."
    )
    return Decision(
        State.WAITING,
        Reason.STOPPING,
        message,
        stop=Stop("Suspended", Reason.FINISHED_BY_USER, message),
        requeue_after=STOPPING_SECONDS,
    )
