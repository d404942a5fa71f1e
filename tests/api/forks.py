"""Starts replicas of the operator as forks of a process that has imported the operator already.

The imports take seconds of CPU time. A fork is a process with its own arguments, environment and output, and
signals stop and kill the process. `python -m tests.api.forks` is the fork server.
"""

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from functools import cache
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_STARTING = threading.Lock()


class Forked:
    """A process that runs `finetune_operator`, with the methods of subprocess.Popen.

    Args:
        arguments: the command line arguments.
        environment: all environment variables.
        output: file to which standard output and standard error are appended.
    """

    def __init__(self, *arguments: str, environment: dict[str, str], output: Path) -> None:
        order = {"arguments": arguments, "environment": environment, "output": str(output)}
        self.pid = int(_server().ask(order))
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self._end = os.pidfd_open(self.pid)
        weakref.finalize(self, os.close, self._end)

    def poll(self) -> int | None:
        """The exit code, negative for the signal that killed the process; None while the process runs."""
        with self._lock:
            if self.returncode is None:
                self.returncode = _server().ask({"wait": self.pid})
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end of the process, and returns the exit code.

        Raises:
            subprocess.TimeoutExpired: the process still runs after `timeout` seconds.
        """
        select.select([self._end], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("finetune_operator", timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The fork server as seen by the tests. Several threads may use the server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()

    def ask(self, order: dict[str, Any]) -> Any:
        """Sends one order, and returns the answer."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Ends the server, and with it all its forks."""
        self._process.communicate()


@cache
def _started_server() -> _Server:
    server = _Server()
    atexit.register(server.end)
    return server


def _server() -> _Server:
    """The only server of this process; threads may start replicas at the same time."""
    with _STARTING:
        return _started_server()


def _serve() -> int:
    """Answers the orders of standard input. Returns in the fork, too: with the exit code of the operator."""
    from finetune_operator.__main__ import run  # noqa: PLC0415 - only the server imports the operator

    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    if len(threads) != 1:
        raise RuntimeError(f"a fork of a process with threads can deadlock: {threads}")
    # A collection in a fork then skips the objects of the imports, and leaves their memory shared.
    gc.collect()
    gc.freeze()
    server = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            _become(order, server)
            return run()
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer
    return 0


def _become(order: dict[str, Any], server: int) -> None:
    """Takes the arguments, the environment and the output of a replica. The replica dies with the server."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(order["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]


if __name__ == "__main__":
    sys.exit(_serve())
