"""A real API server on the loopback, without a node: for tests of what only an API server can judge."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from devcluster import binaries, components, credentials, kubeapi, packages, processes
from devcluster.places import write_whole

_ADDRESS = "127.0.0.1"
_CONTROLLERS_KUBECONFIG = "controller-manager.kubeconfig"
_CONTROLLERS = ("*", "-pod-garbage-collector-controller")
"""All controllers except the controller that deletes pods of a node that does not exist, 40 to 80 s after
their binding: callers bind pods to nodes that do not exist."""


@contextmanager
def control_plane(directory: Path, *, controllers: bool = False) -> Iterator[Path]:
    """Run etcd and kube-apiserver, and yield the path of an administrator's kubeconfig.

    Everything ends with the `with` block, and with this process however that ends. The audit log (one JSON
    object for each call, without bodies) is `directory/audit.log`.

    Args:
        directory: an empty or new folder for all state and logs; the caller removes it.
        controllers: run kube-controller-manager too: Jobs make pods, owners' deletion is followed, namespaces
            end. Nothing runs the pods. Without it, pods need no service account and namespaces never end.

    Raises:
        DevclusterError: a program is missing or does not come up; with the end of its log.
    """
    packages.require("etcd-server")
    directory = directory.resolve()
    pki = directory / "pki"
    credentials.ensure_authorities(pki, _ADDRESS, "none")
    etcd_port, peer_port, port = free_ports(3)
    server = components.ApiServer(
        address=_ADDRESS,
        port=port,
        etcd_port=etcd_port,
        pki=pki,
        audit_policy=directory / "audit-policy.yaml",
        audit_log=directory / "audit.log",
    )
    write_whole(server.audit_policy, yaml.safe_dump(components.AUDIT_POLICY))
    # A loopback address is no valid endpoint of the `kubernetes` Service, so nobody keeps that Service here.
    apiserver = [
        *components.kube_apiserver(binaries.control_plane_program("kube-apiserver"), server),
        "--endpoint-reconciler-type=none",
    ]
    if not controllers:
        apiserver.append("--disable-admission-plugins=ServiceAccount")
    with ExitStack() as stack:
        etcd = processes.start_owned(
            components.etcd(directory / "etcd", etcd_port, peer_port), directory / "etcd.log"
        )
        stack.callback(processes.end_owned, etcd)
        log = directory / "kube-apiserver.log"
        process = processes.start_owned(apiserver, log)
        stack.callback(processes.end_owned, process)
        api = credentials.caller(pki, "admin", _ADDRESS, port)
        processes.await_answer(lambda: kubeapi.is_ready(api), process, log)
        kubeconfig = directory / "kubeconfig"
        credentials.write_kubeconfig(kubeconfig, api, "control-plane")
        caller = credentials.caller(pki, "controller-manager", _ADDRESS, port)
        credentials.write_kubeconfig(directory / _CONTROLLERS_KUBECONFIG, caller, "control-plane")
        if controllers:
            stack.enter_context(controller_manager(directory))
        yield kubeconfig


@contextmanager
def controller_manager(directory: Path, *only: str) -> Iterator[None]:
    """Run kube-controller-manager beside an API server, for a while.

    Args:
        directory: the folder of the `control_plane`.
        only: names of its controllers that run. Default: all except the garbage collector of pods.

    Raises:
        DevclusterError: it does not come up; with the end of its log.
    """
    pki = directory.resolve() / "pki"
    kubeconfig = directory.resolve() / _CONTROLLERS_KUBECONFIG
    (port,) = free_ports(1)
    log = directory / "kube-controller-manager.log"
    command = [
        *components.kube_controller_manager(
            binaries.control_plane_program("kube-controller-manager"), kubeconfig, pki
        ),
        f"--bind-address={_ADDRESS}",
        f"--secure-port={port}",
        f"--controllers={','.join(only or _CONTROLLERS)}",
    ]
    process = processes.start_owned(command, log)
    try:
        processes.await_answer(lambda: processes.listens(_ADDRESS, port), process, log)
        yield
    finally:
        processes.end_owned(process)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now; all are held until the last is found, so they differ."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((_ADDRESS, 0))
        return [listener.getsockname()[1] for listener in listeners]
