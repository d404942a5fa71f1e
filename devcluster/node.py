"""PURE command lines and configuration of the node's programs, the scheduler and the registry."""

from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from devcluster import components
from devcluster.cluster import (
    API_PORT,
    DNS_ADDRESS,
    ETCD_PEER_PORT,
    ETCD_PORT,
    POD_ADDRESSES,
    REGISTRY_PORT,
    Cluster,
)

_CONFIG = Path(__file__).parent / "config"


def commands(cluster: Cluster, program: Callable[[str], Path]) -> dict[str, list[str]]:
    """Return the command line of every component of a cluster, by name.

    Args:
        cluster: whose components.
        program: gives the path of a built program by its name.
    """
    folder = cluster.folder
    server = components.ApiServer(
        address=cluster.address,
        port=API_PORT,
        etcd_port=ETCD_PORT,
        pki=cluster.pki,
        audit_policy=folder / "audit-policy.yaml",
        audit_log=cluster.audit_log,
    )
    reach_kubelet = [
        # Else `kubectl logs` would ask the machine's DNS for the node's name.
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={cluster.pki}/admin.crt",
        f"--kubelet-client-key={cluster.pki}/admin.key",
    ]
    controllers = folder / "controller-manager.kubeconfig"
    scheduler = folder / "scheduler.kubeconfig"
    return {
        "etcd": components.etcd(folder / "etcd", ETCD_PORT, ETCD_PEER_PORT),
        "registry": [str(program("registry")), "serve", str(folder / "registry.yaml")],
        "containerd": ["containerd", f"--config={folder}/containerd.toml"],
        "kube-apiserver": [*components.kube_apiserver(program("kube-apiserver"), server), *reach_kubelet],
        "kube-controller-manager": components.kube_controller_manager(
            program("kube-controller-manager"), controllers, cluster.pki
        ),
        "kube-scheduler": [
            str(program("kube-scheduler")),
            f"--kubeconfig={scheduler}",
            f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}",
            "--leader-elect=false",
        ],
        "kubelet": [
            str(program("kubelet")),
            f"--config={folder}/kubelet.yaml",
            f"--kubeconfig={folder}/node.kubeconfig",
            f"--hostname-override={cluster.name}",
            f"--node-ip={cluster.address}",
        ],
        "kube-proxy": [str(program("kube-proxy")), f"--config={folder}/kube-proxy.yaml"],
        # Only the part that enforces NetworkPolicies.
        "kube-router": [
            str(program("kube-router")),
            f"--kubeconfig={folder}/router.kubeconfig",
            f"--hostname-override={cluster.name}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            f"--service-cluster-ip-range={components.SERVICE_ADDRESSES}",
            "--health-port=0",
        ],
    }


def kubelet_config(cluster: Cluster, *, counts_disk: bool) -> dict[str, Any]:
    """Return the kubelet's configuration.

    Nothing is evicted and no image removed because the disk is full: this node shares the machine's disk, and
    that is not the cluster's to solve.

    Args:
        cluster: whose node.
        counts_disk: hold pods to their limits of ephemeral storage, which needs a root file system on a disk.
    """
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{cluster.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{cluster.pki}/node.crt",
        "tlsPrivateKeyFile": f"{cluster.pki}/node.key",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{cluster.folder}/resolv.conf",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/plugins",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cluster.control_group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": counts_disk,
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
    }


def kube_proxy_config(cluster: Cluster, kubeconfig: Path) -> dict[str, Any]:
    """Return the configuration of kube-proxy."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_ADDRESSES,
        "hostnameOverride": cluster.name,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "oomScoreAdj": 0,
        # Zero leaves the machine's connection tracking as it is.
        "conntrack": {"maxPerCore": 0},
    }


def pod_network() -> dict[str, Any]:
    """Return the CNI configuration: one bridge, addresses handed out on the node."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": POD_ADDRESSES}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}


def containerd_config(cluster: Cluster, sandbox_image: str) -> str:
    """Return containerd's configuration."""
    template = Template((_CONFIG / "containerd.toml").read_text())
    return template.substitute(folder=cluster.folder, sandbox_image=sandbox_image)


def registry_hosts() -> str:
    """Return what tells containerd where the local registry is."""
    return (_CONFIG / "hosts.toml").read_text()


def registry_config(data: Path) -> dict[str, Any]:
    """Return the configuration of the image registry."""
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(data)}, "delete": {"enabled": True}},
        "http": {"addr": f":{REGISTRY_PORT}"},
    }


def holder(cluster: Cluster, folders: tuple[str, ...]) -> list[str]:
    """Return the command that makes the node's namespaces and holds them.

    Args:
        cluster: whose node.
        folders: those of the machine that the node sees its own in place of.
    """
    own_folders = {folder: cluster.folder / "node" / folder.removeprefix("/") for folder in folders}
    # Pulled images are worth more than the cluster: fetching and deleting gigabytes again takes minutes.
    own_folders["/var/lib/containerd"] = cluster.image_store
    script = (_CONFIG / "node.sh").read_text()
    own = ["unshare", "--net", "--mount", "--propagation", "private"]
    pairs = [str(path) for folder, own_folder in own_folders.items() for path in (own_folder, folder)]
    return [*own, "sh", "-c", script, "node", *pairs]
