"""Holds the next attempt until the pods of the previous attempt are gone. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.objects import kept_alive_by
from finetune_operator.planning.events import describe_sidecars
from finetune_operator.planning.lookup import is_over, jobs_of, live_run_pods
from finetune_operator.planning.stages import STAGES
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.planning.wording import count
from finetune_trainer.contract import Stage

STOPPING_SECONDS = 10
"""Seconds until the next reconcile while pods stop."""


def hold_while_pods_stop(inputs: PlanInput, why: str, stop: Stop | None) -> Decision | None:
    """Holds a job whose pods must end first; None where no pod of the run is alive.

    Args:
        inputs: the input of the reconcile.
        why: why the pods stop; the message continues with the number of pods.
        stop: the outcome with which the running attempt ends; None where no attempt runs.
    """
    pods = live_run_pods(inputs)
    if not pods:
        return None
    message = f"{why} {count(len(pods), 'pod is', 'pods are')} still stopping."
    return Decision(State.WAITING, Reason.STOPPING, message, stop=stop, requeue_after=STOPPING_SECONDS)


def check(inputs: PlanInput) -> Decision | None:
    """Holds a job while pods of ended attempts exist.

    Two gangs of one run would compete for GPUs and nodes. The operator does not wait forever for a pod whose
    node does not answer: each attempt writes to its own folder in S3.
    """
    if inputs.running:
        return None
    pods = live_run_pods(inputs)
    jobs = jobs_of(inputs.job, inputs.observed, *STAGES, Stage.READBACK)
    if unfinished := [j for j in jobs if not is_over(inputs, j)] if not pods else []:
        message = f"Waiting for Job {unfinished[0]['metadata']['name']} of an earlier attempt to go."
        return Decision(State.WAITING, Reason.STOPPING, message, requeue_after=STOPPING_SECONDS)
    if not pods:
        return None
    first = pods[0]["metadata"]["name"]
    message = f"Waiting for {count(len(pods), 'pod')} of an earlier attempt to end: {first}."
    if kept := [pod for pod in pods if kept_alive_by(pod)]:
        message = f"{message} {describe_sidecars(kept[0])}"
    return Decision(State.WAITING, Reason.STOPPING, message, requeue_after=STOPPING_SECONDS)
