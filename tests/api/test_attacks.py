"""What a tenant who may write FineTuneJobs tries, on a real API server. docs/security lists all attacks."""

import copy
from typing import Any

import pytest

from finetune_trainer.contract import FailureClass
from tests.api.harness import UID, Scene, message_for
from tests.api.kube import KINDS, Kube, RefusedError, wait_for

pytestmark = pytest.mark.api
POD_FIELDS: dict[str, Any] = {
    "activeDeadlineSeconds": 1,
    "affinity": {"nodeAffinity": {}},
    "annotations": {"container.apparmor.security.beta.kubernetes.io/trainer": "unconfined"},
    "args": ["--root", "/"],
    "automountServiceAccountToken": True,
    "command": ["sh", "-c", "id"],
    "containers": [{"name": "second", "image": "evil"}],
    "dnsConfig": {"nameservers": ["203.0.113.1"]},
    "env": [{"name": "LD_PRELOAD", "value": "/evil.so"}],
    "envFrom": [{"secretRef": {"name": "bank"}}],
    "ephemeralContainers": [{"name": "debug", "image": "evil"}],
    "hostAliases": [{"ip": "203.0.113.1", "hostnames": ["minio"]}],
    "hostIPC": True,
    "hostNetwork": True,
    "hostPID": True,
    "image": "evil",
    "imagePullSecrets": [{"name": "of-others"}],
    "initContainers": [{"name": "first", "image": "evil"}],
    "labels": {"app": "bank"},
    "nodeName": "control-plane",
    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
    "podSpec": {"hostPID": True},
    "podTemplate": {"spec": {"hostPID": True}},
    "priorityClassName": "system-node-critical",
    "runtimeClassName": "host",
    "schedulerName": "evil",
    "securityContext": {"privileged": True},
    "serviceAccount": "admin",
    "serviceAccountName": "admin",
    "sysctls": [{"name": "kernel.msgmax", "value": "1"}],
    "template": {"spec": {"hostPID": True}},
    "tolerations": [{"operator": "Exists"}],
    "trainerImage": "evil",
    "volumeDevices": [{"name": "disk", "devicePath": "/dev/sda"}],
    "volumeMounts": [{"name": "host", "mountPath": "/host", "subPath": "link"}],
    "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
}
"""Fields of a pod that the site decides, with the value of an attacker."""
PLACES = ("spec", "spec.resources", "spec.model", "spec.dataset", "spec.output", "spec.storage")
OTHER_NAMESPACE = (
    "spec.storage.secretRef",
    "spec.storage.caBundleRef",
    "spec.model.storage.secretRef",
    "spec.dataset.storage.secretRef",
    "spec.output.storage.secretRef",
)
STORAGE = {"endpoint": "https://minio.storage:9000", "secretRef": {"name": "s3"}}
JOB: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "attack", "namespace": "default"},
    "spec": {
        "task": "TextClassification",
        "model": {"uri": "s3://models/minilm"},
        "dataset": {"train": {"uri": "s3://data/tickets/train.jsonl"}},
        "output": {"uri": "s3://tuned/support/"},
        "resources": {},
        "storage": STORAGE,
    },
}


def with_field(path: str, value: Any) -> dict[str, Any]:
    """The job with one more field."""
    made = copy.deepcopy(JOB)
    *parents, last = path.split(".")
    here = made
    for key in parents:
        here = here.setdefault(key, copy.deepcopy(STORAGE) if key == "storage" else {})
    here[last] = value
    return made


def dry_run(kube: Kube, made: dict[str, Any], validation: str) -> Any:
    path = KINDS["FineTuneJob"].format("default")
    return kube.call("POST", f"{path}?dryRun=All&fieldValidation={validation}", made)


@pytest.mark.parametrize("place", PLACES)
def test_attack_no_field_of_a_pod_can_be_set(kube: Kube, place: str) -> None:
    """The author cannot name a service account, a volume, an image or anything else of a pod."""
    assert dry_run(kube, JOB, "Strict")
    for field, value in POD_FIELDS.items():
        made = with_field(f"{place}.{field}", value)
        with pytest.raises(RefusedError, match=rf'unknown field "{place}\.{field}"'):
            dry_run(kube, made, "Strict")
        stored = dry_run(kube, made, "Ignore")["spec"]
        assert stored == dry_run(kube, JOB, "Strict")["spec"], field


