"""Replaces a Train attempt whose pods find too few nodes by an attempt with fewer pods. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.objects import has_ended, index_of, pods_of, since
from finetune_operator.planning import gang_size, pending
from finetune_operator.planning.lookup import find_job
from finetune_operator.planning.policies.deadline import is_queued, job_start
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import Decision, PlanInput, Stop
from finetune_operator.planning.wording import count
from finetune_trainer.contract import Stage


def check(inputs: PlanInput) -> Decision | None:
    """Stops a Train attempt if no node takes some of its pods for spec.failurePolicy.shrinkAfter.

    The time counts from the start of the Job. A Job in a queue has no start, and pods that a quota of the
    namespace forbids do not exist: both are no loss of capacity. The pods with a node wait meanwhile, because
    the deadline of their rendezvous is longer by shrinkAfter.
    """
    running, limit = inputs.running, gang_size.shrink_seconds(inputs.job)
    if running is None or limit is None or stage_of(running) is not Stage.TRAIN:
        return None
    if running.running_since or running.failing_since:
        return None
    job = find_job(inputs.observed, running.job)
    start = job_start(job) if job and not is_queued(job) else None
    if job is None or start is None or since(start, inputs.now) < limit:
        return None
    pods = pods_of(inputs.observed.pods, job)
    refused = pending.find_unschedulable(job, pods)
    placed = {index_of(pod) for pod in pods if pod["spec"].get("nodeName") and not has_ended(pod)}
    wanted = gang_size.nodes_of(inputs.job, running)
    nodes = gang_size.largest(inputs, len(placed))
    if refused is None or nodes is None or nodes >= wanted:
        return None
    message = (
        f"Train goes on with {nodes} of {count(inputs.job.spec.resources.nodes, 'node')}: after"
        f" {inputs.job.spec.failure_policy.shrink_after} (spec.failurePolicy.shrinkAfter),"
        f" {len(placed)} of {wanted} pods of Train attempt {running.number} have a node."
    )
    if nodes < len(placed):
        message += f" The global batch cannot be divided over {count(len(placed), 'node')}."
    message = f"{message} {refused.message}"
    return Decision(
        State.WAITING,
        Reason.CAPACITY_LOST,
        message,
        stop=Stop("Resized", Reason.CAPACITY_LOST, message, available_nodes=len(placed)),
        requeue_after=1,
    )
