"""PURE the Kubernetes objects of what runs in every cluster: names (CoreDNS) and the object store (MinIO)."""

import base64
from typing import Any

from devcluster.cluster import DNS_ADDRESS, STORAGE_NODE_PORT
from devcluster.images import USER
from devcluster.pki import Credential

Manifest = dict[str, Any]

STORAGE_NAMESPACE = "storage"
STORAGE_PORT = 9000
# Names that clients in the cluster use for the object store; its certificate holds them all.
STORAGE_NAMES = ("minio", "minio.storage", "minio.storage.svc", "minio.storage.svc.cluster.local")

# The cluster reaches nothing outside: any other name does not exist, and is said to at once.
_COREFILE = """\
cluster.local:1053 in-addr.arpa:1053 {
  errors
  health :8080
  ready :8181
  kubernetes cluster.local in-addr.arpa {
    pods insecure
    ttl 5
  }
}
.:1053 {
  errors
  template ANY ANY {
    rcode NXDOMAIN
  }
}
"""
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def names(image: str) -> list[Manifest]:
    """Return CoreDNS: a Deployment behind the address that every pod asks."""
    # The label that nearly every cluster uses, and that NetworkPolicies select.
    labels = {"k8s-app": "kube-dns"}
    container = {
        "name": "coredns",
        "image": image,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "securityContext": _RESTRICTED,
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    group = "rbac.authorization.k8s.io"
    watched = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    binding = {
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    }
    ports = [
        {"name": protocol.lower(), "port": 53, "targetPort": 1053, "protocol": protocol}
        for protocol in ("UDP", "TCP")
    ]
    service = {"clusterIP": DNS_ADDRESS, "selector": labels, "ports": ports}
    return [
        _object("v1", "ServiceAccount", "coredns", "kube-system"),
        _object(f"{group}/v1", "ClusterRole", "system:coredns", rules=watched),
        _object(f"{group}/v1", "ClusterRoleBinding", "system:coredns") | binding,
        _object("v1", "ConfigMap", "coredns", "kube-system", data={"Corefile": _COREFILE}),
        _object("v1", "Service", "kube-dns", "kube-system", spec=service),
        _deployment("coredns", "kube-system", labels, pod),
    ]


def storage(image: str, server: Credential, access_key: str, secret_key: str) -> list[Manifest]:
    """Return MinIO in a namespace under Pod Security `restricted`, with TLS, its data gone with its pod."""
    labels = {"app.kubernetes.io/name": "minio"}
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    container = {
        "name": "minio",
        "image": image,
        "args": ["server", f"--address=:{STORAGE_PORT}", "--certs-dir=/certificates", "--quiet", "/data"],
        "env": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": "minio-root", "key": key}}}
            for name, key in (("MINIO_ROOT_USER", "accessKey"), ("MINIO_ROOT_PASSWORD", "secretKey"))
        ]
        + [{"name": "MINIO_BROWSER", "value": "off"}],
        "ports": [{"name": "s3", "containerPort": STORAGE_PORT}],
        "securityContext": _RESTRICTED,
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
            {"name": "certificates", "mountPath": "/certificates", "readOnly": True},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/minio/health/ready", "port": STORAGE_PORT, "scheme": "HTTPS"},
            "periodSeconds": 1,
        },
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"fsGroup": USER},
        "containers": [container],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "temporary", "emptyDir": {}},
            {"name": "certificates", "secret": {"secretName": "minio-certificate"}},
        ],
    }
    port = {"name": "s3", "port": STORAGE_PORT, "nodePort": STORAGE_NODE_PORT}
    certificate = {"public.crt": _encoded(server.certificate), "private.key": _encoded(server.key)}
    keys = {"accessKey": _encoded(access_key.encode()), "secretKey": _encoded(secret_key.encode())}
    space = STORAGE_NAMESPACE
    namespace = _object("v1", "Namespace", space)
    namespace["metadata"]["labels"] = level
    return [
        namespace,
        _object("v1", "Secret", "minio-root", space, data=keys),
        _object("v1", "Secret", "minio-certificate", space, data=certificate),
        _object(
            "v1", "Service", "minio", space, spec={"type": "NodePort", "selector": labels, "ports": [port]}
        ),
        _deployment("minio", space, labels, pod),
    ]


def _object(api_version: str, kind: str, name: str, namespace: str | None = None, **content: Any) -> Manifest:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _deployment(name: str, namespace: str, labels: dict[str, str], pod: dict[str, Any]) -> Manifest:
    spec = {
        "replicas": 1,
        # One at a time: two would answer for the same names with different data.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return _object("apps/v1", "Deployment", name, namespace, spec=spec)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
