"""Starting, finding and ending programs.

The process table itself is the record of what runs: whoever starts a long-lived program marks its
environment, and a pid file, which lies after a kill, is not needed.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from devcluster.places import DevclusterError

_LAST_LINES = 15
_UNLESS_ORPHAN = '[ "$PPID" = "$0" ] && exec "$@"'

Owned = subprocess.Popen[bytes]


def start_owned(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Owned:
    """Start a program that ends with this process, even when that is killed.

    The kernel delivers the end when the *thread* that started it ends: start it from one that lives on.
    A session of its own keeps Ctrl-C at the terminal from reaching it before its owner has dealt with it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            # The look at its parent closes the gap in which that ended before it could be heeded.
            [*("setpriv", "--pdeathsig", "KILL", "sh", "-c", _UNLESS_ORPHAN, str(os.getpid())), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )


def start_marked(command: list[str], log: Path, mark: str) -> None:
    """Start a program that outlives this process, with a mark in its environment to find it by.

    Args:
        command: what to run.
        log: where its output is added.
        mark: an environment entry, NAME=VALUE.
    """
    name, _, value = mark.partition("=")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {name: value},
            start_new_session=True,
        )
    # Whoever adopts it when we end will reap it; until then a thread does.
    threading.Thread(target=process.wait, daemon=True).start()


def end_owned(process: Owned) -> None:
    """End a program at once; what it had written is thrown away by its owner anyway."""
    process.kill()
    process.wait()


def await_answer(answers: Callable[[], bool], process: Owned, log: Path, seconds: float = 60.0) -> None:
    """Wait until a started program answers.

    Raises:
        DevclusterError: it ended, or did not answer in time; with the end of its log.
    """
    name = log.stem
    deadline = time.monotonic() + seconds
    while not answers():
        code = process.poll()
        if code is not None:
            raise DevclusterError(f"{name} ended with {code}; the end of {log}:\n{last_lines(log)}")
        if time.monotonic() > deadline:
            raise DevclusterError(
                f"{name} did not answer in {seconds:.0f} s; the end of {log}:\n{last_lines(log)}"
            )
        time.sleep(0.05)


def listens(address: str, port: int) -> bool:
    """Tell whether something accepts connections there."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def last_lines(log: Path) -> str:
    """Return the end of a log, or that there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    except FileNotFoundError:
        return "(no log)"


def marked(mark: str) -> dict[int, list[str]]:
    """Return the command line of every living process whose environment holds the mark, by pid."""
    wanted = mark.encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            continue  # it ended while we looked
        if command:
            found[int(entry.name)] = command
    return found


def kill(pids: Iterable[int]) -> None:
    """Kill processes that may have ended already."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
