"""A changed spec replaces what was begun for the old one, until training has begun. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Stops an attempt that was made for another run than the spec asks for.

    A Train attempt that the status does not show yet counts as not begun: the API server let the spec be
    changed because it had not heard of it. `suspend` and `ttl` are no part of a run.
    """
    running = inputs.running
    if (
        running is None
        or not isinstance(inputs.resolution, ResolvedRun)
        or running.spec_digest == inputs.digest
    ):
        return None
    stored = {a.job for a in inputs.job.status.attempts} if inputs.job.status else set()
    if stage_of(running) is not Stage.PREPARE and running.job in stored:
        return None
    message = "The spec was changed: Prepare starts again for the new one."
    return Decision(
        State.PREPARING,
        Reason.SPEC_CHANGED,
        message,
        stop=Stop("Superseded", Reason.SPEC_CHANGED, message),
        requeue_after=1,
    )
