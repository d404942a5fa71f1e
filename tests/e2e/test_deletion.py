"""Deleting a job at every stage: its pods go, what it left in the store goes, a published model stays."""

import json

from examples import demo
from tests.e2e.conftest import GRACE_SECONDS
from tests.e2e.scene import (
    OPERATOR,
    SLOW_SECONDS,
    Scene,
    begin_upload,
    cleaned_up,
    log,
    pods_gone,
    pods_running,
    succeeded,
    tiny,
    training,
    until,
    uploads,
)


def delete(scene: Scene, name: str) -> str:
    """Deletes a job as a user does; its uid."""
    uid = str(scene.job(name)["metadata"]["uid"])
    scene.kubectl("delete", "ftj", name)
    return uid


def nothing_is_left(scene: Scene, uid: str) -> None:
    log.info("pods were gone after %.1f s", pods_gone(scene, seconds=GRACE_SECONDS))
    cleaned_up(scene, uid)

    def children() -> list[str]:
        selector = f"finetune.dev/job-uid={uid},finetune.dev/role!=cleanup"
        kinds = ("Job", "Pod", "Service", "NetworkPolicy")
        return [o["metadata"]["name"] for kind in kinds for o in scene.all_of(kind, selector)]

    until("no child is left", SLOW_SECONDS, lambda: not children(), lambda: str(children()))


def test_deleted_in_prepare(scene: Scene) -> None:
    scene.apply(tiny("early", scene))
    pods_running(scene, "Prepare")
    nothing_is_left(scene, delete(scene, "early"))


def test_deleted_in_train_with_an_upload_that_nobody_ends(scene: Scene) -> None:
    scene.apply(tiny("middle", scene, training={"epochs": 1000}, resources={"nodes": 2}))
    training(scene, "middle", count=2)
    key = scene.runs(scene.job("middle")["metadata"]["uid"]) + "staging/1-left/model.safetensors"
    begin_upload(scene, key)
    assert uploads(scene, key)
    nothing_is_left(scene, delete(scene, "middle"))
    assert not uploads(scene, key)


def test_deleted_in_publish(scene: Scene) -> None:
    scene.apply(tiny("late", scene))
    pods_running(scene, "Publish")
    nothing_is_left(scene, delete(scene, "late"))


def test_deleted_after_its_end_while_the_operator_is_down(scene: Scene) -> None:
    scene.apply(tiny("done", scene))
    job = succeeded(scene, "done")
    scale(scene, 0)
    try:
        uid = delete(scene, "done")
        assert scene.objects(scene.runs(uid))
    finally:
        scale(scene, 1)
    nothing_is_left(scene, uid)
    published = scene.objects(f"tuned/{scene.namespace}/done/v1/")
    assert f"tuned/{scene.namespace}/done/v1/manifest.json" in published
    assert job["status"]["model"]["uri"].endswith(f"tuned/{scene.namespace}/done/v1/")


def scale(scene: Scene, replicas: int) -> None:
    """Scales the operator and waits until so many of its pods are there."""
    deployment = ("-n", demo.SYSTEM, "deploy/finetune-operator")
    demo.kubectl(scene.target, "scale", *deployment, f"--replicas={replicas}")

    def there() -> bool:
        pods = json.loads(demo.kubectl(scene.target, "get", "pods", *OPERATOR, "-o", "json"))["items"]
        ready = [
            pod
            for pod in pods
            if any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ())
            )
        ]
        return len(pods) == replicas == len(ready)

    until(f"{replicas} operators are there", SLOW_SECONDS, there)
