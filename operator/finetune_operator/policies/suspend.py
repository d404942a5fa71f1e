"""`spec.suspend` stops the run's pods and keeps its results. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.turn import Decision, Stop, Turn, live_run_pods


def check(turn: Turn) -> Decision | None:
    """Holds a suspended job; its Job is deleted, so that its pods save and leave."""
    if not turn.job.spec.suspend:
        return None
    stage = turn.running.stage if turn.running else turn.stage
    stop = None
    if running := turn.running:
        told = f"spec.suspend was set during {running.stage} attempt {running.number}."
        stop = Stop("Suspended", Reason.SUSPENDED_BY_USER, told)
    if pods := live_run_pods(turn):
        return Decision(
            State.WAITING,
            Reason.STOPPING,
            f"Suspending: {len(pods)} {'pod is' if len(pods) == 1 else 'pods are'} still stopping.",
            stop=stop,
            again_in=10,
        )
    return Decision(
        State.SUSPENDED,
        Reason.SUSPENDED_BY_USER,
        f"Suspended by spec.suspend; set it to false to go on with {stage}.",
        stop=stop,
    )
