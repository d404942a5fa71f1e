"""PURE command lines of the Kubernetes programs, shared by the whole cluster and the bare control plane."""

from dataclasses import dataclass
from pathlib import Path

SERVICE_ADDRESSES = "10.96.0.0/16"
KUBERNETES_SERVICE_ADDRESS = "10.96.0.1"


@dataclass(frozen=True)
class ApiServer:
    """Where an API server listens and what it stands on.

    Attributes:
        address: the IP address it is reached under.
        port: its HTTPS port.
        etcd_port: port of its etcd on the loopback.
        pki: folder with its certificates and keys.
        audit_policy: file that says which calls are recorded.
        audit_log: file they are recorded in, one JSON object a line.
    """

    address: str
    port: int
    etcd_port: int
    pki: Path
    audit_policy: Path
    audit_log: Path


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*"]},
        {"level": "Metadata"},
    ],
}


def etcd(data: Path, client_port: int, peer_port: int) -> list[str]:
    """Return etcd's command line; it never waits for the disk, as no cluster here outlives its machine."""
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        "etcd",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def kube_apiserver(binary: Path, server: ApiServer) -> list[str]:
    """Return the API server's command line, with everything on that the project's claims rest on."""
    pki = server.pki
    return [
        str(binary),
        f"--etcd-servers=http://127.0.0.1:{server.etcd_port}",
        f"--bind-address={server.address}",
        f"--advertise-address={server.address}",
        f"--secure-port={server.port}",
        f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-account.crt",
        f"--service-account-signing-key-file={pki}/service-account.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # No API server stands behind this one; without these lines every component logs that it misses them.
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--audit-policy-file={server.audit_policy}",
        f"--audit-log-path={server.audit_log}",
    ]


def kube_controller_manager(binary: Path, kubeconfig: Path, pki: Path) -> list[str]:
    """Return the controller manager's command line."""
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--service-account-private-key-file={pki}/service-account.key",
        f"--root-ca-file={pki}/ca.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
        # Forty controllers each ask for a token of their own at the start: at the default of 20 calls a
        # second that alone takes seconds.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
    ]
