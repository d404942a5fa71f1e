"""An image's entry point as the first process of a container, told to leave while Python still starts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"


def exit_code_when_told_to_leave(module: str, folder: Path, *arguments: str, **environment: str) -> int:
    """The exit code of the entry point that runs a module, with SIGTERM before its first line.

    Args:
        module: what the image runs.
        folder: an empty one.
        arguments: of the entry point.
        environment: beyond this process's own.
    """
    lines = DOCKERFILE.read_text().splitlines()
    entries = [json.loads(line.removeprefix("ENTRYPOINT")) for line in lines if line.startswith("ENTRYPOINT")]
    # Two images run the trainer, by the same entry point.
    (entry,) = {tuple(entry) for entry in entries if entry[-2:] == ["-m", module]}
    command = [sys.executable if word == "python" else word for word in entry]
    # Python imports this before the module that it is told to run.
    (folder / "sitecustomize.py").write_text('print("starting", flush=True)\ninput()\n')
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with subprocess.Popen(
        [*alone, *command, *arguments],
        env=os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"} | environment,
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
            return process.wait(20)
        finally:
            process.kill()
