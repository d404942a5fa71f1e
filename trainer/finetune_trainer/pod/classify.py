"""PURE. Finds the one cause of the end of a pod in the observations of its supervisor.

The earliest cause is selected, with two exceptions. Any other class takes precedence over Communication, and
any other reason takes precedence over PeerLost. A rank that loses its peer, or that torchrun ends because a
peer died, is a consequence of an earlier failure, and the supervisor may see both at the same moment.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.contract import ExitCode, FailureClass, RankFile
from finetune_trainer.pod.errors import PEER_LOST
from finetune_trainer.pod.watchdog import Stop, StopCause

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS}
_MEMORY_MAY_EXPLAIN = {FailureClass.INTERNAL, FailureClass.COMMUNICATION, FailureClass.HANG}
_NCCL_WATCHDOG = "ProcessGroupNCCL"


@dataclass(frozen=True)
class Death:
    """A process that ended although its supervisor did not end the process."""

    rank: int | None
    """Global rank; None for torchrun itself."""
    code: int
    """Exit code; for a process killed by a signal, the negative signal number."""
    time: float
    """Unix time of the end."""


@dataclass(frozen=True)
class Observed:
    """The observations of a supervisor at the end of its pod."""

    expected: tuple[int, ...]
    """Global ranks of this pod."""
    files: Mapping[int, RankFile]
    """Rank files by global rank."""
    now: float
    """Unix time of the observation."""
    deaths: Sequence[Death] = ()
    oom_kills: int | None = None
    """OOM kills in this container since the start of the round; None if unknown."""
    sigterm_time: float | None = None
    """Unix time of the first SIGTERM; None without SIGTERM."""
    stop: Stop | None = None
    """The decision of the supervisor to end the ranks; None if the ranks ended on their own."""
    agent_error: str | None = None
    """The error with which torchrun failed before torchrun started its ranks."""
    needs_rendezvous: bool = False
    """Whether the gang has several pods."""
    tail: str = ""
    """Last lines of the log."""


@dataclass(frozen=True)
class Verdict:
    """The cause of the end of a pod."""

    failure: FailureClass
    reason: str
    message: str
    hint: str = ""
    rank: int | None = None
    """The rank whose file has the details; None if the cause belongs to no single rank."""


def classify(seen: Observed) -> Verdict:
    """Selects the cause of the end of this pod.

    Args:
        seen: the observations at the end of the pod.

    Returns:
        The verdict; class Success only if every expected rank reports Success.
    """
    if all(_succeeded(seen.files.get(rank)) for rank in seen.expected):
        first = seen.expected[0]
        return Verdict(FailureClass.SUCCESS, "Done", seen.files[first].message, rank=first)
    causes = [*_reported(seen), *_silent_deaths(seen), *_supervisor_causes(seen)]
    if not causes:
        causes = [(seen.now, _unexplained(seen))]
    _, cause = min(causes, key=lambda item: (_consequence(item[1]), item[0]))
    if cause.failure is FailureClass.PREEMPTED and cause.rank is None:
        return _preempted(seen, cause, [other for _, other in causes])
    if cause.failure in _MEMORY_MAY_EXPLAIN and seen.oom_kills:
        return _out_of_memory(cause.message, cause.rank)
    return cause


def _consequence(verdict: Verdict) -> int:
    """The rank of a verdict as a consequence: 0 for an independent cause, 2 for a lost peer."""
    return (verdict.failure is FailureClass.COMMUNICATION) + (verdict.reason == PEER_LOST)


def _succeeded(file: RankFile | None) -> bool:
    return file is not None and file.failure is FailureClass.SUCCESS


def _reported(seen: Observed) -> list[tuple[float, Verdict]]:
    """The causes in the rank files, and the error of torchrun before the start of the ranks."""
    causes = [
        (
            file.ended,
            Verdict(file.failure, file.reason or file.failure, file.message, file.hint, rank),
        )
        for rank, file in seen.files.items()
        if file.ended is not None and file.failure not in {None, FailureClass.SUCCESS}
    ]
    if seen.agent_error:
        message = f"Rendezvous failed: {seen.agent_error}"
        hint = "Look at the other pods of this attempt: one pod did not start or cannot be reached."
        verdict = Verdict(FailureClass.COMMUNICATION, "RendezvousFailed", message, hint)
        causes.append((seen.now, verdict))
    return causes


def _silent_deaths(seen: Observed) -> list[tuple[float, Verdict]]:
    """The causes for processes that ended without an outcome in their rank file."""
    silent = [
        death
        for death in seen.deaths
        if death.code != 0
        and (death.rank is None or not ((file := seen.files.get(death.rank)) and file.ended))
        and not (death.rank is None and (death.code > 0 or len(seen.deaths) > 1))
    ]
    return [(death.time, _by_code(death, seen)) for death in silent]


def _by_code(death: Death, seen: Observed) -> Verdict:
    name = "torchrun" if death.rank is None else f"rank {death.rank}"
    if death.code > 0:
        return _by_exit_code(name, death)
    number = signal.Signals(-death.code)
    if number is signal.SIGKILL and seen.oom_kills:
        return _out_of_memory(f"The kernel killed {name} because the memory limit was reached.", death.rank)
    if number is signal.SIGTERM:
        message = f"{_capitalized(name)} received SIGTERM because a peer had died."
        return Verdict(FailureClass.COMMUNICATION, PEER_LOST, message, rank=death.rank)
    if number is signal.SIGABRT and _NCCL_WATCHDOG in seen.tail:
        message = f"NCCL aborted {name}: a collective operation failed or did not end."
        hint = "A peer hangs or the network between the pods is broken; the log names the operation."
        return Verdict(FailureClass.COMMUNICATION, "CollectiveTimeout", message, hint, death.rank)
    message = f"{_capitalized(name)} was ended by {number.name}"
    if number in _CRASHES:
        hint = "The end of the log has the stack of the rank."
        if number is signal.SIGBUS:
            hint = "A common cause is a /dev/shm that is too small: raise resources.sharedMemory. " + hint
        return Verdict(FailureClass.INTERNAL, "RankCrashed", f"{message}.", hint, death.rank)
    memory = "is not known to be the cause" if seen.oom_kills is None else "is not the cause"
    message = f"{message} from outside; memory {memory}."
    return Verdict(FailureClass.INTERNAL, "RankKilled", message, rank=death.rank)


def _by_exit_code(name: str, death: Death) -> Verdict:
    """The verdict on a process without a rank file: the exit code of the process decides the class."""
    try:
        failure = ExitCode(death.code).failure
    except ValueError:
        failure = FailureClass.INTERNAL
    message = f"{_capitalized(name)} exited with code {death.code} and recorded no cause."
    return Verdict(failure, "RankExited", message, "Look at the end of the log.", death.rank)


def _capitalized(name: str) -> str:
    """The name of a process at the start of a sentence; torchrun keeps its spelling."""
    return name if name == "torchrun" else name.capitalize()


def _supervisor_causes(seen: Observed) -> list[tuple[float, Verdict]]:
    """The causes that the supervisor knows itself: SIGTERM, and its own decision to end the ranks."""
    causes = []
    if seen.sigterm_time is not None:
        message = "The pod received SIGTERM."
        causes.append((seen.sigterm_time, Verdict(FailureClass.PREEMPTED, "Preempted", message)))
    stop = seen.stop
    if stop is None:
        return causes
    if stop.cause is StopCause.HANG:
        ranks = ", ".join(str(rank) for rank in stop.ranks)
        message = f"No heartbeat from rank {stop.ranks[0]} for {stop.detail}"
        message += f" (all silent ranks: {ranks})." if len(stop.ranks) > 1 else "."
        hint = "The folder evidence/ of this attempt in S3 has the stacks of all ranks."
        causes.append((stop.time, Verdict(FailureClass.HANG, "RankSilent", message, hint, stop.ranks[0])))
    elif stop.cause is StopCause.UNREACHABLE:
        hint = "Look at the pod with index 0, the headless Service, DNS and network policies."
        causes.append(
            (stop.time, Verdict(FailureClass.COMMUNICATION, "MasterUnreachable", stop.detail, hint))
        )
    elif stop.cause is StopCause.NEVER_STARTED:
        causes.append((stop.time, _never_started(seen, stop)))
    elif stop.cause is StopCause.PEER_FAILED:
        message = f"The ranks of this pod were ended because another pod of the gang failed: {stop.detail}."
        hint = "Look at the termination message of the other pod."
        causes.append((stop.time, Verdict(FailureClass.COMMUNICATION, PEER_LOST, message, hint)))
    return causes


def _never_started(seen: Observed, stop: Stop) -> Verdict:
    ranks = ", ".join(str(rank) for rank in stop.ranks)
    if not seen.needs_rendezvous:
        message = f"Ranks {ranks} reported no heartbeat before the start-up deadline."
        return Verdict(FailureClass.HANG, "RankSilent", message)
    message = f"Ranks {ranks} did not start before the start-up deadline: not every pod of the gang joined."
    hint = "Look for a pod of this attempt that is pending, has failed, or cannot be reached."
    return Verdict(FailureClass.COMMUNICATION, "RendezvousTimeout", message, hint)


def _preempted(seen: Observed, sigterm: Verdict, causes: list[Verdict]) -> Verdict:
    """The verdict on a pod that received SIGTERM: class Preempted, with a reason by the end of its ranks."""
    for cause in causes:
        if cause.failure is FailureClass.PREEMPTED and cause.rank is not None:
            return cause
    for cause in causes:
        if cause.failure not in {FailureClass.PREEMPTED, FailureClass.COMMUNICATION}:
            message = f"The pod received SIGTERM, and a process failed before it ended: {cause.message}"
            return Verdict(FailureClass.PREEMPTED, "SaveFailed", message, cause.hint, cause.rank)
    if seen.stop and seen.stop.cause is StopCause.GRACE_OVER:
        message = f"The pod received SIGTERM; its ranks did not end within {seen.stop.detail}."
        hint = (
            "Set a longer grace period (deadlines.stop of the operator's settings). The next attempt of Train"
            " resumes from the newest complete checkpoint; other stages start from their beginning."
        )
        return Verdict(FailureClass.PREEMPTED, "GraceOver", message, hint)
    if seen.stop and seen.stop.cause is StopCause.TOLD_TWICE:
        message = "The pod received a second SIGTERM and stopped at once."
        return Verdict(FailureClass.PREEMPTED, "ToldTwice", message)
    if seen.stop and seen.stop.cause is StopCause.NOTHING_TO_SAVE:
        message = "The pod received SIGTERM before its work had begun."
        return Verdict(FailureClass.PREEMPTED, "NothingToSave", message)
    return sigterm


def _out_of_memory(message: str, rank: int | None) -> Verdict:
    return Verdict(
        FailureClass.OUT_OF_MEMORY,
        "HostMemoryExhausted",
        message,
        "Raise resources.memory, set training.microBatchSize to 1, or lower training.maxLength.",
        rank,
    )


def _unexplained(seen: Observed) -> Verdict:
    unfinished = [rank for rank in seen.expected if not _succeeded(seen.files.get(rank))]
    ranks = ", ".join(str(rank) for rank in unfinished)
    message = f"Ranks {ranks} ended without a result and without an error."
    return Verdict(FailureClass.INTERNAL, "ResultMissing", message)
