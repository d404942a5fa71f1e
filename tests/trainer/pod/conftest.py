"""Starts supervisors with scripted ranks."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_trainer.config import TrainConfig
from finetune_trainer.paths import Paths
from finetune_trainer.pod.processes import descendants
from tests.trainer.pod.test_supervisor import Pod, write_config

SUPERVISED = Path(__file__).parents[1] / "programs" / "supervised.py"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """A function that starts pods; all remaining processes are killed at the end of the test."""
    pods: list[Pod] = []

    def begin(
        config: TrainConfig,
        script: str,
        *prefix: str,
        node: int = 0,
        ports: tuple[int, ...] = (),
        **environment: str,
    ) -> Pod:
        root = tmp_path / f"pod-{len(pods)}"
        write_config(root, config)
        Paths(root).progress_key.write_text("a key\n")
        output = tmp_path / f"pod-{len(pods)}.log"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [*prefix, sys.executable, str(SUPERVISED), str(root), script, *map(str, ports)],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "JOB_COMPLETION_INDEX": str(node), **environment},
            )
        pods.append(Pod(Paths(root), process, output))
        return pods[-1]

    yield begin
    for pod in pods:
        below = descendants(pod.process.pid)
        for pid in (*below, *([pod.process.pid] if pod.process.poll() is None else [])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pod.process.wait()
