"""Prepare tries out the base model in this process, which has torch already: a process each takes 10 s.

`pod` runs a stage in a process, as a pod does.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch  # noqa: F401 - before transformers, which Prepare would otherwise load without it for good

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import FailureClass, TerminationMessage
from finetune_trainer.paths import Paths
from finetune_trainer.stages import trial


@pytest.fixture(autouse=True)
def trial_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_trial.py shows what the process of its own does."""

    def run(folder: Path) -> str:
        trial.main(folder)
        return "ended with code 0"

    if not request.module.__name__.endswith("test_trial"):
        monkeypatch.setattr(trial, "_run_subprocess", run)


@pytest.fixture
def pod(paths: Paths) -> Callable[[TrainConfig], TerminationMessage]:
    """Runs one stage as a pod does and gives back its termination message."""

    def start(config: TrainConfig) -> TerminationMessage:
        paths.config.parent.mkdir(parents=True, exist_ok=True)
        paths.config.write_text(config.model_dump_json(by_alias=True))
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "finetune_trainer", "--root", str(paths.root), "--port", "0"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "POD_UID": f"{config.stage.lower()}-pod"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        print(f"{config.stage}: {time.monotonic() - began:.1f} s")  # noqa: T201 - shown with -rP
        message = TerminationMessage.decode(paths.termination_log.read_bytes())
        assert message.failure is FailureClass.SUCCESS, ended.stderr[-4000:]
        assert ended.returncode == 0
        return message

    return start
