"""The entry of the trainer image, before its supervisor takes over."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from finetune_trainer.contract import ExitCode

HELD = Path(__file__).parent / "programs" / "held_start.py"
DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


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
    entries = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("ENTRYPOINT")]
    entry = json.loads(entries[-1].removeprefix("ENTRYPOINT"))
    assert entry[-2:] == ["-m", "finetune_trainer"]
    command = [sys.executable if word == "python" else word for word in entry]
    # Python imports this before the module that it is told to run.
    (tmp_path / "sitecustomize.py").write_text('print("starting", flush=True)\ninput()\n')
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with subprocess.Popen(
        [*alone, *command, "--root", tmp_path],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == b"starting\n"
            first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(first), signal.SIGTERM)
            process.stdin.write(b"\n")
            process.stdin.close()
            assert process.wait(20) == ExitCode.PREEMPTED
        finally:
            process.kill()
