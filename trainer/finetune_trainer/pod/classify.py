"""PURE. From everything a supervisor saw to the one cause of the end.

The first cause by time wins, except that Communication yields to every other class, and among
Communication a lost peer to whatever lost it: a rank that loses its peer, or that torchrun ends because a
peer died, is a consequence, and both ends may be seen at the same moment.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.contract import ExitCode, FailureClass, RankFile
from finetune_trainer.pod.errors import PEER_LOST
from finetune_trainer.pod.watchdog import Stop, Why

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS}
_MEMORY_MAY_EXPLAIN = {FailureClass.INTERNAL, FailureClass.COMMUNICATION, FailureClass.HANG}
_NCCL_GAVE_UP = "ProcessGroupNCCL"


@dataclass(frozen=True)
class Death:
    """A process that ended without being asked to by its supervisor."""

    rank: int | None
    """None: torchrun itself."""
    code: int
    """Exit code, or minus the signal."""
    time: float
    """Unix time."""


@dataclass(frozen=True)
class Observed:
    """All that is known at the end."""

    expected: tuple[int, ...]
    files: Mapping[int, RankFile]
    now: float
    deaths: Sequence[Death] = ()
    oom_kills: int | None = None
    """Processes of this container killed by the kernel for memory since the start; None: it does not say."""
    asked_to_leave: float | None = None
    """Unix time of the first SIGTERM."""
    stop: Stop | None = None
    agent_error: str | None = None
    """What torchrun says when it could not even start its ranks."""
    meets: bool = False
    """Whether this pod had to meet others."""
    tail: str = ""
    """Last lines of the log."""


@dataclass(frozen=True)
class Verdict:
    """Why this pod ended."""

    failure: FailureClass
    reason: str
    message: str
    hint: str = ""
    rank: int | None = None
    """Whose file tells more."""


def classify(seen: Observed) -> Verdict:
    """The cause of this pod's end."""
    if all(_succeeded(seen.files.get(rank)) for rank in seen.expected):
        first = seen.expected[0]
        return Verdict(FailureClass.SUCCESS, "Done", seen.files[first].message, rank=first)
    causes = [*_told(seen), *_died(seen), *_stopped(seen)]
    if not causes:
        causes = [(seen.now, _unexplained(seen))]
    _, cause = min(causes, key=lambda item: (_consequence(item[1]), item[0]))
    if cause.failure is FailureClass.PREEMPTED and cause.rank is None:
        return _left(seen, cause, [other for _, other in causes])
    if cause.failure in _MEMORY_MAY_EXPLAIN and seen.oom_kills:
        return _out_of_memory(cause.message, cause.rank)
    return cause


def _consequence(verdict: Verdict) -> int:
    """How surely this followed from something else; 0 is a cause of its own."""
    return (verdict.failure is FailureClass.COMMUNICATION) + (verdict.reason == PEER_LOST)


def _succeeded(file: RankFile | None) -> bool:
    return file is not None and file.failure is FailureClass.SUCCESS


def _told(seen: Observed) -> list[tuple[float, Verdict]]:
    """What ranks say about themselves, and what torchrun says when there are none."""
    causes = [
        (
            file.ended,
            Verdict(file.failure, file.reason or file.failure, file.message, file.hint, rank),
        )
        for rank, file in seen.files.items()
        if file.ended is not None and file.failure not in {None, FailureClass.SUCCESS}
    ]
    if seen.agent_error:
        message = f"The processes could not meet: {seen.agent_error}"
        hint = "Look at the other pods of this attempt: one of them did not start or cannot be reached."
        verdict = Verdict(FailureClass.COMMUNICATION, "RendezvousFailed", message, hint)
        causes.append((seen.now, verdict))
    return causes


def _died(seen: Observed) -> list[tuple[float, Verdict]]:
    """Processes that ended without a word."""
    silent = [
        death
        for death in seen.deaths
        if death.code != 0
        and (death.rank is None or not ((file := seen.files.get(death.rank)) and file.ended))
        and not (death.rank is None and (death.code > 0 or len(seen.deaths) > 1))
    ]
    return [(death.time, _by_code(death, seen)) for death in silent]


def _by_code(death: Death, seen: Observed) -> Verdict:
    who = "torchrun" if death.rank is None else f"rank {death.rank}"
    if death.code > 0:
        return _by_exit(who, death)
    number = signal.Signals(-death.code)
    if number is signal.SIGKILL and seen.oom_kills:
        return _out_of_memory(f"The kernel killed {who} because the memory limit was reached.", death.rank)
    if number is signal.SIGTERM:
        message = f"{who.capitalize()} was told to end because a peer had died."
        return Verdict(FailureClass.COMMUNICATION, PEER_LOST, message, rank=death.rank)
    if number is signal.SIGABRT and _NCCL_GAVE_UP in seen.tail:
        message = f"NCCL gave up on {who}: a collective operation failed or never ended."
        hint = "A peer hangs or the network between the pods is broken; the log tail names the operation."
        return Verdict(FailureClass.COMMUNICATION, "CollectiveTimeout", message, hint, death.rank)
    message = f"{who.capitalize()} was ended by {number.name}"
    if number in _CRASHES:
        hint = "Its stack is at the end of the log."
        if number is signal.SIGBUS:
            hint = "Often /dev/shm is too small: raise resources.sharedMemory. " + hint
        return Verdict(FailureClass.INTERNAL, "RankCrashed", f"{message}.", hint, death.rank)
    memory = "is not known to be the cause" if seen.oom_kills is None else "is not the cause"
    message = f"{message} from outside; memory {memory}."
    return Verdict(FailureClass.INTERNAL, "RankKilled", message, rank=death.rank)


