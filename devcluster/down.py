"""Taking a cluster down, whatever state it is in: nothing of it is left, and the machine is as it was."""

import shutil
import subprocess
import time
from pathlib import Path

from devcluster import binaries, host, processes
from devcluster.cluster import Cluster
from devcluster.places import DevclusterError, cache, locked
from devcluster.progress import step

_GONE_SECONDS = 20.0


def down(cluster: Cluster, *, images: bool = False) -> None:
    """Take a cluster down. One that is not up, or half up, is fine.

    The node's mounts and links are inside its namespaces and end with the last process in them. The
    cache keeps the registry's images, and what the node has pulled.

    Args:
        cluster: which.
        images: also remove what the node has pulled.

    Raises:
        DevclusterError: a process does not end.
    """
    with locked(cache() / "lock" / cluster.name), step(f"taking {cluster.name} down"):
        deadline = time.monotonic() + _GONE_SECONDS
        while found := processes.marked(cluster.mark):
            processes.kill(found)
            if time.monotonic() > deadline:
                raise DevclusterError(f"processes {sorted(found)} of {cluster.name} do not end")
            time.sleep(0.02)
        host.remove_control_groups(cluster)
        host.remove_link(cluster)
        while _is_mounted_under(cluster.folder):
            if time.monotonic() > deadline:
                raise DevclusterError(f"something is still mounted under {cluster.folder}; see /proc/mounts")
            time.sleep(0.02)
        with host.alone(cluster) as alone:
            if alone:
                _forget_replaced_images(cluster)
        host.dismiss(cluster)
        if images and cluster.image_store.exists():
            shutil.rmtree(cluster.image_store)


def _forget_replaced_images(cluster: Cluster) -> None:
    """Remove from the registry what no tag names any more: every changed image leaves its predecessor there.

    Only while no registry runs on that folder, which would not expect it. One that was never started, or
    cannot be cleared, is left as it is: it costs disk, and the next time will do.
    """
    config = cluster.folder / "registry.yaml"
    if config.exists() and not binaries.missing(("registry",)):
        command = [str(binaries.path("registry")), "garbage-collect", "--delete-untagged", str(config)]
        subprocess.run(command, capture_output=True, check=False)


def _is_mounted_under(folder: Path) -> bool:
    lines = Path("/proc/mounts").read_text().splitlines()
    return any(line.split()[1].startswith(f"{folder}/") for line in lines)
