"""A changed spec supersedes the attempt that was made for the old one, until the spec is frozen. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning.stages import is_frozen
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.rendering.trainer_config import ResolvedRun


def check(inputs: PlanInput) -> Decision | None:
    """Stops an attempt that was made for another run than the spec asks for.

    A Train attempt whose pods wait for a node is superseded like a Prepare attempt. So is a Train attempt
    whose pods run while the stored status does not say so yet: the API server has admitted the edit, so the
    edit counts, and training starts again. The fields that may be changed at any time are no part of a run.
    """
    running = inputs.running
    if (
        running is None
        or is_frozen(inputs.job.status)
        or not isinstance(inputs.resolution, ResolvedRun)
        or running.spec_digest == inputs.digest
    ):
        return None
    message = "The spec was changed: Prepare starts again for the new one."
    return Decision(
        State.PREPARING,
        Reason.SPEC_CHANGED,
        message,
        stop=Stop("Superseded", Reason.SPEC_CHANGED, message),
        requeue_after=1,
    )
