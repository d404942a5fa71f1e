"""A Train attempt whose pods find too few nodes, and the number of pods of the attempts after it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.names import Reason
from finetune_operator.objects import Manifest
from finetune_operator.planning.attempts import record_attempts
from finetune_operator.planning.gang_size import next_nodes
from finetune_operator.planning.plan import plan
from finetune_operator.planning.policies import deadline, shrink
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import Observed, PlanInput
from finetune_operator.rendering.jobs import config_of
from tests.operator import scenes

START = scenes.NOW - timedelta(minutes=10)
"""Creation of the Job: shrinkAfter is 10 minutes."""
DONE = {"stage": "Prepare", "outcome": "Succeeded"}
TOKENS = {"batchSize": 32, "worldSize": 4, "microBatchTokens": 1024} | {
    "microBatchSize": None,
    "accumulationSteps": None,
}


def inputs_of(
    pods: list[Manifest] | None = None,
    *,
    nodes: int = 4,
    least: int | None = 2,
    chosen: Manifest | None = None,
    attempts: tuple[Manifest, ...] = (),
    policy: Manifest | None = None,
    minutes: float = 10,
    **job: Any,
) -> PlanInput:
    """A job that Prepare has prepared. With `pods`, Train attempt 1 began 10 minutes ago."""
    resources = {"nodes": nodes} | ({"minNodes": least} if least else {})
    running = [] if pods is None else [{"stage": "Train", "outcome": "Running"}]
    made = scenes.job_of(
        {
            "spec": {"resources": resources, "failurePolicy": policy or {}},
            "status": {"reached": "Prepare", "attempts": [DONE, *attempts, *running]},
        }
    )
    assert made.status
    settled = scenes.merged(made.status.model_dump(mode="json", by_alias=True), {"chosen": chosen or TOKENS})
    made = made.model_copy(update={"status": type(made.status).model_validate(settled)})
    assert made.status
    short = {"stage": "Train", "made": START.isoformat(), "pods": pods, **job}
    observed = scenes.observed_of(made, {"jobs": [] if pods is None else [short]}, scenes.settings())
    now = START + timedelta(minutes=minutes)
    resolution = resolve(made, observed, scenes.settings())
    return record_attempts(PlanInput(made, observed, scenes.settings(), now, made.status, resolution))


def running(index: int) -> Manifest:
    return {"index": index}


def unschedulable(index: int) -> Manifest:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 fit.",
    }
    return {"index": index, "is": "Pending", "status": {"conditions": [condition]}}


def gang(placed: int, of: int = 4) -> list[Manifest]:
    return [running(i) if i < placed else unschedulable(i) for i in range(of)]


def ended(number: int, outcome: str, ago: float, **fields: Any) -> Manifest:
    end = (scenes.NOW - timedelta(minutes=ago)).isoformat()
    return {"stage": "Train", "number": number, "outcome": outcome, "endTime": end, **fields}


def lost(number: int, available: int, ago: float = 1) -> Manifest:
    return ended(number, "Resized", ago, reason="CapacityLost", message="m", availableNodes=available)


def test_train_goes_on_with_the_pods_that_found_a_node() -> None:
    decision = shrink.check(inputs_of(gang(3)))
    assert decision
    assert decision.stop
    assert (decision.stop.outcome, decision.stop.available_nodes) == ("Resized", 3)
    assert decision.reason == decision.stop.reason == Reason.CAPACITY_LOST
    assert decision.message == (
        "Train goes on with 3 of 4 nodes: after 10m (spec.failurePolicy.shrinkAfter), 3 of 4 pods of Train"
        " attempt 1 have a node. No node takes pod tickets-0b5c3-t1-3-x, which requests 2 CPUs and 8Gi"
        " memory: 0/3 fit."
    )


@pytest.mark.parametrize(
    "inputs",
    [
        inputs_of(gang(3), least=None),
        inputs_of(gang(3), least=4),
        inputs_of(gang(1)),
        inputs_of(gang(3), minutes=9.9),
        inputs_of(gang(3), policy={"shrinkAfter": "11m"}),
        inputs_of([running(0), running(1), running(2), {"index": 3, "is": "Creating"}]),
        inputs_of([running(0), running(1), running(2)]),
        inputs_of(gang(3), spec={"suspend": True}),
        inputs_of(gang(3), status={"is": "Suspended"}),
        inputs_of(gang(3), status={"startTime": scenes.NOW.isoformat()}),
        inputs_of([{"index": 0, "code": 7, "says": {"class": "Communication"}}, *gang(3)[1:]]),
        inputs_of(None),
    ],
    ids=[
        "no minNodes",
        "minNodes is nodes",
        "fewer nodes than minNodes",
        "not yet",
        "shrinkAfter of the job",
        "an image is pulled",
        "a quota allows no more pods",
        "in a queue",
        "admitted, and the Job controller has not seen it",
        "admitted a moment ago",
        "a pod has failed",
        "no attempt",
    ],
)
def test_the_gang_keeps_its_size(inputs: PlanInput) -> None:
    assert shrink.check(inputs) is None


def test_the_time_counts_from_the_admission_by_a_queue() -> None:
    admitted = {"startTime": START.isoformat()}
    assert shrink.check(inputs_of(gang(3), made="2026-01-01T01:00:00Z", status=admitted))


def test_a_number_of_nodes_that_does_not_divide_the_batch_is_skipped() -> None:
    rows = {"batchSize": 32, "worldSize": 4, "microBatchSize": 8, "accumulationSteps": 1}
    decision = shrink.check(inputs_of(gang(3), chosen=rows))
    assert decision
    assert decision.message.startswith("Train goes on with 2 of 4 nodes: ")
    assert " have a node. The global batch cannot be divided over 3 nodes. No node takes " in decision.message
    assert shrink.check(inputs_of(gang(3), least=3, chosen=rows)) is None


def test_the_next_attempt_has_fewer_pods_and_the_same_global_batch() -> None:
    rows = {"batchSize": 32, "worldSize": 4, "microBatchSize": 4, "accumulationSteps": 2}
    inputs = inputs_of(chosen=rows, attempts=(lost(1, 2),))
    made = plan(inputs.job, inputs.observed, inputs.settings, inputs.now)
    (job,) = made.create
    config = config_of(job)
    assert config
    assert config.chosen
    assert (job["spec"]["completions"], job["spec"]["parallelism"], config.world.nodes) == (2, 2, 2)
    assert (config.chosen.world_size, config.chosen.batch_size) == (2, 32)
    assert (config.chosen.micro_batch_size, config.chosen.accumulation_steps) == (4, 4)
    assert config.run.world.nodes == 4
    assert config.run.digest() == inputs.status.attempts[-1].config_digest


def test_pods_with_a_node_wait_for_the_others_until_the_gang_shrinks() -> None:
    deadlines = []
    for least, attempts in ((None, ()), (2, ()), (2, (lost(1, 3),)), (2, (lost(1, 2),))):
        inputs = inputs_of(least=least, attempts=attempts)
        (job,) = plan(inputs.job, inputs.observed, inputs.settings, inputs.now).create
        config = config_of(job)
        assert config
        deadlines.append(config.rendezvous.startup_deadline_seconds)
    assert deadlines == [300, 900, 900, 300]


def test_the_deadline_for_the_start_of_pods_leaves_time_to_shrink() -> None:
    policy = {"shrinkAfter": "2h"}
    assert deadline.check(inputs_of(gang(3), minutes=179, policy=policy)) is None
    late = inputs_of(gang(3), minutes=180, policy=policy)
    assert (shrink.check(late) is None, deadline.check(late) is None) == (False, False)
    assert deadline.check(inputs_of(gang(3), least=None, minutes=60))


@pytest.mark.parametrize(
    ("attempts", "nodes"),
    [
        ((), None),
        ((lost(1, 3),), 3),
        ((lost(1, 3), lost(2, 2)), 2),
        ((lost(1, 3, ago=61),), 3),
        ((lost(1, 3), ended(2, "Failed", 1, reason="RankSilent", message="m")), 3),
        ((lost(1, 3, ago=59), ended(2, "Failed", 1, reason="RankSilent", message="m")), 3),
        ((lost(1, 3, ago=60), ended(2, "Failed", 1, reason="RankSilent", message="m")), None),
        ((lost(1, 3), ended(2, "Suspended", 1, reason="SuspendedByUser")), None),
        ((lost(1, 3), ended(2, "Suspended", 1, reason="FinishedByUser")), 3),
        ((lost(1, 3) | {"specDigest": "sha256:" + "b" * 64, "generation": 0},), None),
        ((lost(1, 1),), None),
    ],
    ids=[
        "no loss",
        "a loss",
        "two losses",
        "the pods of the lost attempt stop late",
        "failed after a loss",
        "failed within an hour",
        "failed after an hour",
        "resumed by a person",
        "ends training early",
        "another spec",
        "minNodes was raised",
    ],
)
def test_the_size_of_the_next_attempt(attempts: tuple[Manifest, ...], nodes: int | None) -> None:
    assert next_nodes(inputs_of(attempts=attempts)) == nodes


def test_a_loss_is_kept_in_the_status_and_told_once() -> None:
    inputs = inputs_of(gang(3))
    job = inputs.job
    first = plan(job, inputs.observed, inputs.settings, inputs.now)
    stopped = first.status.attempts[-1]
    assert (stopped.outcome, stopped.reason, stopped.available_nodes) == ("Resized", "CapacityLost", 3)
    assert [(e.type, e.reason) for e in first.events] == [("Warning", "CapacityLost")]
    assert [d.name for d in first.delete] == ["tickets-0b5c3-t1"]
    later = replace(inputs.observed, jobs=(), pods=())
    second = plan(job.model_copy(update={"status": first.status}), later, inputs.settings, inputs.now)
    assert [m["metadata"]["name"] for m in second.create] == ["tickets-0b5c3-t2"]
    assert [e.reason for e in second.events] == []
    (made,) = second.create
    third = _adopted(job, first.status, made, later, inputs)
    (attempt,) = [a for a in third.status.attempts if a.outcome == "Running"]
    assert attempt.nodes == 3
    conditions = {c.type: c.message for c in third.status.conditions}
    assert conditions["Running"] == "All pods of Train attempt 2 run: Train goes on with 3 of 4 nodes."


def _adopted(job: Any, status: Any, made: Manifest, observed: Observed, inputs: PlanInput) -> Any:
    """The plan when all pods of a Job run."""
    made["metadata"] |= {"uid": "uid-2", "creationTimestamp": scenes.NOW.isoformat()}
    pods = tuple(scenes.pod(job, made, running(i)) for i in range(made["spec"]["completions"]))
    seen = replace(observed, jobs=(made,), pods=pods)
    return plan(job.model_copy(update={"status": status}), seen, inputs.settings, inputs.now)
