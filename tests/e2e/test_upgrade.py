"""Upgrade from an earlier release, rollback, removal and a new installation, while a job trains.

`releases/COMMIT.tar.xz` holds the sources of the earlier release, because a shallow clone lacks the commit:
`git archive COMMIT operator/finetune_operator trainer/finetune_trainer charts requirements Dockerfile
.dockerignore pyproject.toml | xz -9e`.
"""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from devcluster import binaries, builder
from devcluster.cluster import Cluster
from devcluster.places import REPOSITORY
from examples import demo
from tests.e2e.scene import (
    OPERATOR,
    SLOW_SECONDS,
    Scene,
    attempts,
    state_of,
    stopped,
    succeeded,
    tiny,
    training,
    until,
)

RELEASE = Path(__file__).parent / "releases" / "67a8965.tar.xz"
RELEASE_NAME = "finetune-operator"


@dataclasses.dataclass(frozen=True)
class Release:
    """A chart, and the images that the chart installs."""

    target: demo.Target
    chart: Path


@pytest.fixture(scope="module")
def earlier(target: demo.Target, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(RELEASE) as archive:
        archive.extractall(folder, filter="data")
    # Both releases have the same pins, so the wheel of DeepSpeed is the same. The earlier images use the base
    # image of this release, so that both releases share the layers of all packages.
    shutil.copytree(REPOSITORY / "wheels", folder / "wheels")
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("/python3.11/", "/python3.13/"))
    images = {}
    for name in ("operator", "trainer"):
        image = builder.build(name, folder, f"localhost/finetune-{name}-earlier:dev")
        images[name] = builder.load(cluster, image)
    return Release(dataclasses.replace(target, images=images), folder / "charts/finetune-operator")


def helm(target: demo.Target, *arguments: str) -> None:
    demo.command([str(binaries.path("helm")), *arguments, "--namespace", demo.SYSTEM], target)


def operator_images(target: demo.Target) -> set[str]:
    """The images of the pods of the operator that are not about to end."""
    pods = json.loads(demo.kubectl(target, "get", "pods", *OPERATOR, "-o", "json"))["items"]
    return {
        container["image"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
    }


def leader(target: demo.Target) -> str:
    """The identity of the replica that leads now; empty: none."""
    lease = json.loads(demo.kubectl(target, "-n", demo.SYSTEM, "get", "lease", RELEASE_NAME, "-o", "json"))
    return str(lease["spec"].get("holderIdentity") or "")


def test_pods_that_train_outlive_upgrade_rollback_and_removal(
    target: demo.Target, earlier: Release, new_scene: Callable[..., Scene]
) -> None:
    demo.install(earlier.target, chart=earlier.chart)
    assert operator_images(target) == {earlier.target.images["operator"]}
    scene = new_scene("upgrade")
    # The node has room for a second pod of the operator, which starts before the first pod ends.
    scene.apply(tiny("tuned", scene, training={"epochs": 20}, resources={"nodes": 2, "cpu": "500m"}))
    before = training(scene, "tuned", count=2)

    def untouched() -> None:
        """The same pods run, no container was restarted, and no attempt was added."""
        now = {pod["metadata"]["uid"]: pod for pod in scene.pods(ended=False)}
        assert set(now) == {pod["metadata"]["uid"] for pod in before}
        for pod in now.values():
            assert "deletionTimestamp" not in pod["metadata"]
            assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
        assert attempts(scene.job("tuned"))[1:] == [("Train", 1, "Running")], state_of(scene.job("tuned"))

    def leads(image: str) -> None:
        assert operator_images(target) == {image}
        until("one replica leads", SLOW_SECONDS, lambda: leader(target))

    with stopped(before):
        demo.install(target)
        leads(target.images["operator"])
        helm(target, "test", RELEASE_NAME)
        untouched()

        helm(target, "rollback", RELEASE_NAME, "--wait", "--timeout", "120s")
        leads(earlier.target.images["operator"])
        untouched()

        helm(target, "uninstall", RELEASE_NAME, "--wait")
        assert not operator_images(target)
        untouched()

        demo.install(target)
        leads(target.images["operator"])
        helm(target, "test", RELEASE_NAME)
        untouched()

    job = succeeded(scene, "tuned")
    assert attempts(job) == [(stage, 1, "Succeeded") for stage in ("Prepare", "Train", "Publish")]
    manifest = scene.objects(job["status"]["model"]["uri"].removeprefix("s3://e2e-outputs/"))
    assert any(name.endswith("manifest.json") for name in manifest)
