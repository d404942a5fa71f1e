import os
from pathlib import Path

import pytest

from finetune_trainer.pod.cgroup import oom_kills, usable_cpus, used_memory

V1 = "5:memory:/kubepods/pod1/c1\n2:cpu,cpuacct:/kubepods/pod1/c1\n0::/\n"
V2 = "0::/kubepods/pod1/c1\n"


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("inside", ["", "kubepods/pod1/c1"])
def test_version_1_counts_oom_kills_with_the_group_at_the_root_and_below(tmp_path: Path, inside: str) -> None:
    put(tmp_path / "memory" / inside / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert oom_kills(V1, tmp_path) == 3


@pytest.mark.parametrize("inside", ["", "kubepods/pod1/c1"])
def test_version_2_counts_oom_kills_with_the_group_at_the_root_and_below(tmp_path: Path, inside: str) -> None:
    put(tmp_path / inside / "memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 1\n")
    assert oom_kills(V2, tmp_path) == 2


def test_the_count_is_none_without_files_of_the_control_group(tmp_path: Path) -> None:
    assert oom_kills(V1, tmp_path) is None
    assert oom_kills("", tmp_path) is None


@pytest.mark.parametrize(
    ("file", "text", "membership"),
    [("cpu.max", "100000 100000\n", V2), ("cpu.max", "50000 100000\n", V2)],
)
def test_a_quota_of_one_cpu_or_less_is_one_cpu(tmp_path: Path, file: str, text: str, membership: str) -> None:
    put(tmp_path / file, text)
    assert usable_cpus(membership, tmp_path) == 1


def test_the_quota_of_version_1_limits_the_cpus(tmp_path: Path) -> None:
    put(tmp_path / "cpu,cpuacct/cpu.cfs_quota_us", "100000\n")
    put(tmp_path / "cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert usable_cpus(V1, tmp_path) == 1


@pytest.mark.parametrize("text", ["max 100000\n", "6400000 100000\n", ""])
def test_without_a_smaller_quota_the_affinity_limits_the_cpus(tmp_path: Path, text: str) -> None:
    put(tmp_path / "cpu.max", text)
    assert usable_cpus(V2, tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("file", "text", "membership"),
    [
        ("memory.stat", "anon 700\nfile 5000\nkernel 9\nshmem 30\nfile_mapped 40\n", V2),
        (
            "memory/memory.stat",
            "cache 5000\nrss 600\nshmem 20\ntotal_cache 5000\ntotal_rss 700\ntotal_shmem 30\n",
            V1,
        ),
    ],
)
def test_the_used_memory_has_no_caches_of_files(
    tmp_path: Path, file: str, text: str, membership: str
) -> None:
    put(tmp_path / file, text)
    assert used_memory(membership, tmp_path) == 730


def test_the_used_memory_is_none_without_files_of_the_control_group(tmp_path: Path) -> None:
    assert used_memory(V2, tmp_path) is None
