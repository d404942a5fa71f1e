"""People and jobs that share a cluster: who may use which keys, long names, one output for several jobs."""

import time

import pytest

from devcluster.places import DevclusterError
from tests.e2e.scene import (
    OUTPUTS,
    Scene,
    attempts,
    condition,
    finished,
    log,
    state_of,
    succeeded,
    tiny,
)


def allow(
    scene: Scene, name: str, users: list[str], groups: list[str], kinds: list[str], verbs: list[str]
) -> None:
    api = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{api}/v1",
        "kind": "Role",
        "metadata": {"name": name},
        "rules": [{"apiGroups": groups, "resources": kinds, "verbs": verbs}],
    }
    binding = {
        "apiVersion": f"{api}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": api, "kind": "User", "name": user} for user in users],
    }
    scene.apply(role)
    scene.apply(binding)


def test_only_who_may_read_the_keys_may_have_a_job_use_them(scene: Scene) -> None:
    allow(scene, "jobs", ["owner", "guest"], ["finetune.dev"], ["finetunejobs"], ["get", "create", "patch"])
    allow(scene, "keys", ["owner"], [""], ["secrets"], ["get"])
    job = tiny("shared", scene)
    with pytest.raises(DevclusterError) as refusal:
        scene.kubectl("--as=guest", "apply", "-f", "-", given=job)
    assert 'spec.storage.secretRef names the Secret "s3"' in str(refusal.value)
    assert f"guest may not get in namespace {scene.namespace}" in str(refusal.value)
    assert scene.get("FineTuneJob", "shared") is None
    scene.kubectl("--as=owner", "apply", "-f", "-", given=job)
    assert scene.get("FineTuneJob", "shared") is not None


def test_jobs_of_long_names_share_an_output_and_a_suffix_is_not_published_twice(scene: Scene) -> None:
    first = "j" * 63
    second = "0.tickets-of-the-support-team." + "x" * 70
    for name in (first, second):
        scene.apply(tiny(name, scene, resources={"nodes": 2} if name == second else {}))
    uids = {}
    for name in (first, second):
        job = succeeded(scene, name)
        uids[name] = job["metadata"]["uid"]
        assert attempts(job) == [(stage, 1, "Succeeded") for stage in ("Prepare", "Train", "Publish")]
        uri = f"s3://{OUTPUTS}/tuned/{scene.namespace}/{name}/v1/"
        assert job["status"]["model"]["uri"] == uri
        assert f"tuned/{scene.namespace}/{name}/v1/manifest.json" in scene.objects(
            f"tuned/{scene.namespace}/"
        )
    published = scene.objects(f"tuned/{scene.namespace}/{first}/")
    scene.kubectl("delete", "ftj", first)
    began = time.monotonic()
    scene.apply(tiny(first, scene))
    job = finished(scene, first)
    log.info("after %.0f s: %s", time.monotonic() - began, state_of(job))
    assert job["metadata"]["uid"] != uids[first]
    assert condition(job, "Succeeded")["reason"] == "OutputExists"
    assert attempts(job) == [("Prepare", 1, "Failed")]
    assert scene.objects(f"tuned/{scene.namespace}/{first}/") == published
