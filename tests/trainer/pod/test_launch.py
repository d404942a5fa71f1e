"""The program of a pod, and its environment."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer.config import World
from finetune_trainer.contract import ROUND_VARIABLE, Stage
from finetune_trainer.paths import Paths
from finetune_trainer.pod.launch import MALLOC, Launch, launch
from tests.trainer.pod.test_supervisor import make_config

KEPT_MIB = """
import ctypes, json
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(2 << 20) for _ in range(200)]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, 2 << 20)
# Every second block, so that free blocks lie between used blocks.
for block in blocks[::2]:
    libc.free(block)
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps(pages * 4 // 1024))
"""


def started(stage: Stage, **environment: str) -> Launch:
    config = make_config(stage, World(processes_per_node=2))
    return launch(config, Paths(Path("/work")), node=0, cpus=4, environment=environment, seconds_left=60)


@pytest.mark.parametrize(("stage", "threads"), [(Stage.PREPARE, "4"), (Stage.TRAIN, "2")])
def test_the_processes_share_the_cpus(stage: Stage, threads: str) -> None:
    assert started(stage).environment["OMP_NUM_THREADS"] == threads


def test_an_attempt_may_have_fewer_pods_than_the_run() -> None:
    config = make_config(Stage.TRAIN, World(nodes=4, processes_per_node=2)).model_copy(update={"nodes": 1})
    made = launch(config, Paths(Path("/work")), node=0, cpus=4, environment={}, seconds_left=60)
    assert "--nnodes=1" in made.argv
    assert made.needs_rendezvous is False


def test_variables_of_the_pod_take_precedence() -> None:
    given = {"OMP_NUM_THREADS": "7", "MALLOC_TRIM_THRESHOLD_": "9", "TORCHDYNAMO_DISABLE": "0"}
    found = started(Stage.TRAIN, **given).environment
    assert {name: found[name] for name in given} == given
    assert found["MALLOC_MMAP_THRESHOLD_"] == MALLOC["MALLOC_MMAP_THRESHOLD_"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not the GNU C library")
def test_freed_tensors_return_to_the_system() -> None:
    """200 blocks of 2 MiB, of which 100 are freed. The C library has seen larger blocks before."""
    larger = "import ctypes\nfor _ in range(2): b = bytearray(30 << 20); del b\n"
    kept = {
        name: json.loads(
            subprocess.run(
                [sys.executable, "-c", larger + KEPT_MIB],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for name, environment in (("default", {}), ("rank", started(Stage.TRAIN).environment))
    }
    assert kept["rank"] < 250, kept
    assert kept["default"] > 400, kept


def test_the_ranks_know_the_round_after_the_first() -> None:
    config, paths = make_config(Stage.TRAIN), Paths(Path("/work"))
    rounds = [
        launch(
            config, paths, node=0, cpus=1, environment={}, seconds_left=9, current_round=number
        ).environment.get(ROUND_VARIABLE)
        for number in (0, 1)
    ]
    assert rounds == [None, "1"]
