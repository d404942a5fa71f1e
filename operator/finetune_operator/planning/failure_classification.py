"""How a gang ended: classified from all its pods' messages, exit codes and statuses. Pure.

Where a message cannot be read, Kubernetes' own words decide.
"""

from dataclasses import dataclass
from datetime import datetime

from finetune_operator.names import Reason
from finetune_operator.objects import Manifest, condition_true, distance, index_of, is_stuck, live, moment
from finetune_operator.planning.termination_messages import (
    Expected,
    OtherVersion,
    Unreadable,
    clean,
    doubt_about,
    message_of,
    terminated,
)
from finetune_operator.planning.types import InProgress
from finetune_trainer.contract import CONTRACT_VERSION, ExitCode, FailureClass, Payload


@dataclass(frozen=True)
class Success:
    """The stage is done and its result is durable."""

    payload: Payload


@dataclass(frozen=True)
class Failure:
    """Why a pod, or the whole gang, failed."""

    reason: str
    message: str
    failure: FailureClass | None = None
    """None: the pod was lost, its class is not known."""
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    at: datetime | None = None


End = Success | Failure | InProgress


def end_of(
    job: Manifest, pods: list[Manifest], expected: Expected, *, now: datetime, collection: float
) -> End:
    """How a Job ended, once that can be said.

    A first failed pod opens a window of `collection` seconds in which the others may say more; it closes
    early when all have ended. The first cause by time wins, and Communication yields to every other class: a
    rank that lost its peer tells of the other's death.
    """
    if complete := condition_true(job, "Complete", "SuccessCriteriaMet"):
        return _success(pods, expected, moment(complete.get("lastTransitionTime")), now, collection)
    failed = condition_true(job, "Failed", "FailureTarget")
    causes = [cause for pod in pods if (cause := cause_of(pod, expected, now))]
    if not causes and not failed:
        return InProgress("going")
    if not any(c.failure is not FailureClass.COMMUNICATION for c in causes):
        causes += _missing(job, pods)
    first = min([c.at for c in causes if c.at] + [t for t in [_failed_at(failed)] if t], default=now)
    ended = len(pods) - len(live(pods, now))
    all_ended = ended == len(pods) and (bool(failed) or ended >= job["spec"].get("completions", 1))
    if not (all_ended and causes) and (waited := distance(first, now)) < collection:
        return InProgress("collecting", "A pod failed: collecting the causes.", collection - waited)
    if not causes:
        return Failure(Reason.POD_LOST, f"{job['metadata']['name']}: a pod is gone and left no message.")
    return min(causes, key=lambda c: (c.failure is FailureClass.COMMUNICATION, c.at or now))


def cause_of(pod: Manifest, expected: Expected, now: datetime) -> Failure | None:
    """Why one pod failed; None where it has not failed."""
    status = pod.get("status", {})
    ended = terminated(pod)
    disruption = condition_true(pod, "DisruptionTarget")
    stuck = is_stuck(pod, now)
    if status.get("phase") != "Failed" and not (ended and ended.get("exitCode")) and not stuck:
        return None
    at = moment((ended or {}).get("finishedAt")) or moment(pod["metadata"].get("deletionTimestamp"))
    found = _lost(pod) if stuck else _told(pod, ended, expected) or _seen(pod, ended, disruption)
    return Failure(
        reason=found.reason,
        message=clean(found.message, 1024),
        failure=found.failure,
        pod=pod["metadata"]["name"],
        node=pod.get("spec", {}).get("nodeName"),
        exit_code=(ended or {}).get("exitCode"),
        at=at or moment((disruption or {}).get("lastTransitionTime")),
    )


def _success(
    pods: list[Manifest], expected: Expected, at: datetime | None, now: datetime, collection: float
) -> End:
    first = next((p for p in pods if index_of(p) == 0), None)
    if first is None:
        return InProgress("lost", "its pod is gone")
    if terminated(first) is None and at and distance(at, now) < collection:
        # The Job was seen to end before its pod was: the watches of both are not in step.
        return InProgress("going", requeue_after=collection - distance(at, now))
    return _result(first, expected)


