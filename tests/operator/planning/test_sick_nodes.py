"""The nodes that the next Train attempt avoids."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.objects import Manifest
from finetune_operator.planning import sick_nodes
from finetune_operator.planning.plan import plan
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import NodeFailure, PlanInput
from tests.operator import scenes

DONE = {"stage": "Prepare", "outcome": "Succeeded"}


def failed(number: int, node: str | None = "n1", hours: float = 1, **cause: Any) -> Manifest:
    end = (scenes.NOW - timedelta(hours=hours)).isoformat()
    cause = {"class": "Internal", "reason": "RankKilled"} | cause
    what = {"stage": "Train", "number": number, "outcome": "Failed", "endTime": end, "message": "m"}
    return what | ({"node": node} if node else {}) | cause


def other(run: str, namespace: str = "demo", node: str = "n1", hours: float = 1) -> NodeFailure:
    return NodeFailure(node, run, namespace, scenes.NOW - timedelta(hours=hours))


def inputs_of(attempts: tuple[Manifest, ...] = (), failures: tuple[NodeFailure, ...] = ()) -> PlanInput:
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [DONE, *attempts]}})
    assert job.status
    observed = replace(scenes.observed_of(job, {}, scenes.settings()), node_failures=failures)
    resolution = resolve(job, observed, scenes.settings())
    return PlanInput(job, observed, scenes.settings(), scenes.NOW, job.status, resolution)


@pytest.mark.parametrize(
    ("attempts", "failures", "nodes"),
    [
        ((failed(1),), (), ()),
        ((failed(1), failed(2, hours=0.5)), (), ("n1",)),
        ((failed(1), failed(2, "n2")), (), ()),
        ((failed(1), failed(2, hours=24)), (), ()),
        ((failed(1),), (other("a"),), ("n1",)),
        ((failed(1),), (other("a", hours=24),), ()),
        ((), (other("a"), other("b")), ("n1",)),
        ((), (other("a"), other("a", hours=2)), ()),
        ((), (other("a"), other("b", "rivals")), ("n1",)),
        ((), (other("a", "rivals"), other("b", "rivals")), ()),
        ((failed(1),), (other("a", "rivals"),), ("n1",)),
        ((failed(1),), (other(scenes.UID),), ()),
    ],
    ids=[
        "one failure",
        "two failures of the job",
        "on two nodes",
        "a day ago",
        "of the job and of another",
        "of another, a day ago",
        "two other jobs",
        "one other job twice",
        "two namespaces",
        "one other namespace",
        "of the job and of another namespace",
        "the job does not count twice",
    ],
)
def test_a_node_with_two_strikes_is_avoided(
    attempts: tuple[Manifest, ...], failures: tuple[NodeFailure, ...], nodes: tuple[str, ...]
) -> None:
    assert sick_nodes.avoided(inputs_of(attempts, failures)) == nodes


@pytest.mark.parametrize(
    ("cause", "points"),
    [
        ({"class": "Hang", "reason": "RankSilent", "nodes": 1}, True),
        ({"class": "Hang", "reason": "RankSilent"}, False),
        ({"stage": "Publish", "class": "Hang", "reason": "RankSilent"}, True),
        ({"class": "Communication", "reason": "PeerLost"}, False),
        ({"class": "Communication", "reason": "CollectiveTimeout"}, False),
        ({"class": "Communication", "reason": "RendezvousTimeout"}, False),
        ({"class": "Internal", "reason": "RankKilled"}, True),
        ({"class": "Internal", "reason": "UnexpectedError"}, False),
        ({"class": None, "reason": "NodeLost"}, True),
        ({"class": "Preempted", "reason": "Preempted"}, False),
        ({"class": "OutOfMemory", "reason": "GpuMemoryExhausted"}, False),
        ({"class": "UserData", "reason": "DataTooSmall"}, False),
        ({"outcome": "Suspended"}, False),
        ({"node": None}, False),
    ],
)
def test_only_causes_that_point_to_a_node_count(cause: Manifest, points: bool) -> None:
    attempts = tuple({k: v for k, v in (failed(n) | cause).items() if v is not None} for n in (1, 2))
    assert bool(sick_nodes.avoided(inputs_of(attempts))) is points


def test_attack_failures_of_one_namespace_keep_no_other_namespace_off_a_node() -> None:
    attack = tuple(other(f"{number}", "rivals", hours=number / 9) for number in range(9))
    assert sick_nodes.avoided(inputs_of(failures=attack)) == ()
    own = sick_nodes.avoided(inputs_of((failed(1),), attack))
    assert own == ("n1",)


def test_the_worst_nodes_come_first_and_the_list_is_bounded() -> None:
    failures = [other(run, node=f"n{number:02d}") for number in range(40) for run in ("a", "b")]
    failures.append(other("c", node="n39"))
    found = sick_nodes.avoided(inputs_of(failures=tuple(failures)))
    assert len(found) == sick_nodes.MOST_AVOIDED
    assert found[:2] == ("n39", "n00")


def test_train_pods_prefer_other_nodes() -> None:
    inputs = inputs_of(failures=(other("a"), other("b")))
    (job,) = plan(inputs.job, inputs.observed, inputs.settings, inputs.now).create
    assert job["spec"]["template"]["spec"]["affinity"] == {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]
                    },
                }
            ]
        }
    }


def test_suspects_are_nodes_with_two_recent_failures() -> None:
    failures = (other("a"), other("a", hours=2), other("b", node="n2"), other("a", node="n2", hours=24))
    assert sick_nodes.suspects(failures, scenes.NOW) == {"n1": 2}
