"""Pods with injected containers, on a real API server with the real Job controller."""

from typing import Any

import pytest

from finetune_trainer.contract import ExitCode, FailureClass
from tests.api.harness import Scene, container, message_for
from tests.api.kube import wait_for

pytestmark = pytest.mark.api
BEFORE, AFTER = "istio-proxy", "vault-agent"
"""Names that sort before and after the trainer's."""


def end_trainer(scene: Scene, pod: Any, sidecar: str, failure: FailureClass = FailureClass.SUCCESS) -> None:
    """The trainer ends; the injected container goes on, and with it the pod."""
    text = message_for(pod, failure).encode().decode()
    running = container({"running": {}}, sidecar)
    scene.kubelet.terminate(pod, int(ExitCode.of(failure)), text, others=[running])


def events(scene: Scene, reason: str) -> list[str]:
    return [e["note"] for e in scene.kube.list("Event", scene.namespace) if e["reason"] == reason]


@pytest.mark.parametrize("sidecar", [BEFORE, AFTER])
def test_a_job_succeeds_although_sidecars_never_end(scene: Scene, sidecar: str) -> None:
    scene.start(resyncSeconds=600)
    uid = scene.make_job(resources={"nodes": 2})
    for stage, count in (("Prepare", 1), ("Train", 2), ("Publish", 1)):
        pods = scene.kubelet.await_pods(uid, stage, count=count)
        scene.kubelet.bind(pods)
        scene.kubelet.run(pods)
        for pod in pods:
            end_trainer(scene, pod, sidecar)
        wait_for(
            f"{stage} is known to have succeeded",
            lambda stage=stage: any(
                a["stage"] == stage and a["outcome"] == "Succeeded" for a in scene.attempts()
            ),
        )
        wait_for("its pods are deleted", lambda stage=stage: all_leave(scene, uid, stage))
        # The operator posts Events after it has deleted the Job.
        wait_for(
            "an Event names the container",
            lambda: any(f"Container {sidecar} keeps pod" in note for note in events(scene, "SidecarRunning")),
        )
        scene.kubelet.remove(scene.kubelet.pods(uid, stage))
    assert [a["outcome"] for a in scene.await_state("Succeeded")["attempts"]] == ["Succeeded"] * 3
    assert scene.jobs_of(uid) == []


def all_leave(scene: Scene, uid: str, stage: str) -> bool:
    return all("deletionTimestamp" in pod["metadata"] for pod in scene.kubelet.pods(uid, stage))


@pytest.mark.parametrize("sidecar", [BEFORE, AFTER])
def test_a_failure_is_known_at_once_although_sidecars_never_end(scene: Scene, sidecar: str) -> None:
    scene.start(resyncSeconds=600)
    uid = scene.make_job()
    pods = scene.kubelet.await_pods(uid, "Prepare")
    scene.kubelet.bind(pods)
    scene.kubelet.run(pods)
    end_trainer(scene, pods[0], sidecar, FailureClass.USER_DATA)
    status = scene.await_state("Failed", 10)
    assert (status["attempts"][0]["class"], status["attempts"][0]["exitCode"]) == ("UserData", 3)
    wait_for("the Job is deleted", lambda: scene.jobs_of(uid) == [])


def test_the_kubelet_ends_native_sidecars_and_the_job_goes_on(scene: Scene) -> None:
    scene.start(resyncSeconds=600)
    uid = scene.make_job()
    (pod,) = scene.kubelet.await_pods(uid, "Prepare")
    scene.kubelet.bind([pod])
    native = container({"running": {}}, BEFORE)
    started = {
        "phase": "Running",
        "initContainerStatuses": [native],
        "containerStatuses": [container({"running": {}})],
    }
    name = pod["metadata"]["name"]
    scene.kube.merge("Pod", scene.namespace, name, {"status": started}, "status")
    scene.await_state("Preparing")
    ended = {"exitCode": 0, "message": message_for(pod, FailureClass.SUCCESS).encode().decode()}
    status = {"containerStatuses": [container({"terminated": ended})]}
    scene.kube.merge("Pod", scene.namespace, name, {"status": status}, "status")
    wait_for("Prepare is known", lambda: [a["outcome"] for a in scene.attempts()] == ["Succeeded"])
    assert events(scene, "SidecarRunning") == []
    scene.kube.merge("Pod", scene.namespace, name, {"status": {"phase": "Succeeded"}}, "status")
    scene.kubelet.await_pods(uid, "Train")
    assert "p1" in scene.jobs_of(uid)


def test_a_native_sidecar_that_crashes_is_named(scene: Scene) -> None:
    scene.start(resyncSeconds=1)
    uid = scene.make_job()
    (pod,) = scene.kubelet.await_pods(uid, "Prepare")
    scene.kubelet.bind([pod])
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting istio-proxy"}}
    status = {
        "phase": "Pending",
        "initContainerStatuses": [container(waiting, BEFORE)],
        "containerStatuses": [container({"waiting": {"reason": "PodInitializing"}})],
    }
    scene.kube.merge("Pod", scene.namespace, pod["metadata"]["name"], {"status": status}, "status")
    told = scene.await_state("Waiting")
    assert "Init container istio-proxy" in told["message"]
    assert "back-off 10s" in told["message"]
    wait_for("an Event", lambda: events(scene, "InitContainerFailed"))