def _by_exit(who: str, death: Death) -> Verdict:
    """A rank that could not write its file still says its class by its exit code."""
    try:
        failure = ExitCode(death.code).failure
    except ValueError:
        failure = FailureClass.INTERNAL
    message = f"{who.capitalize()} exited with code {death.code} and did not say why."
    return Verdict(failure, "RankExited", message, "The end of the log may tell.", death.rank)


def _stopped(seen: Observed) -> list[tuple[float, Verdict]]:
    """What the supervisor itself decided or was told."""
    causes = []
    if seen.asked_to_leave is not None:
        message = "The pod was told to end."
        causes.append((seen.asked_to_leave, Verdict(FailureClass.PREEMPTED, "Preempted", message)))
    stop = seen.stop
    if stop is None:
        return causes
    if stop.why is Why.HANG:
        ranks = ", ".join(str(rank) for rank in stop.ranks)
        message = f"No sign of life from rank {stop.ranks[0]} for {stop.detail}"
        message += f" (silent: ranks {ranks})." if len(stop.ranks) > 1 else "."
        hint = "The stacks of all ranks lie beside the log tail of this attempt."
        causes.append((stop.time, Verdict(FailureClass.HANG, "RankSilent", message, hint, stop.ranks[0])))
    elif stop.why is Why.UNREACHABLE:
        hint = "Look at the pod with index 0, the headless Service, DNS and network policies."
        causes.append(
            (stop.time, Verdict(FailureClass.COMMUNICATION, "MasterUnreachable", stop.detail, hint))
        )
    elif stop.why is Why.NEVER_STARTED:
        causes.append((stop.time, _never_started(seen, stop)))
    return causes


def _never_started(seen: Observed, stop: Stop) -> Verdict:
    ranks = ", ".join(str(rank) for rank in stop.ranks)
    if not seen.meets:
        message = f"Nothing was heard of ranks {ranks} within the start-up deadline."
        return Verdict(FailureClass.HANG, "RankSilent", message)
    message = f"Ranks {ranks} could not start within the start-up deadline: not every pod of the gang joined."
    hint = "Look for a pod of this attempt that is waiting, failed early, or cannot be reached."
    return Verdict(FailureClass.COMMUNICATION, "RendezvousTimeout", message, hint)


def _left(seen: Observed, left: Verdict, causes: list[Verdict]) -> Verdict:
    """Preempted: how the ranks ended."""
    for cause in causes:
        if cause.failure is FailureClass.PREEMPTED and cause.rank is not None:
            return cause
    for cause in causes:
        if cause.failure not in {FailureClass.PREEMPTED, FailureClass.COMMUNICATION}:
            message = f"The pod was told to end, and a process failed while it ended: {cause.message}"
            return Verdict(FailureClass.PREEMPTED, "SaveFailed", message, cause.hint, cause.rank)
    if seen.stop and seen.stop.why is Why.GRACE_OVER:
        message = f"The pod was told to end; ranks were not ready to leave within {seen.stop.detail}."
        hint = (
            "Set a longer grace period (deadlines.stop of the operator's settings). The next attempt starts"
            " the stage from its beginning."
        )
        return Verdict(FailureClass.PREEMPTED, "GraceOver", message, hint)
    if seen.stop and seen.stop.why is Why.TOLD_TWICE:
        message = "The pod was told to end a second time and stopped at once."
        return Verdict(FailureClass.PREEMPTED, "ToldTwice", message)
    if seen.stop and seen.stop.why is Why.NOTHING_TO_SAVE:
        message = "The pod was told to end before its work had begun."
        return Verdict(FailureClass.PREEMPTED, "NothingToSave", message)
    return left


def _out_of_memory(message: str, rank: int | None) -> Verdict:
    return Verdict(
        FailureClass.OUT_OF_MEMORY,
        "HostMemoryExhausted",
        message,
        "Raise resources.memory, or lower training.microBatchSize or training.maxLength.",
        rank,
    )


def _unexplained(seen: Observed) -> Verdict:
    quiet = [rank for rank in seen.expected if not _succeeded(seen.files.get(rank))]
    ranks = ", ".join(str(rank) for rank in quiet)
    message = f"Ranks {ranks} ended without saying how: no error, no result."
    return Verdict(FailureClass.INTERNAL, "ResultMissing", message)
