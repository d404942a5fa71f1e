"""A whole cluster of its own name, beside whatever else runs on this machine."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devcluster import binaries, images, node
from devcluster.cluster import Cluster
from devcluster.down import down
from devcluster.host import _SETTINGS, NODE_FOLDERS
from devcluster.places import DevclusterError, cache, state
from devcluster.up import up

ROOT = Path(__file__).parents[2]
NAME = "trial"


@dataclass(frozen=True)
class Machine:
    """What a cluster could leave behind on this machine."""

    processes: frozenset[str]
    mounts: frozenset[str]
    network_namespaces: frozenset[str]
    links: frozenset[str]
    addresses: str
    packet_filter: str
    control_groups: frozenset[str]
    settings: tuple[str, ...]
    folders: frozenset[str]


def machine() -> Machine:
    """Look at the machine. Other people's image builds and processes come and go, and are left out."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()]
    places = [Path("/run/netns"), Path("/run/containerd"), state(), *map(Path, NODE_FOLDERS)]
    return Machine(
        processes=frozenset(processes_of_trial()),
        mounts=frozenset(
            line for line in mounts if "/containers/storage" not in line and "buildah" not in line
        ),
        network_namespaces=frozenset(map(str, Path("/run/netns").glob("*"))),
        links=frozenset(map(str, Path("/sys/class/net").iterdir())),
        addresses=output("ip", "-brief", "address", "show", "dev", "lo") + output("ip", "route"),
        packet_filter=output("nft", "list", "ruleset"),
        control_groups=frozenset(group for group in groups if "kubepods" in group or "devcluster" in group),
        settings=tuple((Path("/proc/sys") / name).read_text() for name in _SETTINGS),
        folders=frozenset(str(place) for place in places if place.exists())
        | frozenset(str(entry) for entry in (state().iterdir() if state().exists() else [])),
    )


def processes_of_trial() -> list[str]:
    found = []
    own = [str(state() / NAME), f"devcluster-{NAME}"]
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit():
                continue
            told = (entry / "environ").read_text(errors="replace") + (entry / "cgroup").read_text()
            told += (entry / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if any(mark in told for mark in own):
            found.append(entry.name)
    return found


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def devcluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "devcluster", *arguments],
        cwd=ROOT,
        env=os.environ | {"DEVCLUSTER_NAME": NAME},
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(*arguments: str) -> str:
    done = devcluster(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def report() -> Any:
    return json.loads(devcluster("status", "--json").stdout)


def eventually(reached: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.1)


@pytest.fixture
def before() -> Iterator[Machine]:
    """The machine without the trial cluster; it is taken down afterwards whatever happened."""
    for name in binaries.CLUSTER_PROGRAMS:
        binaries.path(name)
    succeed("down")
    yield machine()
    succeed("down", "--images")
    assert not (cache() / "containerd" / NAME).exists()


def kubectl(*arguments: str, given: object = None) -> str:
    reach = report()["reach"]
    return subprocess.run(
        [reach["kubectl"], f"--kubeconfig={reach['kubeconfig']}", *arguments],
        input=None if given is None else json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def restricted_pod() -> dict[str, Any]:
    """A pod that resolves a name and mounts memory, a Secret's kind of mount and a volume."""
    limits = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": images.USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "pause",
        "image": images.reference(binaries.path("pause")),
        "securityContext": limits,
        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}, {"name": "disk", "mountPath": "/data"}],
    }
    volumes = [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}]
    spec = {"containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "work"}, "spec": spec}


def test_a_cluster_runs_pods_and_leaves_the_machine_as_it_was(before: Machine) -> None:
    succeed("up")
    running = report()
    assert running["healthy"], running

    kubectl("create", "namespace", "work")
    kubectl("label", "namespace", "work", "pod-security.kubernetes.io/enforce=restricted")
    kubectl("apply", "-f", "-", given=restricted_pod())
    kubectl("wait", "--namespace=work", "--for=condition=Ready", "pod/one", "--timeout=60s")
    assert machine() != before

    succeed("up")
    assert report() == running

    succeed("down")
    assert machine() == before
    succeed("down")


def test_what_died_is_started_again_and_the_cluster_remembers(before: Machine) -> None:
    succeed("up")
    kubectl("create", "configmap", "remembered")
    for victim in ("etcd", "kube-apiserver", "kubelet", "containerd", "kube-proxy", "registry"):
        pid = report()["components"][victim]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=victim: report()["components"][name] is None)  # type: ignore[misc]
    succeed("up")
    after = report()
    assert after["healthy"], after
    assert "remembered" in kubectl("get", "configmaps", "-o", "name")
    succeed("down")
    assert machine() == before


def killed_up(seconds: float) -> bool:
    """Run `up` and kill it after a while; tell whether it was still at work."""
    command = [sys.executable, "-m", "devcluster", "up"]
    environment = os.environ | {"DEVCLUSTER_NAME": NAME}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as up:
        try:
            up.wait(seconds)
        except subprocess.TimeoutExpired:
            up.kill()
            return True
    return False


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_up_can_be_gone_on_with_and_cleared(before: Machine, seed: int) -> None:
    moments = random.Random(seed)  # noqa: S311 - moments, not secrets
    for _ in range(3):
        killed_up(moments.uniform(0.2, 4.0))
    succeed("up")
    assert report()["healthy"]
    succeed("down")
    assert machine() == before
    killed_up(moments.uniform(0.2, 9.0))
    succeed("down")
    assert machine() == before


def test_a_killed_down_can_be_repeated(before: Machine) -> None:
    succeed("up")
    command = [sys.executable, "-m", "devcluster", "down"]
    environment = os.environ | {"DEVCLUSTER_NAME": NAME}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as down:
        eventually(
            lambda: (
                not Cluster(NAME, state() / NAME).kubeconfig.exists()
                or down.poll() is not None
                or not report()["healthy"]
            )
        )
        down.kill()
    succeed("down")
    assert machine() == before


def test_a_component_that_cannot_start_is_told_with_its_last_words(
    before: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Cluster(NAME, state() / NAME)
    commands = node.commands
    broken = {"kubelet": [str(binaries.path("kubelet")), "--no-such-flag"]}
    monkeypatch.setattr(node, "commands", lambda *given: commands(*given) | broken)
    with pytest.raises(
        DevclusterError, match=r"the node does not get ready \(kubelet ended\)(?s:.*)no-such-flag"
    ):
        up(here)
    monkeypatch.undo()
    up(here)
    down(here)
    assert machine() == before
