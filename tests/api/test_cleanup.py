"""Nothing but the deletion of a FineTuneJob starts what deletes its data: no queue, no person, no backup."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.controlplane import control_plane
from tests.api.harness import UID, Scene, complaints
from tests.api.kube import Kube, RefusedError, wait_for

ROOT = Path(__file__).parents[2]
PLURALS = {
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies",
    "MutatingAdmissionPolicyBinding": "mutatingadmissionpolicybindings",
}


def cleanup_jobs(scene: Scene, uid: str) -> list[Any]:
    found: list[Any] = scene.kube.list("Job", scene.namespace, f"{UID}={uid},finetune.dev/role=cleanup")
    return found


def records(scene: Scene, uid: str) -> list[Any]:
    found: list[Any] = scene.kube.list("ControllerRevision", scene.namespace, f"{UID}={uid}")
    return found


def everything_goes_after_deletion(scene: Scene, uid: str, name: str = "tickets") -> None:
    """Deletes the FineTuneJob: its cleanup Job runs, and then nothing of the run is left but that Job."""
    kube, namespace = scene.kube, scene.namespace
    (record,) = records(scene, uid)
    kube.delete("FineTuneJob", namespace, name)
    pods = scene.kubelet.await_pods(uid, "Cleanup", seconds=60)
    policy = kube.get("NetworkPolicy", namespace, record["metadata"]["name"])
    assert policy["metadata"]["ownerReferences"][0]["uid"] == record["metadata"]["uid"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods[0]["metadata"]["labels"].items()
    scene.kubelet.run(pods)
    scene.kubelet.terminate(pods[0], 0)
    wait_for("the record goes", lambda: not records(scene, uid))
    for kind in ("NetworkPolicy", "Service"):
        wait_for(f"no {kind}", lambda kind=kind: not kube.list(kind, namespace, f"{UID}={uid}"))  # type: ignore[misc]


def create_cluster_wide(kube: Kube, obj: dict[str, Any]) -> str:
    path = f"/apis/admissionregistration.k8s.io/v1/{PLURALS[obj['kind']]}"
    kube.call("POST", path, obj)
    return f"{path}/{obj['metadata']['name']}"


@pytest.fixture
def queueing(kube: Kube, namespace: str) -> Iterator[Callable[[], None]]:
    """Labels and suspends every Job of the namespace, as Kueue does where a LocalQueue `default` exists.

    The result admits all Jobs that are suspended now.
    """
    match = {"resourceRules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"]}]}
    match["resourceRules"][0]["operations"] = ["CREATE"]
    match["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}  # type: ignore[assignment]
    mutation = (
        'Object{metadata: Object.metadata{labels: {"kueue.x-k8s.io/queue-name": "default"}},'
        " spec: Object.spec{suspend: true}}"
    )
    name = f"queueing-{namespace}"
    made = [
        create_cluster_wide(
            kube,
            {
                "kind": "MutatingAdmissionPolicy",
                "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": name},
                "spec": {
                    "matchConstraints": match,
                    "failurePolicy": "Fail",
                    "reinvocationPolicy": "Never",
                    "mutations": [
                        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": mutation}}
                    ],
                },
            },
        ),
        create_cluster_wide(
            kube,
            {
                "kind": "MutatingAdmissionPolicyBinding",
                "apiVersion": "admissionregistration.k8s.io/v1",
                "metadata": {"name": name},
                "spec": {"policyName": name},
            },
        ),
    ]
    probe = {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"namespace": namespace}}
    container = {"name": "probe", "image": "x"}
    probe["spec"] = {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}  # type: ignore[assignment]
    probe["metadata"]["generateName"] = "probe-"  # type: ignore[index]
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All"
    wait_for("the policy is in force", lambda: kube.call("POST", path, probe)["spec"].get("suspend", False))

    def admit() -> None:
        for job in kube.list("Job", namespace):
            if job["spec"].get("suspend"):
                kube.merge("Job", namespace, job["metadata"]["name"], {"spec": {"suspend": False}})

    yield admit
    for path in made:
        kube.call("DELETE", path)


@pytest.mark.skipif("KUBERNETES" in os.environ, reason="needs Kubernetes 1.36: MutatingAdmissionPolicy")
def test_a_queue_that_suspends_and_admits_every_job_is_harmless(
    scene: Scene, queueing: Callable[[], None]
) -> None:
    scene.start()
    uid = scene.make_job()

    def queued(stage: str) -> dict[str, Any] | None:
        status = scene.status()
        reasons = {c["reason"] for c in status.get("conditions", ()) if c["type"] == "Succeeded"}
        return status if status.get("stage") == stage and reasons == {"Queued"} else None

    for stage in ("Prepare", "Train", "Publish"):
        state = wait_for(f"{stage} is queued", partial(queued, stage))
        assert state["state"] == "Waiting"
        assert "waits in queue default until Kueue admits the Job" in state["message"]
        queueing()
        assert cleanup_jobs(scene, uid) == []
        scene.go_through(uid, stage)
    scene.await_state("Succeeded")
    assert cleanup_jobs(scene, uid) == []

    ended = threading.Event()

    def admit_all() -> None:
        while not ended.wait(0.2):
            queueing()

    admitter = threading.Thread(target=admit_all)
    admitter.start()
    try:
        everything_goes_after_deletion(scene, uid)
    finally:
        ended.set()
        admitter.join()


def test_nothing_of_a_live_run_can_be_turned_into_a_cleanup_by_hand(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start()
    uid = scene.make_job()
    scene.go_through(uid, "Prepare")
    scene.kubelet.run(scene.kubelet.await_pods(uid, "Train"))
    scene.await_state("Training")

    for job in kube.list("Job", namespace, f"{UID}={uid}"):
        kube.merge("Job", namespace, job["metadata"]["name"], {"spec": {"suspend": False}})
    assert cleanup_jobs(scene, uid) == []
    (record,) = records(scene, uid)
    elsewhere = {"data": {"run": {"runs": "s3://elsewhere/"}}}
    with pytest.raises(RefusedError, match="data"):
        kube.merge("ControllerRevision", namespace, record["metadata"]["name"], elsewhere)

    everything_goes_after_deletion(scene, uid)


def test_a_failed_cleanup_is_told_and_tried_again_after_its_job_is_removed(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    operator = scene.start(deadlines={"cleanup": 4, "collection": 2})
    uid = scene.make_job()
    scene.go_through(uid, "Prepare")
    scene.kubelet.await_pods(uid, "Train")
    kube.delete("FineTuneJob", namespace, "tickets")
    scene.kubelet.await_pods(uid, "Cleanup", seconds=60)  # no node takes the pod until the deadline

    wait_for("the metric", lambda: operator.metric("finetune_operator_cleanup_failed") == 1, 40)
    events = [e for e in kube.list("Event", namespace) if e.get("reason") == "CleanupFailed"]
    assert f"s3://tuned/.finetune-runs/{namespace}/{uid}/" in events[0]["note"]
    (job,) = cleanup_jobs(scene, uid)
    kube.delete("Job", namespace, job["metadata"]["name"])  # as its ttl does an hour later

    pods = scene.kubelet.await_pods(uid, "Cleanup", seconds=60)
    scene.kubelet.run(pods)
    scene.kubelet.terminate(pods[0], 0)
    wait_for("the record goes", lambda: not records(scene, uid))
    wait_for("the metric ends", lambda: operator.metric("finetune_operator_cleanup_failed") is None)


def test_a_finished_run_keeps_its_record_and_nothing_else(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start()
    uid = scene.make_job(ttl={"podsAfterFinished": "1s"})
    scene.go_through(uid)
    scene.await_state("Succeeded")
    for kind in ("Job", "Pod", "Service", "NetworkPolicy"):
        wait_for(f"no {kind}", lambda kind=kind: not kube.list(kind, namespace, f"{UID}={uid}"))  # type: ignore[misc]
    assert len(records(scene, uid)) == 1
    everything_goes_after_deletion(scene, uid)


def test_a_record_restored_into_another_namespace_of_the_same_name_deletes_nothing(scene: Scene) -> None:
    """As a backup tool restores children: with their labels and content, without the FineTuneJob's uid."""
    kube = scene.kube
    operator = scene.start()
    uid = scene.make_job()
    scene.kubelet.await_pods(uid, "Prepare")
    (record,) = records(scene, uid)
    foreign = f"ffffffff{uid[8:]}"
    text = yaml.safe_dump(record).replace(uid, foreign).replace(uid[:5], foreign[:5])
    restored = yaml.safe_load(text)
    restored["data"]["namespaceUid"] = "00000000-0000-0000-0000-000000000000"
    restored |= {"apiVersion": "apps/v1", "kind": "ControllerRevision"}
    restored["metadata"] = {
        k: restored["metadata"][k] for k in ("name", "namespace", "labels", "annotations")
    }
    kube.create(restored)

    wait_for("it is told", lambda: any("restored backup" in line["message"] for line in operator.lines()))
    assert cleanup_jobs(scene, foreign) == []


