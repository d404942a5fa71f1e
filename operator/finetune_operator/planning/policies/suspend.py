"""Stops the pods of a job with `spec.suspend`; the results of its stages stay. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning.policies.stopping import hold_while_pods_stop
from finetune_operator.planning.types import Decision, PlanInput, Stop


def check(inputs: PlanInput) -> Decision | None:
    """Holds a suspended job. The operator deletes its Job, so that its pods stop.

    The next attempt of Train resumes from the newest checkpoint; the pods save a checkpoint before they end.
    """
    if not inputs.job.spec.suspend:
        return None
    stage = inputs.running.stage if inputs.running else inputs.stage
    stop = None
    if running := inputs.running:
        message = f"spec.suspend was set during {running.stage} attempt {running.number}."
        stop = Stop("Suspended", Reason.SUSPENDED_BY_USER, message)
    return hold_while_pods_stop(inputs, "Suspending:", stop) or Decision(
        State.SUSPENDED,
        Reason.SUSPENDED_BY_USER,
        f"Suspended by spec.suspend; set it to false to go on with {stage}.",
        stop=stop,
    )
