"""Every Job of the namespace is suspended and admitted by turns, as a queueing system does, on real pods."""

import json
import threading
from collections.abc import Iterator

import pytest

from examples import demo
from tests.e2e.scene import (
    END_SECONDS,
    SLOW_SECONDS,
    Scene,
    attempts,
    cleaned_up,
    state_of,
    succeeded,
    tiny,
    until,
)

MUTATION = (
    'Object{metadata: Object.metadata{labels: {"kueue.x-k8s.io/queue-name": "default"}},'
    " spec: Object.spec{suspend: true}}"
)


def is_suspended(scene: Scene) -> bool:
    """Whether a Job that is created now would be suspended; the API server keeps nothing of it."""
    container = {"name": "probe", "image": "registry.local:5000/probe"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "probe"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }
    answer = scene.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", given=job)
    return bool(json.loads(answer)["spec"].get("suspend"))


@pytest.fixture
def queued(scene: Scene) -> Iterator[Scene]:
    """A policy suspends what is created; a thread admits what is suspended, each Job half a second later."""
    name = f"queue-{scene.namespace}"
    api = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}}
    policy = {
        "apiVersion": api,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": selector},
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": MUTATION}}
            ],
        },
    }
    binding = {
        "apiVersion": api,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    }
    ended = threading.Event()

    def admit() -> None:
        while not ended.wait(0.5):
            for job in scene.all_of("Job"):
                if job["spec"].get("suspend"):
                    patch = '{"spec":{"suspend":false}}'
                    scene.kubectl("patch", "job", job["metadata"]["name"], "--type=merge", "-p", patch)

    admitter = threading.Thread(target=admit)
    for made in (policy, binding):
        demo.kubectl(scene.target, "apply", "-f", "-", given=made)
    until("the policy is in force", SLOW_SECONDS, lambda: is_suspended(scene))
    admitter.start()
    yield scene
    ended.set()
    admitter.join()
    for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
        demo.kubectl(scene.target, "delete", kind, name)


def test_a_live_run_keeps_its_folder_and_a_deleted_one_loses_it(queued: Scene) -> None:
    scene = queued
    scene.apply(tiny("queued", scene, training={"epochs": 40}))
    uid = str(scene.job("queued")["metadata"]["uid"])
    prefix = scene.runs(uid)
    seen: set[str] = set()

    def finished() -> bool:
        # Train and Publish delete checkpoints themselves.
        now = {key for key in scene.objects(prefix) if not key.startswith(f"{prefix}checkpoints/")}
        assert seen <= now, f"deleted while the run was alive: {sorted(seen - now)}"
        seen.update(now)
        assert scene.all_of("Job", "finetune.dev/role=cleanup") == []
        return str(scene.job("queued").get("status", {}).get("state")) in {"Succeeded", "Failed"}

    until("it is finished", END_SECONDS, finished, lambda: state_of(scene.job("queued")), pause=0.5)
    job = succeeded(scene, "queued")
    assert attempts(job) == [(stage, 1, "Succeeded") for stage in ("Prepare", "Train", "Publish")]
    assert {key.removeprefix(prefix).partition("/")[0] for key in seen} >= {"prepared", "attempts"}
    assert all(j["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for j in scene.all_of("Job"))

    scene.kubectl("delete", "ftj", "queued")
    cleaned_up(scene, uid)
