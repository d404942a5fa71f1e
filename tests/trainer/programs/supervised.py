"""Runs the real supervisor with a scripted rank: supervised.py ROOT SCRIPT [PORT PORT-OF-INDEX-0].

The script is such as `0=succeed,1=exit-7`. With the environment variable FAKE_AGENT, `fake_agent` stands for
torchrun. STOP_SECONDS and UNREACHABLE_SECONDS set the time limits of the gang.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_trainer.contract import PROGRESS_PORT
from finetune_trainer.paths import Paths
from finetune_trainer.pod import gang, supervisor
from finetune_trainer.pod.launch import Launch, launch

SCRIPTED = Path(__file__).with_name("scripted_rank.py")
FAKE_AGENT = Path(__file__).with_name("fake_agent.py")


def without_torchrun(*given: Any, **more: Any) -> Launch:
    """The program of a pod, with a stand-in for torchrun."""
    found = launch(*given, **more)
    python, *agent = found.argv
    assert agent[:2] == ["-m", "finetune_trainer.pod.agent"]
    return replace(found, argv=(python, str(FAKE_AGENT), *agent[2:]))


if __name__ == "__main__":
    if "FAKE_AGENT" in os.environ:
        supervisor.launch = without_torchrun  # type: ignore[attr-defined]
    for name in ("STOP_SECONDS", "UNREACHABLE_SECONDS"):
        if name in os.environ:
            setattr(gang, name, float(os.environ[name]))
    root, script, *ports = sys.argv[1:]
    port, of_first = map(int, ports) if ports else (0, PROGRESS_PORT)
    program = (str(SCRIPTED), "--script", script)
    sys.exit(supervisor.main(Paths(Path(root)), port, program, of_first))
