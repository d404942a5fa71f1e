"""What of a cluster is there: asked of processes, the API server, the name server and the object store."""

import ctypes
import os
import re
import socket
import ssl
import struct
import threading
import urllib.request
from pathlib import Path
from typing import Any

from devcluster import credentials, kubeapi, processes
from devcluster.addons import STORAGE_NAMES, STORAGE_PORT
from devcluster.cluster import API_PORT, DNS_ADDRESS, REGISTRY, REGISTRY_PORT, Cluster
from devcluster.places import DevclusterError

COMPONENTS = (
    "etcd",
    "registry",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kube-router",
)
_CLONE_NEWNET = 0x40000000
_TIMEOUT_SECONDS = 1.0
# A binary in the cache is called NAME-DIGEST.
_PROGRAM = re.compile(r"(?P<name>[a-z-]+?)(-[0-9a-f]{12})?")


def running(cluster: Cluster) -> dict[str, int]:
    """Return the pid of every component that runs."""
    found = {}
    for pid, command in processes.marked(cluster.mark).items():
        component = _component(command)
        if component:
            found[component] = pid
    return found


def report(cluster: Cluster) -> dict[str, Any]:
    """Return what runs, what answers, and how to reach it; for people and for programs (`status --json`)."""
    found = running(cluster)
    pids = {name: found.get(name) for name in COMPONENTS}
    api = credentials.caller(cluster.pki, "admin", cluster.address, API_PORT)
    checks = {
        "API server ready": kubeapi.is_ready(api),
        "node ready": node_is_ready(cluster),
        "names resolve": resolves_names(cluster),
        "object store answers": stores_objects(cluster),
    }
    return {
        "name": cluster.name,
        "healthy": all(pids.values()) and all(checks.values()),
        "components": pids,
        "checks": checks,
        "reach": {
            "kubeconfig": str(cluster.kubeconfig),
            "kubectl": str(cluster.folder / "bin" / "kubectl"),
            "apiServer": f"https://{cluster.address}:{API_PORT}",
            "registry": REGISTRY,
            "registryFromThisMachine": f"{cluster.address}:{REGISTRY_PORT}",
            "storageInCluster": f"https://{STORAGE_NAMES[-1]}:{STORAGE_PORT}",
            "storageFromThisMachine": cluster.storage_endpoint,
            "storageCa": str(cluster.storage_ca),
            "storageCredentials": str(cluster.storage_credentials),
            "auditLog": str(cluster.audit_log),
            "logs": str(cluster.folder / "log"),
        },
    }


def inside(cluster: Cluster) -> int | None:
    """Return the pid of a process inside the node's namespaces once they are made; any of them will do."""
    own = Path("/proc/self/ns/net").readlink()
    for pid, command in processes.marked(cluster.mark).items():
        if not _stays(command):
            continue  # one that makes the namespaces, or is on its way in
        try:
            if Path(f"/proc/{pid}/ns/net").readlink() != own:
                return pid
        except OSError:
            continue
    return None


def _stays(command: list[str]) -> bool:
    program = Path(command[0]).name
    return (
        command == ["sleep", "infinity"]
        or program.startswith("containerd-shim")
        or _component(command) is not None
    )


def _component(command: list[str]) -> str | None:
    program = _PROGRAM.fullmatch(Path(command[0]).name)
    return program["name"] if program and program["name"] in COMPONENTS else None


def node_is_ready(cluster: Cluster) -> bool:
    """Tell whether the node says it can run pods."""
    api = credentials.caller(cluster.pki, "admin", cluster.address, API_PORT)
    try:
        node = kubeapi.call(api, "GET", f"/api/v1/nodes/{cluster.name}")
    except (OSError, DevclusterError):
        return False
    conditions = node["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def resolves_names(cluster: Cluster) -> bool:
    """Tell whether the cluster's name server gives the API server's Service its address.

    Asked as a pod would: from the node's network, at the Service's address.
    """
    pid = inside(cluster)
    answers: list[bool] = []

    def ask() -> None:
        answers.append(
            pid is not None and _enter_network(pid) and _resolves("kubernetes.default.svc.cluster.local")
        )

    # A thread of its own: a namespace is entered by a thread, and there is no need to come back.
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    return answers == [True]


def stores_objects(cluster: Cluster) -> bool:
    """Tell whether the object store answers this machine, under its certificate."""
    url = f"{cluster.storage_endpoint}/minio/health/ready"
    try:
        tls = ssl.create_default_context(cafile=str(cluster.storage_ca))
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS, context=tls):  # noqa: S310 - an own URL
            return True
    except OSError:
        return False


def _enter_network(pid: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with Path(f"/proc/{pid}/ns/net").open() as namespace:
            return bool(libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0)
    except OSError:
        return False


def _resolves(name: str) -> bool:
    """Ask for a name's IPv4 address, as RFC 1035 says, and look only whether the answer holds one."""
    identifier = os.urandom(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = (
        identifier + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_TIMEOUT_SECONDS)
        try:
            client.sendto(question, (DNS_ADDRESS, 53))
            answer = client.recv(512)
        except OSError:
            return False
    records = struct.unpack(">H", answer[6:8])[0]
    return answer[:2] == identifier and records > 0