def _result(pod: Manifest, expected: Expected) -> End:
    try:
        message = message_of(pod, expected)
    except OtherVersion as error:
        return _unsupported(str(error), pod)
    except Unreadable as error:
        return InProgress("lost", str(error))
    if message.failure is not FailureClass.SUCCESS or message.payload is None:
        return InProgress("lost", "its message does not tell of a success")
    if doubt := doubt_about(message.payload, expected):
        told = f"Its result cannot be trusted: {doubt}."
        return Failure(Reason.RESULT_UNREADABLE, told, pod=_name(pod), node=pod["spec"].get("nodeName"))
    return Success(message.payload)


def _told(pod: Manifest, ended: Manifest | None, expected: Expected) -> Failure | None:
    """The cause in the pod's own words."""
    if ended is None:
        return None
    try:
        message = message_of(pod, expected)
    except OtherVersion as error:
        return _unsupported(str(error), pod)
    except Unreadable:
        return None
    if message.failure is FailureClass.SUCCESS:
        return None
    return Failure(message.reason, f"{message.message} {message.hint}".strip(), message.failure)


def _seen(pod: Manifest, ended: Manifest | None, disruption: Manifest | None) -> Failure:
    """The cause as Kubernetes saw it."""
    status, name = pod.get("status", {}), _name(pod)
    node = pod.get("spec", {}).get("nodeName", "its node")
    code = (ended or {}).get("exitCode")
    if (ended or {}).get("reason") == "OOMKilled":
        return Failure(
            Reason.OUT_OF_MEMORY,
            f"Pod {name} was killed: it used more memory than its limit.",
            FailureClass.OUT_OF_MEMORY,
        )
    why = (disruption or {}).get("reason", "")
    if why in ("DeletionByTaintManager", "DeletionByPodGC") or status.get("reason") == "NodeLost":
        return _lost(pod)
    if status.get("reason") == "Evicted":
        return Failure(
            Reason.EVICTED, f"Node {node} evicted pod {name}: {status.get('message', 'no reason')}"
        )
    if disruption:
        return Failure(
            Reason.PREEMPTED, f"Pod {name} had to leave node {node} ({why}).", FailureClass.PREEMPTED
        )
    if code in {c.value for c in ExitCode if c is not ExitCode.SUCCESS}:
        failure = ExitCode(code).failure
        told = "and left no message that can be read."
        return Failure(
            failure.value, f"Pod {name} ended with exit code {code} ({failure.value}) {told}", failure
        )
    what = f"exit code {code}" if code is not None else str(status.get("reason") or "no exit code")
    more = (
        (ended or {}).get("message") if (ended or {}).get("reason") == "StartError" else status.get("message")
    )
    tail = f": {more}" if more else " and left no message."
    return Failure(Reason.TRAINER_DIED, f"Pod {name} ended with {what}{tail}")


def _lost(pod: Manifest) -> Failure:
    node = pod.get("spec", {}).get("nodeName", "its node")
    return Failure(Reason.NODE_LOST, f"Node {node} of pod {_name(pod)} stopped answering.")


def _missing(job: Manifest, pods: list[Manifest]) -> list[Failure]:
    """Pods that Kubernetes counts as failed and that are not there any more."""
    there = {index_of(p) for p in pods}
    gone = [i for i in _indexes(job.get("status", {}).get("failedIndexes") or "") if i not in there]
    name = job["metadata"]["name"]
    return [Failure(Reason.POD_LOST, f"Pod {name}-{i} is gone and left no message.") for i in gone[:1]]


def _indexes(text: str) -> list[int]:
    """Kubernetes' notation of indexes, for example `0,3-5`; only the ends of a range."""
    return [int(part) for piece in text.split(",") for part in piece.split("-") if part.isdecimal()]


def _unsupported(told: str, pod: Manifest) -> Failure:
    return Failure(
        Reason.TRAINER_VERSION_UNSUPPORTED,
        f"The trainer image of pod {_name(pod)} cannot be used: {told}, this operator speaks "
        f"{CONTRACT_VERSION}. Use the trainer image of the operator's release.",
        FailureClass.USER_CONFIG,
        pod=_name(pod),
    )


def _failed_at(failed: Manifest | None) -> datetime | None:
    return moment(failed.get("lastTransitionTime")) if failed else None


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])
