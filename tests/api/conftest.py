"""A real API server, etcd and controller manager, one set for the test run. No kubelet: pods are made by the
Job controller, and what happens inside them is written into their status by the tests.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.controlplane import control_plane
from tests.api.harness import Kubelet, Operator, complaints
from tests.api.kube import Kube, RefusedError, wait_for

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
def settings(namespace: str) -> dict[str, Any]:
    """The operator's settings for one test: confined to its namespace, in a hurry."""
    return {
        "namespaces": [namespace],
        "operatorNamespace": namespace,
        "trainerImage": "registry.example/trainer:1",
        "resyncSeconds": 20,
        "pollSeconds": 1,
        "statusSeconds": 2,
        "deadlines": {"collection": 2},
    }


@pytest.fixture
def start_operator(kube: Kube, settings: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    """Starts replicas; afterwards each is ended and its log is read: no traceback, no unexpected error."""
    started: list[Operator] = []

    def start(kubeconfig: Path | None = None, **changes: Any) -> Operator:
        name = f"operator-{len(started)}"
        operator = Operator(tmp_path, kubeconfig or kube.kubeconfig, settings | changes, name)
        started.append(operator)
        return operator.start()

    yield start
    for operator in started:
        operator.end()
    found = [line for operator in started for line in complaints(operator)]
    assert not found, "\n".join(found)


@pytest.fixture
def kubelet(kube: Kube, namespace: str) -> Kubelet:
    return Kubelet(kube, namespace)
