"""Counts the failures of a stage since its last progress, and computes the back-off. Pure."""

import hashlib
from datetime import datetime

from finetune_operator.api import AttemptStatus
from finetune_operator.objects import since
from finetune_trainer.contract import EXTERNAL_CAUSES, FailureClass

FREE_STORAGE_SECONDS = 3600
"""Storage failures within this time after the first failure of an outage do not count."""
DAMAGED = {"ObjectCorrupt", "PreparedCorrupt", "FolderIncomplete", "LineageMissing"}
"""Reasons of the class Storage for damaged or incomplete content in a store that answers."""
FIRST_DELAY, LONGEST_DELAY = 10.0, 300.0


def since_progress(tries: list[AttemptStatus]) -> list[AttemptStatus]:
    """The failed attempts of a stage since the stage last made progress, oldest first.

    An attempt makes progress when it reaches a later optimizer step than all earlier attempts. The failure
    of that attempt is the first failure that counts again. Prepare and Publish have no steps.
    """
    furthest = furthest_step(tries)
    start = next((i for i, a in enumerate(tries) if furthest and a.step == furthest), 0)
    return [a for a in tries[start:] if a.outcome == "Failed"]


def furthest_step(tries: list[AttemptStatus]) -> int:
    """The latest optimizer step that an attempt reached; 0 where no step is known."""
    return max((a.step or 0 for a in tries), default=0)


def failures_since_progress(tries: list[AttemptStatus]) -> list[AttemptStatus]:
    """The failures that count against maxRestarts.

    OutOfMemory and Numerical have rules of their own, which permit one more attempt. Preempted attempts never
    count, because the job did not cause them. Storage failures in the first hour of an outage do not count
    either. Any other failure, or progress, ends the outage.
    """
    found: list[AttemptStatus] = []
    outage: datetime | None = None
    for attempt in since_progress(tries):
        match attempt.failure:
            case FailureClass.PREEMPTED:
                continue
            case FailureClass.OUT_OF_MEMORY | FailureClass.NUMERICAL:
                outage = None
            case FailureClass.STORAGE if attempt.end_time:
                outage = outage or attempt.end_time
                if since(outage, attempt.end_time) >= FREE_STORAGE_SECONDS:
                    found.append(attempt)
            case _:
                outage = None
                found.append(attempt)
    return found


def lasting_failures(tries: list[AttemptStatus]) -> list[AttemptStatus]:
    """The failures since progress whose cause lies in the run itself, oldest first.

    The cause is an error of the trainer or damaged content in the store. All other failures depend on
    circumstances: the node, the network, the availability of the store, a process that somebody kills. Such
    failures say nothing about a lasting failure before or after them.
    """
    return [a for a in since_progress(tries) if _is_lasting(a)]


def repeated(tries: list[AttemptStatus]) -> AttemptStatus | None:
    """The earlier attempt that the last attempt repeats; None where the last attempt repeats no attempt.

    An attempt repeats the lasting failure before it if class, reason, place, optimizer step and micro-batch
    are the same. A failure without a known place repeats no failure.
    """
    match lasting_failures(tries)[-2:]:
        case [earlier, last] if last.job == tries[-1].job and last.place:
            return earlier if _manner(earlier) == _manner(last) else None
    return None


def _is_lasting(attempt: AttemptStatus) -> bool:
    if attempt.failure == FailureClass.INTERNAL:
        return attempt.reason not in EXTERNAL_CAUSES
    return attempt.failure == FailureClass.STORAGE and attempt.reason in DAMAGED


def _manner(attempt: AttemptStatus) -> tuple[object, ...]:
    micro_batch = attempt.micro_batch_size, attempt.micro_batch_tokens
    return attempt.failure, attempt.reason, attempt.place, attempt.step, micro_batch


def delay(tries: list[AttemptStatus], uid: str) -> float:
    """Seconds from the last failure to the next attempt: 10 s x 2^n, at most 5 min; progress resets n.

    The uid of the job adds up to a quarter, so that jobs that failed together do not start together.
    """
    ended = [i for i, a in enumerate(tries) if a.outcome != "Failed"]
    failures = min(len(tries) - (ended[-1] + 1 if ended else 0), len(since_progress(tries)))
    base = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 10))
    share = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:2], "big") / 65536
    return base * (1 + share / 4)


def outage_starts(tries: list[AttemptStatus]) -> list[AttemptStatus]:
    """The first Storage failure of each outage since the stage last made progress."""
    found: list[AttemptStatus] = []
    within = False
    for attempt in since_progress(tries):
        if attempt.failure == FailureClass.STORAGE and not within:
            found.append(attempt)
        if attempt.failure != FailureClass.PREEMPTED:
            within = attempt.failure == FailureClass.STORAGE
    return found
