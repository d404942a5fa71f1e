"""PURE. Decides whether the supervisor must end the ranks of its pod, and for which cause."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetune_trainer.contract import FailureClass, RankFile

LINGER_SECONDS = 10.0
"""Time that the other ranks may go on after a rank of the gang has died or failed."""
FAREWELL_SECONDS = 30.0
"""Time for torchrun to end after all ranks of this pod have succeeded; torchrun waits for the other pods."""
LONGEST_STEP_SECONDS = 1.0
"""Maximum silence that counts between two updates, so that a frozen supervisor detects no false hang."""

_NO_FAULT = {FailureClass.SUCCESS, FailureClass.PREEMPTED}


class StopCause(StrEnum):
    """The cause for which the supervisor ends its ranks."""

    HANG = "Hang"
    NEVER_STARTED = "NeverStarted"
    UNREACHABLE = "Unreachable"
    LINGERING = "Lingering"
    GRACE_OVER = "GraceOver"
    TOLD_TWICE = "ToldTwice"
    NOTHING_TO_SAVE = "NothingToSave"
    PEER_FAILED = "PeerFailed"


@dataclass(frozen=True)
class Stop:
    """The decision to end the ranks."""

    cause: StopCause
    time: float
    """Unix time of the decision."""
    ranks: tuple[int, ...] = ()
    """Ranks that the cause concerns, the most likely origin first."""
    detail: str = ""
    """Part of the message: a duration and an activity, a time limit, or an error of the rendezvous."""


@dataclass(frozen=True)
class Silence:
    """The time since the heartbeat of a rank has changed, measured by the supervisor."""

    heartbeat: float
    """The latest heartbeat: Unix time of the rank."""
    seconds: float = 0.0
    """Seconds without a change of the heartbeat."""


@dataclass(frozen=True)
class Context:
    """The observations of the supervisor at one time."""

    expected: tuple[int, ...]
    """Global ranks of this pod."""
    files: Mapping[int, RankFile]
    """Rank files by global rank."""
    silences: Mapping[int, Silence]
    """Time since the latest heartbeat, by global rank."""
    gone: Mapping[int, float]
    """Ranks whose process has ended: global rank -> Unix time of the observation."""
    now: float
    """Unix time."""
    start_seconds_left: float
    """Seconds until the start-up deadline, by which every rank must have written its file."""
    sigterm_time: float | None
    """Unix time of the first SIGTERM; None without SIGTERM."""
    grace_seconds: float
    """Time from SIGTERM after which the supervisor ends the ranks."""


def update_silences(
    silences: Mapping[int, Silence], files: Mapping[int, RankFile], elapsed: float
) -> dict[int, Silence]:
    """Computes the silences of all ranks from their latest rank files.

    A heartbeat is compared only with the previous heartbeat and never with the clock, so a change of the
    clock causes no false hang.

    Args:
        silences: the silences at the previous update, by global rank.
        files: rank files by global rank.
        elapsed: seconds since the previous update.

    Returns:
        The silences by global rank.
    """
    step = min(elapsed, LONGEST_STEP_SECONDS)
    return {
        rank: Silence(file.heartbeat, before.seconds + step)
        if (before := silences.get(rank)) and before.heartbeat == file.heartbeat
        else Silence(file.heartbeat)
        for rank, file in files.items()
    }


def decide(context: Context) -> Stop | None:
    """Decides whether to end the ranks.

    Args:
        context: the observations of the supervisor.

    Returns:
        The decision; None if the ranks may go on.
    """
    leaving = _leaving(context)
    if leaving:
        return leaving
    hanging = _hanging(context)
    if hanging:
        worst = context.files[hanging[0]]
        seconds = context.silences[hanging[0]].seconds
        return Stop(StopCause.HANG, context.now, hanging, f"{seconds:.0f} s while {worst.activity}")
    missing = tuple(rank for rank in context.expected if rank not in context.files)
    if missing and context.start_seconds_left <= 0:
        return Stop(StopCause.NEVER_STARTED, context.now, missing)
    return _lingering(context)


def _leaving(context: Context) -> Stop | None:
    if context.sigterm_time is None:
        return None
    if any(rank not in context.files for rank in context.expected):
        return Stop(StopCause.NOTHING_TO_SAVE, context.now)
    if context.now - context.sigterm_time >= context.grace_seconds:
        working = tuple(rank for rank in context.expected if context.files[rank].ended is None)
        return Stop(StopCause.GRACE_OVER, context.now, working, f"{context.grace_seconds:.0f} s")
    return None


def _hanging(context: Context) -> tuple[int, ...]:
    """The ranks without a heartbeat for longer than `quiet_seconds`, the rank with the lowest step first.

    In a collective operation all ranks wait for the rank that hangs, and that rank has the lowest step.
    """
    over = [
        rank
        for rank, file in context.files.items()
        if file.ended is None
        and rank not in context.gone
        and context.silences[rank].seconds > file.quiet_seconds
    ]
    return tuple(
        sorted(over, key=lambda rank: (context.files[rank].step or 0, context.files[rank].heartbeat))
    )


def _lingering(context: Context) -> Stop | None:
    working = tuple(
        rank
        for rank in context.expected
        if rank not in context.gone and not ((file := context.files.get(rank)) and file.ended)
    )
    ends = [file.ended for file in context.files.values() if file.ended]
    failed = [file.ended for file in context.files.values() if file.ended and file.failure not in _NO_FAULT]
    died = [
        time for rank, time in context.gone.items() if not ((file := context.files.get(rank)) and file.ended)
    ]
    if failed and working and context.sigterm_time is not None and not died:
        return None  # The other ranks may use the grace period to end.
    if failed or died:
        limit, since = LINGER_SECONDS, min(failed + died)
    elif ends and not working:
        limit, since = FAREWELL_SECONDS, max(ends)
    else:
        return None
    return Stop(StopCause.LINGERING, context.now, working) if context.now - since >= limit else None
