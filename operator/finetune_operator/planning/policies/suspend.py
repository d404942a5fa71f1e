"""Stops the pods of a job with `spec.suspend`; the results of its stages stay. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.planning.lookup import live_run_pods
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.planning.wording import count


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
    if pods := live_run_pods(inputs):
        return Decision(
            State.WAITING,
            Reason.STOPPING,
            f"Suspending: {count(len(pods), 'pod is', 'pods are')} still stopping.",
            stop=stop,
            requeue_after=10,
        )
    return Decision(
        State.SUSPENDED,
        Reason.SUSPENDED_BY_USER,
        f"Suspended by spec.suspend; set it to false to go on with {stage}.",
        stop=stop,
    )
