import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster import addons, binaries, pki
from devcluster.controlplane import control_plane

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control-plane")


@pytest.fixture(scope="module")
def kubeconfig(directory: Path) -> Iterator[Path]:
    with control_plane(directory, controllers=True) as path:
        yield path


def kubectl(kubeconfig: Path, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binaries.path("kubectl"), f"--kubeconfig={kubeconfig}", *arguments],
        input=None if given is None else json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )


def eventually(reached: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.05)


def test_controllers_make_the_pods_of_a_job(kubeconfig: Path) -> None:
    assert kubectl(kubeconfig, "create", "job", "one", "--image=none").returncode == 0
    eventually(lambda: "one-" in kubectl(kubeconfig, "get", "pods", "-o", "name").stdout)


def test_every_write_is_in_the_audit_log(kubeconfig: Path, directory: Path) -> None:
    kubectl(kubeconfig, "create", "configmap", "audited")

    def written() -> bool:
        calls = [json.loads(line) for line in (directory / "audit.log").read_text().splitlines()]
        return any(
            call["verb"] == "create" and call.get("objectRef", {}).get("name") == "audited" for call in calls
        )

    eventually(written)


@pytest.mark.parametrize("deployment", ["coredns", "minio"])
def test_what_runs_in_every_cluster_passes_pod_security_restricted(kubeconfig: Path, deployment: str) -> None:
    server = pki.issue(pki.new_authority("test"), "minio")
    objects = [*addons.names("coredns:1"), *addons.storage("minio:1", server, "a", "b")]
    pod = next(
        found["spec"]["template"]
        for found in objects
        if found["kind"] == "Deployment" and found["metadata"]["name"] == deployment
    )
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": f"restricted-{deployment}",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    assert kubectl(kubeconfig, "apply", "-f", "-", given=space).returncode == 0
    spec = {
        name: value
        for name, value in pod["spec"].items()
        if name not in {"serviceAccountName", "priorityClassName"}
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    into = ["create", "--namespace", f"restricted-{deployment}", "-f", "-"]
    eventually(lambda: "default" in kubectl(kubeconfig, "get", "serviceaccounts", *into[1:3]).stdout)
    accepted = kubectl(kubeconfig, *into, given=body)
    assert accepted.returncode == 0, accepted.stderr
    spec["containers"][0]["securityContext"] = {"privileged": True}
    body["metadata"] = {"name": "q"}
    refused = kubectl(kubeconfig, *into, given=body)
    assert 'violates PodSecurity "restricted' in refused.stderr


def processes_using(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_nothing_runs_after_the_block(tmp_path: Path) -> None:
    with control_plane(tmp_path) as kubeconfig:
        assert kubectl(kubeconfig, "create", "namespace", "one").returncode == 0
        assert len(processes_using(tmp_path)) == 2
    assert processes_using(tmp_path) == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_runs_after_its_owner_was_ended(tmp_path: Path, signum: signal.Signals) -> None:
    owner = "import signal, sys, time; from pathlib import Path\n"
    owner += "from devcluster.controlplane import control_plane\n"
    # Whatever runs the tests in the background may have told them, and so their children, to ignore it.
    owner += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    owner += "with control_plane(Path(sys.argv[1])): print('up', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", owner, str(tmp_path / "own")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signum)
    eventually(lambda: processes_using(tmp_path / "own") == [])
