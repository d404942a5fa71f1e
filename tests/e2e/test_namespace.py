"""A whole namespace is deleted: it goes, whatever of a run is in it."""

from typing import Any

from examples import demo
from tests.e2e.scene import SLOW_SECONDS, Scene, finished, tiny, until


def test_a_namespace_goes_while_its_cleanup_fails_and_is_tried_again(scene: Scene) -> None:
    keys = ("--from-literal=accessKey=nobody", "--from-literal=secretKey=wrong-wrong")
    scene.kubectl("create", "secret", "generic", "wrong-keys", *keys)
    scene.apply(tiny("hopeless", scene, storage={"secretRef": {"name": "wrong-keys"}}))
    finished(scene, "hopeless")
    scene.kubectl("delete", "ftj", "hopeless")

    def failed() -> list[Any]:
        cleanups = scene.all_of("Pod", "finetune.dev/role=cleanup")
        return [pod for pod in cleanups if pod["status"].get("phase") == "Failed"]

    until("the cleanup has failed once", SLOW_SECONDS, failed)
    demo.kubectl(scene.target, "delete", "namespace", scene.namespace, "--wait=false")

    def gone() -> bool:
        return not demo.kubectl(
            scene.target, "get", "namespace", scene.namespace, "-o", "name", "--ignore-not-found"
        )

    until("the namespace is gone", 90, gone)
