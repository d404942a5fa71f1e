"""PURE. Whether the ranks of this pod must be ended now, and why: silence, lateness, or time that is over."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetune_trainer.contract import FailureClass, RankFile

LINGER_SECONDS = 10.0
"""What is left of a gang may go on for so long after one of its ranks has died or failed."""
FAREWELL_SECONDS = 30.0
"""What torchrun gets after all ranks of this pod have succeeded (it waits for the other pods' agents)."""
LONGEST_STEP_SECONDS = 1.0
"""Most silence that counts between two looks: a supervisor that was itself frozen blames nobody for it."""

_NO_FAULT = {FailureClass.SUCCESS, FailureClass.PREEMPTED}


class Why(StrEnum):
    """Why the supervisor ends its ranks."""

    HANG = "Hang"
    NEVER_STARTED = "NeverStarted"
    UNREACHABLE = "Unreachable"
    LINGERING = "Lingering"
    GRACE_OVER = "GraceOver"
    TOLD_TWICE = "ToldTwice"
    NOTHING_TO_SAVE = "NothingToSave"


@dataclass(frozen=True)
class Stop:
    """The decision to end the ranks."""

    why: Why
    time: float
    """Unix time of the decision."""
    ranks: tuple[int, ...] = ()
    """Whom it is about, the likeliest culprit first."""
    detail: str = ""


@dataclass(frozen=True)
class Silence:
    """How long one rank's heartbeat has stood still, as seen from here."""

    heartbeat: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Context:
    """What the supervisor sees of its gang."""

    expected: tuple[int, ...]
    files: Mapping[int, RankFile]
    silent: Mapping[int, Silence]
    gone: Mapping[int, float]
    """Ranks whose process has ended: rank -> Unix time when that was seen."""
    now: float
    """Unix time."""
    start_seconds_left: float
    """Until every rank must have been heard of."""
    leaving_since: float | None
    grace_seconds: float


def listen(
    silent: Mapping[int, Silence], files: Mapping[int, RankFile], elapsed: float
) -> dict[int, Silence]:
    """Silences after another look, `elapsed` seconds after the last.

    Heartbeats are compared for being new, never with the clock, so a clock that is set hurts nobody.
    """
    step = min(elapsed, LONGEST_STEP_SECONDS)
    return {
        rank: Silence(file.heartbeat, before.seconds + step)
        if (before := silent.get(rank)) and before.heartbeat == file.heartbeat
        else Silence(file.heartbeat)
        for rank, file in files.items()
    }


def decide(context: Context) -> Stop | None:
    """Whether to end the ranks; None while all is well or a wait has not run out."""
    leaving = _leaving(context)
    if leaving:
        return leaving
    hanging = _hanging(context)
    if hanging:
        worst = context.files[hanging[0]]
        seconds = context.silent[hanging[0]].seconds
        return Stop(Why.HANG, context.now, hanging, f"{seconds:.0f} s while {worst.activity}")
    missing = tuple(rank for rank in context.expected if rank not in context.files)
    if missing and context.start_seconds_left <= 0:
        return Stop(Why.NEVER_STARTED, context.now, missing)
    return _lingering(context)


def _leaving(context: Context) -> Stop | None:
    if context.leaving_since is None:
        return None
    if any(rank not in context.files for rank in context.expected):
        return Stop(Why.NOTHING_TO_SAVE, context.now)
    if context.now - context.leaving_since >= context.grace_seconds:
        working = tuple(rank for rank in context.expected if context.files[rank].ended is None)
        return Stop(Why.GRACE_OVER, context.now, working, f"{context.grace_seconds:.0f} s")
    return None


def _hanging(context: Context) -> tuple[int, ...]:
    """Ranks that are silent for too long; in a collective all are, and the one furthest behind began it."""
    over = [
        rank
        for rank, file in context.files.items()
        if file.ended is None
        and rank not in context.gone
        and context.silent[rank].seconds > file.quiet_seconds
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
    fell = [
        time for rank, time in context.gone.items() if not ((file := context.files.get(rank)) and file.ended)
    ]
    if failed and working and context.leaving_since is not None and not fell:
        return None  # The others may still save, within the grace period.
    if failed or fell:
        patience, since = LINGER_SECONDS, min(failed + fell)
    elif ends and not working:
        patience, since = FAREWELL_SECONDS, max(ends)
    else:
        return None
    return Stop(Why.LINGERING, context.now, working) if context.now - since >= patience else None
