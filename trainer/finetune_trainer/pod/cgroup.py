"""Reads the control group (version 1 or 2) of the container: OOM kills, memory in use, usable CPUs."""

import os
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


def oom_kills(membership: str | None = None, mount: Path = _MOUNT) -> int | None:
    """The number of processes of this control group that the OOM killer has ended since the group exists.

    Args:
        membership: content of /proc/self/cgroup; None reads the file.
        mount: the folder in which the control groups are mounted.

    Returns:
        The number; None if no file of the control group has a count.
    """
    for folder in _folders("memory", membership, mount):
        for name in ("memory.events", "memory.oom_control"):
            count = _keyed(folder / name, "oom_kill")
            if count is not None:
                return count
    return None


def used_memory(membership: str | None = None, mount: Path = _MOUNT) -> int | None:
    """The memory of this control group that the kernel cannot take back, in bytes.

    The memory is that of processes (anonymous memory) and of /dev/shm, without caches of files.

    Args:
        membership: content of /proc/self/cgroup; None reads the file.
        mount: the folder in which the control groups are mounted.

    Returns:
        The bytes; None if no file of the control group tells them.
    """
    for folder in _folders("memory", membership, mount):
        for anonymous, shared in (("anon", "shmem"), ("total_rss", "total_shmem")):
            size = _keyed(folder / "memory.stat", anonymous)
            if size is not None:
                return size + (_keyed(folder / "memory.stat", shared) or 0)
    return None


def usable_cpus(membership: str | None = None, mount: Path = _MOUNT) -> int:
    """The number of CPUs that this process may use.

    Args:
        membership: content of /proc/self/cgroup; None reads the file.
        mount: the folder in which the control groups are mounted.

    Returns:
        The smaller of the CPU affinity and the CPU quota rounded down, at least 1.
    """
    cpus = len(os.sched_getaffinity(0))
    for folder in _folders("cpu", membership, mount):
        quota = _quota(folder)
        if quota is not None:
            return max(1, min(cpus, int(quota)))
    return cpus


def _folders(controller: str, membership: str | None, mount: Path) -> Iterator[Path]:
    """The folders that may belong to the control group, the most specific folder first.

    In a container, /proc/self/cgroup often contains the path of the host, while the group of the container
    is mounted at the root of the hierarchy. Therefore the root is the second candidate.
    """
    text = _text(Path("/proc/self/cgroup")) if membership is None else membership
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            hierarchy = mount / controllers
            root = hierarchy if hierarchy.is_dir() else mount / controller
        elif not controllers:
            root = mount / "unified" if (mount / "unified").is_dir() else mount
        else:
            continue
        yield root / path.lstrip("/")
        yield root


def _keyed(file: Path, key: str) -> int | None:
    for line in _text(file).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return None


def _quota(folder: Path) -> float | None:
    """The CPU quota in CPUs; None without a quota."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / f"cpu.cfs_{part}_us").strip() for part in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
