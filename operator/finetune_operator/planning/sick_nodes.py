"""Finds the nodes that the next Train attempt avoids, from the failures of all FineTuneJobs. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason
from finetune_operator.objects import distance
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import NodeFailure, PlanInput
from finetune_operator.rendering.trainer_config import uid_of
from finetune_trainer.contract import FailureClass, Stage

REMEMBERED_SECONDS = 24 * 3600
"""How long a failure counts against its node."""
STRIKES = 2
"""Number of failures from which on a node is avoided."""
MOST_AVOIDED = 32
"""The most nodes that one attempt avoids: the names are in the template of the pods."""
REASONS = {Reason.NODE_LOST.value, "RankKilled"}
"""Reasons that point to the node. No reason of the class Communication does: the pod that reports a lost peer
or a rendezvous that did not complete is healthy."""


def failures_of(
    run: str, namespace: str, nodes: int, attempts: Iterable[AttemptStatus]
) -> Iterator[NodeFailure]:
    """The failures of a job that point to a node.

    A hang points to the node only in a gang of one pod: in a larger gang, all ranks stop in the same step,
    and the rank that reports the hang first may be healthy.

    Args:
        run: uid of the FineTuneJob.
        namespace: namespace of the FineTuneJob.
        nodes: number of Train pods of the run.
        attempts: attempts of the job.
    """
    for attempt in attempts:
        pods = (attempt.nodes or nodes) if stage_of(attempt) is Stage.TRAIN else 1
        points = attempt.reason in REASONS or (attempt.failure == FailureClass.HANG and pods == 1)
        if attempt.outcome == "Failed" and points and attempt.node and attempt.end_time:
            yield NodeFailure(attempt.node, run, namespace, attempt.end_time)


def avoided(inputs: PlanInput) -> tuple[str, ...]:
    """The names of the nodes that the next Train attempt avoids: at most `MOST_AVOIDED`, worst first.

    Whoever runs code in pods can let attempts fail on a node, so the failures of others count less. Each
    failure of the job itself is a strike. The failures of another job in the namespace are one strike
    together, and so are the failures of all jobs of another namespace.
    """
    uid, namespace = uid_of(inputs.job), inputs.job.metadata["namespace"]
    own = failures_of(uid, namespace, inputs.job.spec.resources.nodes, inputs.status.attempts)
    others = (f for f in inputs.observed.node_failures if f.run != uid)
    strikes: defaultdict[str, set[object]] = defaultdict(set)
    for number, failure in enumerate(_recent((*own, *others), inputs.now)):
        if failure.run == uid:
            strikes[failure.node].add(number)
        else:
            strikes[failure.node].add(failure.run if failure.namespace == namespace else failure.namespace)
    sick = [node for node, found in strikes.items() if len(found) >= STRIKES]
    return tuple(sorted(sick, key=lambda node: (-len(strikes[node]), node))[:MOST_AVOIDED])


def suspects(failures: Iterable[NodeFailure], now: datetime) -> dict[str, int]:
    """The nodes that may be sick: those with at least `STRIKES` recent failures of any jobs.

    Every failure counts, so a job may avoid fewer nodes; see `avoided`.

    Returns:
        Number of failures by name of the node.
    """
    counted: defaultdict[str, int] = defaultdict(int)
    for failure in _recent(failures, now):
        counted[failure.node] += 1
    return {node: number for node, number in counted.items() if number >= STRIKES}


def _recent(failures: Iterable[NodeFailure], now: datetime) -> Iterator[NodeFailure]:
    return (f for f in failures if distance(f.time, now) < REMEMBERED_SECONDS)