def test_a_cluster_restored_from_a_snapshot_goes_on_and_deletes_nothing_of_a_live_run(tmp_path: Path) -> None:
    plane, snapshot = tmp_path / "plane", tmp_path / "snapshot"
    namespace = "restored"
    settings = {
        "namespaces": [namespace],
        "operatorNamespace": namespace,
        "trainerImage": "registry.example/trainer:1",
        "resyncSeconds": 5,
    }

    def scene_of(kubeconfig: Path) -> Scene:
        return Scene(Kube(kubeconfig), namespace, tmp_path, settings)

    def end(scene: Scene) -> None:
        for operator in scene.operators:
            operator.stop()
            assert complaints(operator) == []

    with control_plane(plane, controllers=True) as kubeconfig:
        scene = scene_of(kubeconfig)
        crd = yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text())
        scene.kube.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        scene.kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        wait_for("FineTuneJobs are served", lambda: _is_served(scene.kube, namespace))
        scene.start()
        uid = scene.make_job()
        scene.go_through(uid, "Prepare")
        scene.kubelet.run(scene.kubelet.await_pods(uid, "Train"))
        scene.await_state("Training")
        end(scene)
    shutil.copytree(plane / "etcd", snapshot)

    with control_plane(plane, controllers=True) as kubeconfig:
        scene = scene_of(kubeconfig)
        scene.start()
        scene.kube.delete("FineTuneJob", namespace, "tickets")
        scene.kubelet.await_pods(uid, "Cleanup", seconds=60)
        end(scene)
    shutil.rmtree(plane / "etcd")
    shutil.copytree(snapshot, plane / "etcd")

    with control_plane(plane, controllers=True) as kubeconfig:
        scene = scene_of(kubeconfig)
        scene.start()
        pods = scene.kubelet.await_pods(uid, "Train")
        scene.await_state("Training")
        scene.kubelet.finish(pods)
        scene.go_through(uid, "Publish")
        scene.await_state("Succeeded")
        assert cleanup_jobs(scene, uid) == []
        everything_goes_after_deletion(scene, uid)
        end(scene)


def _is_served(kube: Kube, namespace: str) -> bool:
    try:
        kube.list("FineTuneJob", namespace)
    except RefusedError:
        return False
    return True
