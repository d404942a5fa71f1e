"""Bringing a cluster up: every step looks at what is there, so it can go on after it was stopped anywhere."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from devcluster import (
    addons,
    binaries,
    components,
    credentials,
    host,
    images,
    kubeapi,
    node,
    objectstore,
    packages,
    pki,
    processes,
    status,
)
from devcluster.cluster import API_PORT, REGISTRY, REGISTRY_PORT, Cluster
from devcluster.places import DevclusterError, cache, locked, write_whole
from devcluster.progress import say, step

_READY_SECONDS = 180.0
_START_SECONDS = 5.0
_LOOK_SECONDS = 0.05


def up(cluster: Cluster) -> None:
    """Bring a cluster up, or back up, and wait until it serves names and objects.

    Raises:
        DevclusterError: something is missing or does not come up; it says what, with the end of its log.
    """
    packages.require(*packages.PROGRAMS)
    absent = binaries.missing(binaries.CLUSTER_PROGRAMS)
    if absent:
        say(f"building {len(absent)} programs from source, once: about 15 minutes on 2 cores")
    for name in binaries.CLUSTER_PROGRAMS:
        binaries.path(name)
    with locked(cache() / "lock" / cluster.name):
        host.admit(cluster)
        _write_files(cluster)
        host.ensure_control_groups(cluster)
        with step("network and namespaces of the node"):
            inside = _ensure_holder(cluster)
            host.ensure_link(cluster, inside)
        with ThreadPoolExecutor(max_workers=2) as pool, step("etcd, registry, containerd, API server"):
            _ensure_running(cluster, inside, ("etcd", "registry", "containerd", "kube-apiserver"))
            pushed = pool.submit(_ensure_images, cluster)
            api = credentials.caller(cluster.pki, "admin", cluster.address, API_PORT)
            _wait(
                cluster, lambda: kubeapi.is_ready(api), "the API server does not get ready", "kube-apiserver"
            )
            pushed.result()
        with step("controllers, scheduler, kubelet, proxy, network policies"):
            _ensure_running(
                cluster, inside, ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
            )
            for manifest in _manifests(cluster):
                kubeapi.apply(api, manifest)
            _wait(cluster, lambda: status.node_is_ready(cluster), "the node does not get ready", "kubelet")
            # kube-router ends if the node is not registered.
            _ensure_running(cluster, inside, ("kube-router",))
        with step("names and object store"):
            _wait(cluster, lambda: status.resolves_names(cluster), "names do not resolve", "kubelet")
            _wait(
                cluster, lambda: status.stores_objects(cluster), "the object store does not answer", "kubelet"
            )


def _write_files(cluster: Cluster) -> None:
    """Write every file that the programs read."""
    folder = cluster.folder
    credentials.ensure_authorities(cluster.pki, cluster.address, cluster.name)
    for user in (*credentials.USERS, "node"):
        api = credentials.caller(cluster.pki, user, cluster.address, API_PORT)
        path = cluster.kubeconfig if user == "admin" else folder / f"{user}.kubeconfig"
        credentials.write_kubeconfig(path, api, cluster.name)
    write_whole(folder / "resolv.conf", "nameserver 127.0.0.1\n")
    write_whole(folder / "audit-policy.yaml", yaml.safe_dump(components.AUDIT_POLICY))
    kubelet = node.kubelet_config(cluster, counts_disk=host.root_is_on_disk())
    write_whole(folder / "kubelet.yaml", yaml.safe_dump(kubelet))
    proxy = node.kube_proxy_config(cluster, folder / "proxy.kubeconfig")
    write_whole(folder / "kube-proxy.yaml", yaml.safe_dump(proxy))
    registry = node.registry_config(cache() / "registry")
    write_whole(folder / "registry.yaml", yaml.safe_dump(registry))
    write_whole(folder / "cni" / "10-pods.conflist", json.dumps(node.pod_network()))
    write_whole(folder / "certs.d" / REGISTRY / "hosts.toml", node.registry_hosts())
    sandbox = images.reference(binaries.path("pause"))
    write_whole(folder / "containerd.toml", node.containerd_config(cluster, sandbox))
    (folder / "log").mkdir(exist_ok=True)
    if not cluster.storage_credentials.exists():
        _write_storage_identity(cluster)
    binaries.link(folder / "bin", ("kubectl",))


def _write_storage_identity(cluster: Cluster) -> None:
    """Make the object store's authority, certificate and root keys; these last: a sign that all is there."""
    authority = pki.new_authority("devcluster-storage")
    names = (*addons.STORAGE_NAMES, cluster.address, "localhost", "127.0.0.1")
    pki.write(cluster.folder, "storage", pki.issue(authority, "minio", names=names))
    write_whole(cluster.storage_ca, pki.certificate_pem(authority.certificate))
    access_key, secret_key = objectstore.new_keys()
    keys = json.dumps({"accessKey": access_key, "secretKey": secret_key})
    write_whole(cluster.storage_credentials, keys, mode=0o600)


def _ensure_holder(cluster: Cluster) -> int:
    """Return the pid of a process inside the node's namespaces, making them where there are none."""
    inside = status.inside(cluster)
    if inside is None:
        processes.start_marked(node.holder(cluster, host.NODE_FOLDERS), cluster.log("node"), cluster.mark)
        _wait(cluster, lambda: status.inside(cluster) is not None, "the node is not made", "node")
        inside = status.inside(cluster)
    if inside is None:
        raise DevclusterError("what held the node's namespaces ended at once; run `up` again")
    return inside


def _ensure_running(cluster: Cluster, inside: int, wanted: Iterable[str]) -> None:
    running = status.running(cluster)
    commands = node.commands(cluster, binaries.path)
    for component in wanted:
        if component not in running:
            enter = ["nsenter", f"--target={inside}", "--net", "--mount", "--"]
            processes.start_marked(enter + commands[component], cluster.log(component), cluster.mark)


def _ensure_images(cluster: Cluster) -> None:
    _wait(
        cluster,
        lambda: processes.listens(cluster.address, REGISTRY_PORT),
        "the image registry does not answer",
        "registry",
    )
    for name in ("pause", "coredns", "minio"):
        images.ensure(cluster, binaries.path(name))


def _manifests(cluster: Cluster) -> list[addons.Manifest]:
    keys = json.loads(cluster.storage_credentials.read_text())
    server = pki.Credential(_bytes(cluster, "storage.crt"), _bytes(cluster, "storage.key"))
    minio = images.reference(binaries.path("minio"))
    return [
        *addons.names(images.reference(binaries.path("coredns"))),
        *addons.storage(minio, server, keys["accessKey"], keys["secretKey"]),
    ]


def _bytes(cluster: Cluster, name: str) -> bytes:
    return Path(cluster.folder / name).read_bytes()


def _wait(cluster: Cluster, reached: Callable[[], bool], failure: str, component: str) -> None:
    """Wait until something is reached; not longer than the component that brings it lives."""
    started = time.monotonic()
    while not reached():
        elapsed = time.monotonic() - started
        starts = elapsed < _START_SECONDS or component not in status.COMPONENTS
        ended = not starts and component not in status.running(cluster)
        if ended or elapsed > _READY_SECONDS:
            log = cluster.log(component)
            why = f"{component} ended" if ended else f"waited {elapsed:.0f} s"
            raise DevclusterError(f"{failure} ({why}); the end of {log}:\n{processes.last_lines(log)}")
        time.sleep(_LOOK_SECONDS)
