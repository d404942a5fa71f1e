"""Who may talk to an API server: the certificates of its parts, and the kubeconfig files made of them."""

import base64
import os
import shutil
from pathlib import Path

import yaml

from devcluster import pki
from devcluster.components import KUBERNETES_SERVICE_ADDRESS
from devcluster.kubeapi import Api
from devcluster.places import write_whole

USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "proxy": ("system:kube-proxy", None),
    "router": ("kube-router", "system:masters"),
}
_SERVICE_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    KUBERNETES_SERVICE_ADDRESS,
)


def ensure_authorities(folder: Path, address: str, node: str) -> None:
    """Make all keys and certificates of a cluster, once: the folder appears complete or not at all.

    Args:
        folder: where they go.
        address: IP address of the API server and of the node.
        node: the node's name.
    """
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    authority = pki.new_authority("devcluster")
    write_whole(draft / "ca.crt", pki.certificate_pem(authority.certificate))
    pki.write(draft, "apiserver", pki.issue(authority, "kube-apiserver", names=(*_SERVICE_NAMES, address)))
    for user, (common_name, group) in USERS.items():
        pki.write(draft, user, pki.issue(authority, common_name, group))
    pki.write(
        draft, "node", pki.issue(authority, f"system:node:{node}", "system:nodes", names=(node, address))
    )
    pki.write(draft, "service-account", pki.new_signing_key())
    draft.rename(folder)


def write_kubeconfig(path: Path, api: Api, name: str) -> None:
    """Write a kubeconfig that holds all it needs, so that it can be copied elsewhere."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": f"https://{api.host}:{api.port}",
                    "certificate-authority-data": _encoded(api.ca),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": _encoded(api.certificate),
                    "client-key-data": _encoded(api.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    write_whole(path, yaml.safe_dump(content, sort_keys=False), mode=0o600)


def caller(folder: Path, user: str, address: str, port: int) -> Api:
    """Return the API server at an address, called as a user whose certificate lies in the folder."""
    return Api(address, port, folder / "ca.crt", folder / f"{user}.crt", folder / f"{user}.key")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
