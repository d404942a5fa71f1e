"""The entry of the trainer image, before its supervisor takes over."""

import signal
import subprocess
import sys
from pathlib import Path

from finetune_trainer.contract import ExitCode
from tests.firstprocess import exit_code_when_told_to_leave

HELD = Path(__file__).parent / "programs" / "held_start.py"


def test_a_pod_told_to_leave_while_python_starts_leaves_at_once_as_preempted(tmp_path: Path) -> None:
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


def test_so_does_the_first_process_of_a_container_while_the_interpreter_starts(tmp_path: Path) -> None:
    code = exit_code_when_told_to_leave("finetune_trainer", tmp_path, "--root", str(tmp_path))
    assert code == ExitCode.PREEMPTED
