"""Fails a job whose stage gets no further attempt; holds a job until its next attempt. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.objects import distance
from finetune_operator.planning import divergence, early_end
from finetune_operator.planning.restart_budget import delay
from finetune_operator.planning.stages import CHECKPOINT_MISSING
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.planning.verdict import cause_of, verdict
from finetune_operator.rendering.trainer_config import uid_of
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Applies the verdict on the failures of the current stage, and the back-off.

    The first attempt without steps follows the last failure of training at once.
    """
    stage = inputs.stage
    if inputs.running or stage is None:
        return None
    if refused := verdict(inputs, stage, early_end.tries_of_next(inputs)):
        message = _with_end_of_training(inputs, refused.message)
        return Decision(State.FAILED, refused.reason, message + _where_to_look(inputs))
    tries = early_end.tries_of(inputs, stage)
    if not tries or tries[-1].outcome != "Failed":
        return None
    last = tries[-1]
    if stage is Stage.TRAIN and last.finish_cause is None and early_end.finishes(inputs):
        return None
    left = delay(tries, uid_of(inputs.job)) - distance(last.end_time or inputs.now, inputs.now)
    if left <= 0:
        return None
    skip = divergence.step_to_skip(tries)
    how = f"is tried again shortly, without step {skip}" if skip else "is tried again shortly"
    message = f"{stage} attempt {last.number} failed and {how}. {cause_of(last)}"
    return Decision(State.WAITING, Reason.RETRYING, message, requeue_after=left)


def _with_end_of_training(inputs: PlanInput, message: str) -> str:
    """The cause of the failure of a job, with the facts about its attempts of Train without steps."""
    last = inputs.status.attempts[-1]
    if last.reason == CHECKPOINT_MISSING:
        return f"{message} Train attempt {last.number} found no checkpoint to publish."
    return f"{last.finish_cause} {message}" if last.finish_cause else message


def gives_up(inputs: PlanInput) -> bool:
    """Whether nothing runs and the current stage gets no further attempt because of its failures."""
    if inputs.running or inputs.stage is None:
        return False
    return verdict(inputs, inputs.stage, early_end.tries_of_next(inputs)) is not None


def _where_to_look(inputs: PlanInput) -> str:
    """The command that shows the log of the last pod, if the pod left no message of its own."""
    last = inputs.status.attempts[-1] if inputs.status.attempts else None
    if last is None or last.pod is None or last.reason not in (Reason.TRAINER_DIED, last.failure):
        return ""
    kept = inputs.job.spec.ttl.pods_after_finished
    command = f"kubectl -n {inputs.job.metadata['namespace']} logs {last.pod}"
    return f" Its log stays for {kept} (spec.ttl.podsAfterFinished): {command}."
