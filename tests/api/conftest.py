"""A real API server, etcd and controller manager, one set for the test run. No kubelet: pods are made by the
Job controller, and what happens inside them is written into their status by the tests.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.controlplane import control_plane
from tests.api.harness import Scene, complaints
from tests.api.kube import Kube, RefusedError, wait_for
from tests.api.proxy import Proxy
from tests.api.rbac import rights_of_the_operator, rights_used

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def control_plane_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control-plane")


@pytest.fixture(scope="session")
def kube(control_plane_folder: Path) -> Iterator[Kube]:
    """The API server as its administrator, with our CustomResourceDefinition."""
    with control_plane(control_plane_folder, controllers=True) as kubeconfig:
        kube = Kube(kubeconfig)
        crd = yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text())
        kube.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        wait_for("FineTuneJobs are served", lambda: _is_served(kube))
        yield kube
    shutil.rmtree(control_plane_folder, ignore_errors=True)


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"t-{secrets.token_hex(4)}"
    kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


def _is_served(kube: Kube) -> bool:
    try:
        kube.list("FineTuneJob", "default")
    except RefusedError:
        return False
    return True


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, kube: Kube, namespace: str, tmp_path: Path, control_plane_folder: Path
) -> Iterator[Scene]:
    """Afterwards each operator is ended and its log is read: no traceback, no unexpected error.

    Tests with the marker `own_process` start the operator as the image does, other tests start forks.

    The audit log must have no call of an operator that the chart does not permit: most tests run the operator
    as an administrator, to whom the API server refuses nothing.
    """
    log = control_plane_folder / "audit.log"
    before = log.stat().st_size
    settings = {
        "namespaces": [namespace],
        "operatorNamespace": namespace,
        "trainerImage": "registry.example/trainer:1",
        "resyncSeconds": 20,
        "pollSeconds": 1,
        "statusSeconds": 2,
        "deadlines": {"collection": 2},
    }
    own_process = request.node.get_closest_marker("own_process") is not None
    scene = Scene(kube, namespace, tmp_path, settings, own_process)
    yield scene
    for operator in scene.operators:
        operator.end()
    found = [line for operator in scene.operators for line in complaints(operator)]
    assert not found, "\n".join(found)
    with log.open() as audit:
        audit.seek(before)
        calls = [json.loads(line) for line in audit if '"userAgent":"finetune-operator"' in line]
    assert not rights_used(calls) - rights_of_the_operator()


@pytest.fixture
def proxy(kube: Kube, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(kube, tmp_path / "proxied") as proxy:
        yield proxy


@pytest.fixture
def audit(control_plane_folder: Path, namespace: str) -> Callable[[], list[Any]]:
    """What the operator asked of the API server for this namespace, as the audit log has it."""

    def read() -> list[Any]:
        text = (control_plane_folder / "audit.log").read_text()
        calls = [json.loads(line) for line in text.splitlines() if namespace in line]
        return [call for call in calls if call.get("userAgent") == "finetune-operator"]

    return read
