"""Prepare tries out the base model in this process, which has torch already: a process each takes 10 s."""

from pathlib import Path

import pytest
import torch  # noqa: F401 - before transformers, which Prepare would otherwise load without it for good

from finetune_trainer.stages import trial


@pytest.fixture(autouse=True)
def trial_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests with the marker `own_process` start the real process."""

    def run(folder: Path) -> str:
        trial.main(folder)
        return "ended with code 0"

    if request.node.get_closest_marker("own_process") is None:
        monkeypatch.setattr(trial, "_run_subprocess", run)