@pytest.mark.parametrize("place", OTHER_NAMESPACE)
def test_attack_a_secret_or_certificate_of_another_namespace(kube: Kube, place: str) -> None:
    made = with_field(f"{place}.namespace", "kube-system")
    with pytest.raises(RefusedError, match=rf'unknown field "{place}\.namespace"'):
        dry_run(kube, made, "Strict")
    for name in ("kube-system/keys", "../kube-system/keys", "keys\n", "*", ""):
        with pytest.raises(RefusedError, match=rf"{place}\.name"):
            dry_run(kube, with_field(f"{place}.name", name), "Strict")


def test_attack_a_status_that_the_author_writes_at_the_creation(kube: Kube, namespace: str) -> None:
    made = copy.deepcopy(JOB) | {"status": {"state": "Succeeded", "message": "done"}}
    made["metadata"]["namespace"] = namespace
    stored = kube.call("POST", KINDS["FineTuneJob"].format(namespace), made)
    # The defaults of the definition.
    assert stored["status"] == {"observedGeneration": 0, "attempts": [], "conditions": []}


def test_attack_a_pod_with_the_labels_of_a_run_ends_no_attempt(scene: Scene) -> None:
    """The labels of the operator do not make a pod a pod of a Job: the label of the Job controller does."""
    kube, namespace = scene.kube, scene.namespace
    operator = scene.start()
    uid = scene.make_job()
    [pod] = scene.kubelet.await_pods(uid, "Prepare")
    before = operator.metric("finetune_operator_reconciles_total") or 0
    meta = {
        "name": "forged",
        "namespace": namespace,
        "labels": {k: v for k, v in pod["metadata"]["labels"].items() if k.startswith("finetune.dev/")},
        "annotations": pod["metadata"]["annotations"],
    }
    container = {"name": "trainer", "image": "evil"}
    spec = {"containers": [container], "restartPolicy": "Never", "automountServiceAccountToken": False}
    forged = kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    scene.kubelet.terminate(forged, 0, message_for(pod, FailureClass.SUCCESS).encode().decode())
    wait_for(
        "the operator has looked",
        lambda: (operator.metric("finetune_operator_reconciles_total") or 0) > before,
    )
    assert scene.jobs_of(uid) == ["p1"]
    scene.kubelet.run([pod])
    scene.kubelet.finish([pod], FailureClass.USER_DATA)
    status = scene.await_state("Failed")
    assert [(a["stage"], a["outcome"]) for a in status["attempts"]] == [("Prepare", "Failed")]


def test_attack_a_job_with_the_labels_of_another_run(scene: Scene) -> None:
    """Labels of a FineTuneJob are the author's: no object of another run is changed or deleted for them."""
    kube, namespace = scene.kube, scene.namespace
    scene.start()
    victim = scene.make_job("victim")
    scene.go_through(victim, "Prepare")
    scene.kubelet.run(scene.kubelet.await_pods(victim, "Train"))
    scene.await_state("Training", name="victim")

    def objects() -> dict[tuple[str, str], Any]:
        return {
            (kind, found["metadata"]["name"]): found["metadata"]["uid"]
            for kind in ("Job", "Pod", "Service", "NetworkPolicy", "ControllerRevision")
            for found in kube.list(kind, namespace, f"{UID}={victim}")
        }

    before = objects()
    labels = {UID: victim, "finetune.dev/job": "victim", "finetune.dev/role": "cleanup"}
    attacker = scene.make_job("attacker", labels=labels)
    pods = scene.kubelet.await_pods(attacker, "Prepare")
    assert pods[0]["metadata"]["labels"][UID] == attacker
    kube.delete("FineTuneJob", namespace, "attacker")
    cleanup = scene.kubelet.await_pods(attacker, "Cleanup", seconds=60)
    assert attacker in cleanup[0]["metadata"]["annotations"]["finetune.dev/config"]
    assert victim not in cleanup[0]["metadata"]["annotations"]["finetune.dev/config"]
    assert objects() == before
    assert scene.status("victim")["state"] == "Training"
