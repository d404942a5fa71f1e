"""Clocks that are wrong, on a real API server: the operator's, and those of the nodes."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from devcluster import packages
from finetune_trainer.contract import ExitCode, FailureClass
from tests.api.harness import Kubelet, Operator, Scene, message_for
from tests.api.kube import wait_for

pytestmark = pytest.mark.api
HOUR, TEN_MINUTES = 3600, 600
SLOW, FAST = 300 - HOUR, HOUR
"""Seconds ahead. The certificates of the control plane are not valid further back than an hour."""


def wrong_clock(seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is so many seconds ahead."""
    packages.require("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def is_now(moment: str) -> bool:
    return abs(datetime.fromisoformat(moment).timestamp() - time.time()) < 60


def let_turns_pass(operator: Operator, count: int = 5) -> None:
    """Waits until the operator has looked at the job so many times more."""
    before = operator.metric("finetune_operator_reconciles_total") or 0
    wait_for(
        "reconciles", lambda: (operator.metric("finetune_operator_reconciles_total") or 0) >= before + count
    )


@pytest.mark.own_process
@pytest.mark.parametrize("ahead", [SLOW, FAST])
def test_a_leader_whose_clock_is_wrong_fails_no_job_and_dates_all_as_the_api_server(
    scene: Scene, ahead: int
) -> None:
    operator = scene.start(
        environment=wrong_clock(ahead),
        resyncSeconds=1,
        deadlines={"podsStart": 600, "prepare": 600, "train": 600, "publish": 600, "collection": 2},
    )
    uid = scene.make_job(resources={"nodes": 2})
    scene.kubelet.await_pods(uid, "Prepare")
    scene.await_state("Pending")
    let_turns_pass(operator)
    assert scene.status()["state"] == "Pending"
    scene.go_through(uid, "Prepare")
    scene.kubelet.run(scene.kubelet.await_pods(uid, "Train", count=2))
    scene.await_state("Training")
    let_turns_pass(operator)
    scene.go_through(uid, "Train", "Publish", nodes=2)
    status = scene.await_state("Succeeded")
    assert [a["outcome"] for a in status["attempts"]] == ["Succeeded"] * 3
    assert is_now(status["startTime"])
    assert is_now(status["completionTime"])
    assert all(is_now(c["lastTransitionTime"]) for c in status["conditions"])
    told = [e for e in scene.kube.list("Event", scene.namespace) if e["regarding"]["name"] == "tickets"]
    assert told
    assert all(is_now(e["eventTime"]) for e in told)
    assert operator.leads()
    assert operator.healthy()
    assert "see to NTP" in operator.log_file.read_text()


@pytest.mark.own_process
@pytest.mark.parametrize("ahead", [SLOW, 180, FAST])
def test_a_leader_whose_clock_is_wrong_makes_no_second_gang_beside_pods_that_are_on_their_way_out(
    scene: Scene, ahead: int
) -> None:
    operator = scene.start(environment=wrong_clock(ahead), resyncSeconds=1)
    uid = scene.make_job(resources={"nodes": 2})
    scene.go_through(uid, "Prepare")
    pods = scene.kubelet.await_pods(uid, "Train", count=2)
    scene.kubelet.bind(pods)
    scene.kubelet.run(pods)
    scene.await_state("Training")
    scene.kubelet.finish(pods[:1], FailureClass.INTERNAL)
    wait_for("the Job is deleted", lambda: "t1" not in scene.jobs_of(uid))

    def stops() -> bool:
        return any(c["reason"] == "Stopping" for c in scene.status().get("conditions", ()))

    wait_for("it waits for the pods", stops)
    let_turns_pass(operator, 10)
    assert "t2" not in scene.jobs_of(uid)
    scene.kubelet.remove(scene.kubelet.pods(uid, "Train"))
    scene.kubelet.await_pods(uid, "Train", 2, count=2, seconds=40)


@pytest.mark.parametrize("ahead", [-TEN_MINUTES, TEN_MINUTES])
def test_nodes_whose_clocks_are_wrong_end_nothing_early(scene: Scene, ahead: int) -> None:
    deadlines = {"prepare": 60, "train": 60, "publish": 60, "collection": 2}
    operator = scene.start(resyncSeconds=1, deadlines=deadlines)
    uid = scene.make_job()
    node = Kubelet(scene.kube, scene.namespace, ahead)
    for stage in ("Prepare", "Train", "Publish"):
        pods = node.await_pods(uid, stage)
        node.run(pods)
        let_turns_pass(operator)
        node.finish(pods)
    assert [a["outcome"] for a in scene.await_state("Succeeded")["attempts"]] == ["Succeeded"] * 3


@pytest.mark.parametrize("ahead", [-TEN_MINUTES, TEN_MINUTES])
def test_the_pod_that_failed_first_is_the_cause_whatever_its_nodes_clock_says(
    scene: Scene, ahead: int
) -> None:
    scene.start(resyncSeconds=1, deadlines={"collection": 30})
    uid = scene.make_job(resources={"nodes": 2})
    scene.go_through(uid, "Prepare")
    first, second = scene.kubelet.await_pods(uid, "Train", count=2)
    scene.kubelet.run([first, second])
    scene.await_state("Training")
    node = Kubelet(scene.kube, scene.namespace, ahead)
    fail(node, first, FailureClass.INTERNAL)
    wait_for("the first is seen", lambda: any("failingSince" in a for a in scene.attempts()[1:]))
    fail(scene.kubelet, second, FailureClass.HANG)
    failed = wait_for(
        "its end", lambda: next((a for a in scene.attempts() if a["outcome"] == "Failed"), None)
    )
    assert (failed["class"], failed["pod"]) == ("Internal", first["metadata"]["name"])


def fail(node: Kubelet, pod: Any, failure: FailureClass) -> None:
    node.terminate(pod, int(ExitCode.of(failure)), message_for(pod, failure).encode().decode())
