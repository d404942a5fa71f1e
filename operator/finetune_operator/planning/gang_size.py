"""The number of pods of each Train attempt of a job with resources.minNodes. Pure.

The gang shrinks after a loss of capacity and has its full size again in a later attempt. The operator has no
right to read nodes, so the operator cannot know whether a larger gang would find nodes. A running attempt
therefore never ends only to grow.
"""

from finetune_operator.api import AttemptStatus, FineTuneJob
from finetune_operator.api.fields import seconds_of
from finetune_operator.names import Reason
from finetune_operator.objects import distance
from finetune_operator.planning import micro_batch
from finetune_operator.planning.stages import choose_for_train, train_attempts
from finetune_operator.planning.types import PlanInput
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import Chosen, Stage

HOLDS = 6
"""The gang stays small for this many times shrinkAfter after a loss of capacity. An attempt with all pods may
wait for shrinkAfter in vain, so attempts with all pods cost at most a seventh of the time."""


def nodes_of(job: FineTuneJob, attempt: AttemptStatus) -> int:
    """The number of pods of a Train attempt."""
    return attempt.nodes or job.spec.resources.nodes


def shrink_seconds(job: FineTuneJob) -> int | None:
    """Seconds without a node for a pod after which the gang shrinks; None where the gang has a fixed size."""
    resources = job.spec.resources
    if resources.min_nodes is None or resources.min_nodes >= resources.nodes:
        return None
    return seconds_of(job.spec.failure_policy.shrink_after)


def extra_seconds(job: FineTuneJob, nodes: int | None) -> int:
    """How much longer the pods of a Train attempt may wait for each other, because the gang may shrink.

    Args:
        job: the FineTuneJob.
        nodes: number of pods of the attempt if fewer than the nodes of the run.

    Returns:
        Seconds; 0 where the gang has a fixed size or already has minNodes pods.
    """
    shrink = shrink_seconds(job)
    return 0 if shrink is None or nodes == job.spec.resources.min_nodes else shrink


def largest(inputs: PlanInput, available: int) -> int | None:
    """The largest possible gang.

    Args:
        inputs: the input of the reconcile.
        available: number of pods that find a node.

    Returns:
        Number of pods; None if no gang from minNodes to `available` pods can divide the global batch.
    """
    resources, chosen = inputs.job.spec.resources, _chosen(inputs)
    least = resources.min_nodes or resources.nodes
    if chosen is None or not isinstance(inputs.resolution, ResolvedRun):
        return None
    processes = inputs.resolution.run.world.processes_per_node
    possible = (
        nodes
        for nodes in range(min(available, resources.nodes), least - 1, -1)
        if micro_batch.with_world(chosen, nodes * processes)
    )
    return next(possible, None)


def next_nodes(inputs: PlanInput) -> int | None:
    """The number of pods of the next Train attempt if fewer than the nodes of the run; else None."""
    if inputs.stage is not Stage.TRAIN or shrink_seconds(inputs.job) is None:
        return None
    loss = _recent_loss(inputs)
    nodes = largest(inputs, loss.available_nodes or 0) if loss else None
    return nodes if nodes is not None and nodes < inputs.job.spec.resources.nodes else None


def _recent_loss(inputs: PlanInput) -> AttemptStatus | None:
    """The newest attempt that lost capacity, while its loss still limits the next attempt.

    The loss limits the attempt that follows directly, however long the pods of the lost attempt take to stop.
    Later attempts are limited until HOLDS times shrinkAfter have passed.
    """
    limited: AttemptStatus | None = None
    tries = [a for a in train_attempts(inputs.status.attempts) if a.spec_digest == inputs.digest]
    for attempt in tries:
        if attempt.outcome == "Resized" and attempt.reason == Reason.CAPACITY_LOST:
            limited = attempt
        elif attempt.reason == Reason.SUSPENDED_BY_USER:
            limited = None
    if limited is None or limited is tries[-1]:
        return limited
    hold = HOLDS * (shrink_seconds(inputs.job) or 0)
    held = limited.end_time is not None and distance(limited.end_time, inputs.now) < hold
    return limited if held else None


def _chosen(inputs: PlanInput) -> Chosen | None:
    resolved = inputs.resolution
    return choose_for_train(inputs.status, resolved) if isinstance(resolved, ResolvedRun) else None
