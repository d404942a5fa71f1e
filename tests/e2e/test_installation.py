"""`helm test` with a job of the admin, and notifications with a key that the kubelet mounts."""

import json
from collections.abc import Callable

from devcluster import binaries
from devcluster.cluster import Cluster
from examples import demo
from tests.e2e.scene import SLOW_SECONDS, Scene, tiny, until
from tests.receiver import KEY, receiving


def test_helm_test_runs_a_job_and_a_target_is_told(
    target: demo.Target, new_scene: Callable[..., Scene], cluster: Cluster
) -> None:
    scene = new_scene("installation")
    secret = {"metadata": {"name": "events"}, "stringData": {"signingKey": KEY}}
    demo.kubectl(
        target,
        *("-n", demo.SYSTEM, "apply", "-f", "-"),
        given={"apiVersion": "v1", "kind": "Secret", **secret},
    )
    job = tiny("unused", scene)["spec"]
    with receiving(cluster.host_address) as receiver:
        targets = {"events": {"url": receiver.url, "secretName": "events", "allJobs": True}}
        test = {"namespace": scene.namespace, "job": job, "secretNames": ["s3"]}
        demo.install(
            target,
            *("--set", "settings.requireTls=false"),
            *("--set-json", f"settings.notifications.targets={json.dumps(targets)}"),
            *("--set-json", f"test={json.dumps(test)}"),
        )
        helm = [str(binaries.path("helm")), "test", "finetune-operator", "--namespace", demo.SYSTEM]
        demo.command([*helm, "--timeout", f"{SLOW_SECONDS:.0f}s"], target)
        assert scene.all_of("FineTuneJob") == [], "helm test deletes a job that succeeded"
        told = until(
            "both events are there",
            SLOW_SECONDS,
            lambda: [e["type"] for e in receiver.events()] if len(receiver.received) > 1 else None,
        )
    assert told == ["dev.finetune.job.started.v1", "dev.finetune.job.succeeded.v1"]
