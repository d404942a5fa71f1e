"""Stops an attempt that was made for an earlier spec, until the spec is frozen. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning.stages import is_frozen
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.rendering.trainer_config import ResolvedRun


def check(inputs: PlanInput) -> Decision | None:
    """Stops an attempt that was made for an earlier spec.

    A Train attempt whose pods wait for a node is superseded like a Prepare attempt. A Train attempt whose
    pods run is superseded too, as long as the stored status has no training start time: the API server has
    admitted the edit, so training starts again. The fields that may be changed at any time do not affect the
    run.
    """
    running = inputs.running
    if (
        running is None
        or is_frozen(inputs.job.status)
        or not isinstance(inputs.resolution, ResolvedRun)
        or running.spec_digest == inputs.digest
    ):
        return None
    message = "The spec was changed: Prepare starts again for the new spec."
    return Decision(
        State.PREPARING,
        Reason.SPEC_CHANGED,
        message,
        stop=Stop("Superseded", Reason.SPEC_CHANGED, message),
        requeue_after=1,
    )
