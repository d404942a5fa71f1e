"""What the machine lends to clusters, and how it gets it back: settings, folders, control groups, a link."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster import processes
from devcluster.cluster import Cluster
from devcluster.places import DevclusterError, cache, locked, state, write_whole

# Programs on a node have these paths built in; a cluster gets folders of its own mounted over them.
NODE_FOLDERS = (
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
# The kubelet sets these for the whole machine.
_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
_SYSCTL = Path("/proc/sys")
_BEFORE = "before.json"
_GONE_SECONDS = 20.0
_CPU_SHARE = 2
"""CPU time of all pods together under contention, in shares of one process of the machine.

By default, a control group has the share of one process: tests beside the cluster would slow the pods down.
The share is small, because other tests need CPU time too, such as operators with time limits."""
_CPU_SETTINGS = {"cpu.shares": 1024 * _CPU_SHARE, "cpu.weight": 100 * _CPU_SHARE}
"""Files of the control group, of version 1 and version 2, and the values for `_CPU_SHARE`."""


def admit(cluster: Cluster) -> None:
    """Make a cluster's folder, and before the first one's record how the machine was.

    Also makes the folders of the machine that are mounted over.
    """
    with locked(_lock()):
        record = state() / _BEFORE
        if not record.exists():
            before = {
                "settings": {name: (_SYSCTL / name).read_text().strip() for name in _SETTINGS},
                "missing": [folder for folder in NODE_FOLDERS if not Path(folder).exists()],
            }
            write_whole(record, json.dumps(before))
        cluster.folder.mkdir(mode=0o700, exist_ok=True)
        for folder in NODE_FOLDERS:
            Path(folder).mkdir(parents=True, exist_ok=True)


@contextmanager
def alone(cluster: Cluster) -> Iterator[bool]:
    """Tell whether no other cluster is there, and let none come while the block runs."""
    with locked(_lock()):
        entries = state().iterdir() if state().exists() else ()
        yield not any(entry.is_dir() and entry != cluster.folder for entry in entries)


def dismiss(cluster: Cluster) -> None:
    """Remove a cluster's folder, and after the last one's put the machine back as it was."""
    with locked(_lock()):
        if cluster.folder.exists():
            # At once, so that no later bring-up takes a half removed folder for a cluster.
            cluster.folder.rename(_leaving(cluster))
        if _leaving(cluster).exists():
            shutil.rmtree(_leaving(cluster))
        if (state() / _BEFORE).exists() and not any(entry.is_dir() for entry in state().iterdir()):
            _restore(state() / _BEFORE)


def _leaving(cluster: Cluster) -> Path:
    return state() / f".{cluster.name}.leaving"


def _lock() -> Path:
    return cache() / "lock" / "machine"


def _restore(record: Path) -> None:
    before = json.loads(record.read_text())
    for name, value in before["settings"].items():
        if (_SYSCTL / name).read_text().strip() != value:
            (_SYSCTL / name).write_text(value)
    for folder in before["missing"]:
        # What is not empty has got another user meanwhile, and stays.
        if Path(folder).is_dir() and not any(Path(folder).iterdir()):
            Path(folder).rmdir()
    record.unlink()
    record.parent.rmdir()


def ensure_link(cluster: Cluster, node: int) -> None:
    """Connect the machine and the node by a pair of links with an address each.

    Args:
        cluster: whose node it is.
        node: pid of a process in the node's network.
    """
    inside = ["nsenter", f"--target={node}", "--net", "ip"]
    if subprocess.run([*inside, "link", "show", "eth0"], capture_output=True, check=False).returncode != 0:
        remove_link(cluster)
        pair = ["type", "veth", "peer", "name", "eth0", "netns", str(node)]
        _run(["ip", "link", "add", cluster.host_link, *pair])
    _run(["ip", "address", "replace", f"{cluster.host_address}/24", "dev", cluster.host_link])
    _run(["ip", "link", "set", cluster.host_link, "up"])
    _run([*inside, "address", "replace", f"{cluster.address}/24", "dev", "eth0"])
    _run([*inside, "link", "set", "eth0", "up"])
    _run([*inside, "route", "replace", "default", "via", cluster.host_address])


def remove_link(cluster: Cluster) -> None:
    """Remove the pair of links, where it is there; the kernel may be doing so already."""
    subprocess.run(["ip", "link", "delete", cluster.host_link], capture_output=True, check=False)


def root_is_on_disk() -> bool:
    """Tell whether the root file system is a disk's, and not a container's overlay."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return any(mount[1] == "/" and mount[0].startswith("/dev/") for mount in mounts)


def ensure_control_groups(cluster: Cluster) -> None:
    """Make the control group above all pods, in every hierarchy the machine has mounted."""
    for folder in _control_groups(cluster):
        folder.mkdir(exist_ok=True)
        # A version 1 cpuset takes no process until it is told its processors and memory.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            own, above = folder / setting, folder.parent / setting
            if own.exists() and above.exists() and not own.read_text().strip():
                own.write_text(above.read_text())
        for setting, share in _CPU_SETTINGS.items():
            if (folder / setting).exists():
                (folder / setting).write_text(str(share))


def remove_control_groups(cluster: Cluster) -> None:
    """End every process of every pod, and remove the cluster's control groups.

    Raises:
        DevclusterError: something in them does not end.
    """
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        trees = [tree for tree in _control_groups(cluster) if tree.exists()]
        if not trees:
            return
        for tree in trees:
            for group in [*sorted((path for path in tree.rglob("*") if path.is_dir()), reverse=True), tree]:
                _empty(group)
        if time.monotonic() > deadline:
            raise DevclusterError(f"control group {trees[0]} does not get empty; look at its cgroup.procs")
        time.sleep(0.02)


def _empty(group: Path) -> None:
    """End what is in a control group and remove it; what ends only later is left for the next round."""
    try:
        processes.kill(int(pid) for pid in (group / "cgroup.procs").read_text().split())
        group.rmdir()
    except OSError:
        return


def _control_groups(cluster: Cluster) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    hierarchies = sorted({mount[1] for mount in mounts if mount[2] in {"cgroup", "cgroup2"}})
    return [Path(hierarchy) / cluster.control_group for hierarchy in hierarchies]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevclusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
