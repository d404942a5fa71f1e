"""Starts, finds, reaps and ends processes, as PID 1 of a container must. Linux only."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
END_SECONDS = 15.0
"""Time limit from SIGKILL until a process is reaped; the release of GPU memory takes seconds."""
_PR_SET_CHILD_SUBREAPER = 36
_STAT_STATE = 0
_STAT_PARENT = 1


def take_over() -> None:
    """Makes this process the subreaper of its descendants, and blocks the signals in WATCHED.

    `next_signal` receives the blocked signals. A blocked signal interrupts no system call, and stays pending
    also for PID 1, for which the kernel discards unhandled signals. The caller must have started no thread.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


def next_signal(seconds: float) -> signal.Signals | None:
    """Waits for a signal of WATCHED.

    Args:
        seconds: time limit.

    Returns:
        The signal; None after the time limit.
    """
    received = signal.sigtimedwait(WATCHED, seconds)
    return signal.Signals(received.si_signo) if received else None


def spawn(argv: Sequence[str], environment: Mapping[str, str], output: int) -> int:
    """Starts a program in a new session, with default signal handlers and no blocked signals.

    Args:
        argv: program and arguments.
        environment: all environment variables of the program.
        output: file descriptor for standard output and standard error.

    Returns:
        The pid of the program.
    """
    return os.posix_spawnp(
        argv[0],
        list(argv),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(*WATCHED, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2),
    )


def reap() -> dict[int, int]:
    """Reaps every child that has ended.

    Returns:
        Pid -> exit code; for a child killed by a signal, the negative signal number.
    """
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def descendants(ancestor: int | None = None, *, zombies: bool = False) -> set[int]:
    """The pids of all descendants of a process.

    Args:
        ancestor: pid of the process; None for this process.
        zombies: whether zombies are included.
    """
    parents = {pid: stat for pid in _pids() if (stat := _stat(pid))}
    children: dict[int, list[int]] = {}
    for pid, stat in parents.items():
        children.setdefault(int(stat[_STAT_PARENT]), []).append(pid)
    found: set[int] = set()
    pending = [os.getpid() if ancestor is None else ancestor]
    while pending:
        below = children.get(pending.pop(), [])
        found.update(below)
        pending.extend(below)
    return {pid for pid in found if zombies or parents[pid][_STAT_STATE] != "Z"}


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie; a stopped process is alive."""
    return state(pid) not in {"", "Z", "X"}


def state(pid: int) -> str:
    """The state of a process as a letter of proc(5).

    Returns:
        R running, S sleeping, D in an uninterruptible wait, T stopped, Z zombie, X dead; "" if the process
        does not exist.
    """
    stat = _stat(pid)
    return stat[_STAT_STATE] if stat else ""


def send(pids: set[int], number: signal.Signals) -> None:
    """Sends a signal to processes, and ignores processes that no longer exist."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_descendants(seconds: float = END_SECONDS) -> set[int]:
    """Sends SIGKILL to all descendants of this process until all have ended and are reaped.

    A process whose main thread has ended is a zombie while its other threads still end. These threads hold
    the memory and the devices of the process. The kernel lets the process be reaped after its last thread.

    Args:
        seconds: time limit.

    Returns:
        The pids of processes that are not reaped after the time limit, because the kernel blocks them.
    """
    deadline = time.monotonic() + seconds
    while left := descendants(zombies=True):
        send(left, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return set()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - ten times faster


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if the process does not exist.

    The command name before the state is cut off, because the name may contain spaces and parentheses.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
