"""Starts, finds, reaps and ends processes, as PID 1 of a container does. Linux only."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_PR_SET_CHILD_SUBREAPER = 36
_STAT_STATE = 0
_STAT_PARENT = 1


def take_over() -> None:
    """Makes this process the parent of every orphan below it and keeps its signals for `next_signal`.

    The signals are blocked, not handled: nothing is interrupted, nothing is lost, and it also holds for
    PID 1, whose unhandled signals the kernel would drop. Call it before any thread starts.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


def next_signal(seconds: float) -> signal.Signals | None:
    """Waits for the next of the watched signals, at most so long."""
    told = signal.sigtimedwait(WATCHED, seconds)
    return signal.Signals(told.si_signo) if told else None


def spawn(argv: Sequence[str], environment: Mapping[str, str], output: int) -> int:
    """Starts a program in a session of its own, with clean signals, writing to one file descriptor.

    Returns:
        Its pid.
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
    """Collects every child that has ended: pid -> exit code, or minus the signal that killed it."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def descendants(of: int | None = None) -> set[int]:
    """Every living process below this one (or below `of`), zombies not counted."""
    parents = {pid: stat for pid in _pids() if (stat := _stat(pid))}
    children: dict[int, list[int]] = {}
    for pid, stat in parents.items():
        children.setdefault(int(stat[_STAT_PARENT]), []).append(pid)
    found: set[int] = set()
    ahead = [os.getpid() if of is None else of]
    while ahead:
        below = children.get(ahead.pop(), [])
        found.update(below)
        ahead.extend(below)
    return {pid for pid in found if parents[pid][_STAT_STATE] != "Z"}


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie; a stopped one is alive."""
    return state(pid) not in {"", "Z", "X"}


def state(pid: int) -> str:
    """One letter of proc(5): R running, S asleep, D in the kernel, T stopped, Z zombie; empty if gone."""
    stat = _stat(pid)
    return stat[_STAT_STATE] if stat else ""


def send(pids: set[int], number: signal.Signals) -> None:
    """Signals processes; those that are gone meanwhile are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_descendants(seconds: float = 10) -> set[int]:
    """SIGKILLs everything below this process, again and again, until nothing is left or time is up.

    Returns:
        Those that would not go: stuck in the kernel.
    """
    deadline = time.monotonic() + seconds
    while left := descendants():
        send(left, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    reap()
    return set()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - ten times faster


def _stat(pid: int) -> list[str] | None:
    """State and parent first; the command name, which may hold anything, is cut off."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
