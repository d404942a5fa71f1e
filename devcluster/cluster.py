"""PURE what a cluster's name decides: addresses, names of links and control groups, places of files."""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from devcluster.places import DevclusterError, cache, state

API_PORT = 6443
ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
REGISTRY_PORT = 5000
REGISTRY = f"registry.local:{REGISTRY_PORT}"
POD_ADDRESSES = "10.244.0.0/24"
DNS_ADDRESS = "10.96.0.10"
STORAGE_NODE_PORT = 30900

# A link's name has at most 15 characters.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,9}[a-z0-9]")


@dataclass(frozen=True)
class Cluster:
    """One cluster of this machine.

    Attributes:
        name: at most 11 lower-case letters, digits and hyphens; also the node's name.
        folder: everything it owns on disk, gone when it is down.
    """

    name: str
    folder: Path

    @property
    def host_link(self) -> str:
        """The machine's end of the link to the node."""
        return f"dev-{self.name}"

    @property
    def host_address(self) -> str:
        """The machine's address on that link."""
        return f"{self._network}.1"

    @property
    def address(self) -> str:
        """The node's address: of the API server, the registry and every NodePort."""
        return f"{self._network}.2"

    @property
    def control_group(self) -> str:
        """The control group above all pods, so that two kubelets do not clean up after each other."""
        return f"devcluster-{self.name}"

    @property
    def mark(self) -> str:
        """The environment entry of every process of the cluster that is not in a container."""
        return f"DEVCLUSTER_STATE={self.folder}"

    @property
    def pki(self) -> Path:
        """Folder of its keys and certificates."""
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Every API call but health checks, one JSON object a line, without bodies."""
        return self.folder / "log" / "audit.log"

    @property
    def image_store(self) -> Path:
        """What the node has pulled and unpacked; it outlives the cluster, in the cache."""
        return cache() / "containerd" / self.name

    @property
    def storage_ca(self) -> Path:
        """Certificate of the authority that signed the object store's certificate."""
        return self.folder / "storage-ca.crt"

    @property
    def storage_credentials(self) -> Path:
        """JSON with the object store's root keys: accessKey, secretKey."""
        return self.folder / "storage.json"

    @property
    def storage_endpoint(self) -> str:
        """The object store as this machine reaches it."""
        return f"https://{self.address}:{STORAGE_NODE_PORT}"

    @property
    def _network(self) -> str:
        return f"10.123.{zlib.crc32(self.name.encode()) % 256}"

    def log(self, component: str) -> Path:
        """Return the log of one of its programs."""
        return self.folder / "log" / f"{component}.log"


def chosen() -> Cluster:
    """Return the cluster that DEVCLUSTER_NAME names, `finetune` where it is not set.

    Raises:
        DevclusterError: the name does not fit.
    """
    name = os.environ.get("DEVCLUSTER_NAME", "finetune")
    if not _NAME.fullmatch(name):
        raise DevclusterError(
            f"DEVCLUSTER_NAME is {name!r}; take 2 to 11 lower-case letters, digits or hyphens, a letter first"
        )
    return Cluster(name, state() / name)
