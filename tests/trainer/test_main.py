"""Tests of the entry point of the trainer image before the supervisor starts."""

import signal
import subprocess
import sys
from pathlib import Path

from finetune_trainer.contract import ExitCode
from tests.firstprocess import exit_code_when_told_to_leave

HELD = Path(__file__).parent / "programs" / "held_start.py"


def test_sigterm_during_the_imports_exits_at_once_with_code_preempted(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, HELD, "--root", tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == ExitCode.PREEMPTED
        finally:
            process.kill()


def test_sigterm_to_pid_1_during_the_start_of_python_exits_with_code_preempted(tmp_path: Path) -> None:
    code = exit_code_when_told_to_leave("finetune_trainer", tmp_path, "--root", str(tmp_path))
    assert code == ExitCode.PREEMPTED
