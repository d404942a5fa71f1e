"""Classifies the end of a gang by the messages, exit codes and statuses of all its pods. Pure.

Where a message cannot be read, the status that Kubernetes wrote decides.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.names import Reason
from finetune_operator.objects import (
    Manifest,
    condition_true,
    distance,
    has_ended,
    has_other_containers,
    index_of,
    is_stuck,
    moment,
    terminated,
    trainer_ended,
)
from finetune_operator.planning.termination_messages import (
    Expected,
    OtherVersion,
    Unreadable,
    clean,
    doubt_about,
    message_of,
)
from finetune_operator.planning.types import InProgress
from finetune_trainer.contract import CONTRACT_VERSION, MAX_PLACE, ExitCode, FailureClass, Payload


@dataclass(frozen=True)
class Success:
    """The stage is done and its result is durable."""

    payload: Payload
    peak_memory: int | None = None
    """Greatest host memory of the pod in bytes."""


@dataclass(frozen=True)
class Failure:
    """Why a pod, or the whole gang, failed."""

    reason: str
    message: str
    failure: FailureClass | None = None
    """None: the pod was lost, so the class is not known."""
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    place: str | None = None
    """Where in the trainer the failure arose; None where the trainer did not report the place."""
    step: int | None = None
    """Optimizer step at which the trainer failed; None where the trainer did not report the step."""
    peak_memory: int | None = None
    """Greatest host memory of the pod in bytes; None where the trainer did not report the memory."""
    version: float = math.inf
    """The resourceVersion of the pod: the order in which the API server stored writes of pods."""


@dataclass(frozen=True)
class Failing:
    """What earlier reconciles recorded about a gang that fails."""

    since: datetime | None = None
    """When the operator first observed a failed pod; None where no pod has failed."""
    pod: str | None = None
    """The pod whose failure is the cause so far."""


End = Success | Failure | InProgress


def end_of(
    job: Manifest,
    pods: list[Manifest],
    expected: Expected,
    *,
    now: datetime,
    collection: float,
    failing: Failing,
) -> End:
    """Classifies the end of a Job, as soon as the end can be known.

    The containers of the trainer decide, not the pods: injected containers may keep a pod alive.

    The first observed failure opens a window of `collection` seconds in which the other pods may report their
    causes. The window closes early when all trainers have ended. A failure of class Communication yields to
    every other class, because a rank reports it after the death of its peer. Among the other failures, the
    failure that the API server stored first is the cause. Times of pods are never compared, because the
    clocks of nodes differ.
    """
    causes = [cause for pod in pods if (cause := cause_of(pod, expected, now))]
    complete = condition_true(job, "Complete", "SuccessCriteriaMet")
    if complete or (not causes and _all_succeeded(job, pods)):
        at = moment(complete.get("lastTransitionTime")) if complete else None
        return _success(pods, expected, at, now, collection)
    failed = condition_true(job, "Failed", "FailureTarget")
    if not causes and not failed:
        return InProgress("going")
    if not any(c.failure is not FailureClass.COMMUNICATION for c in causes):
        causes += _missing_pods(job, pods)
    cause = min(
        causes,
        key=lambda c: (c.failure is FailureClass.COMMUNICATION, c.pod != failing.pod, c.version),
        default=Failure(Reason.POD_LOST, f"{job['metadata']['name']}: a pod is gone and left no message."),
    )
    ended = sum(trainer_ended(pod) or is_stuck(pod, now) for pod in pods)
    all_ended = ended == len(pods) and (bool(failed) or ended >= job["spec"].get("completions", 1))
    waited = distance(failing.since, now) if failing.since else 0.0
    if not (all_ended and causes) and waited < collection:
        text = "A pod failed: collecting the causes."
        return InProgress("collecting", text, collection - waited, failing=True, pod=cause.pod)
    return cause


def cause_of(pod: Manifest, expected: Expected, now: datetime) -> Failure | None:
    """Why the trainer of a pod failed; None where the trainer has not failed.

    A trainer with exit code 0 has not failed, whatever happened to the other containers of the pod.
    """
    ended = terminated(pod)
    code = (ended or {}).get("exitCode")
    disruption = condition_true(pod, "DisruptionTarget")
    stuck = is_stuck(pod, now)
    if code == 0 or (pod.get("status", {}).get("phase") != "Failed" and not code and not stuck):
        return None
    reported = None if stuck else _reported_cause(pod, ended, expected) or _failed_init(pod)
    found = _node_lost(pod) if stuck else reported or _observed_cause(pod, ended, disruption)
    return Failure(
        reason=found.reason,
        message=clean(found.message, 1024),
        failure=found.failure,
        pod=pod["metadata"]["name"],
        node=pod.get("spec", {}).get("nodeName"),
        exit_code=code,
        place=found.place,
        step=found.step,
        peak_memory=found.peak_memory,
        # Kubernetes declares resource versions of one resource comparable as integers.
        version=int(pod["metadata"].get("resourceVersion") or 0),
    )


def _all_succeeded(job: Manifest, pods: list[Manifest]) -> bool:
    """Whether the trainer of each index has exit code 0. The Job controller waits for the whole pods."""
    done = {index_of(pod) for pod in pods if _trainer_succeeded(pod)}
    wanted: int = job["spec"].get("completions", 1)
    return len(done) >= wanted


def _trainer_succeeded(pod: Manifest) -> bool:
    """Whether the trainer has exit code 0 and nothing but other containers can keep the pod alive.

    The kubelet ends a pod without other containers right after the trainer. The next stage would have to wait
    for that end, so the attempt is in progress until then.
    """
    if (terminated(pod) or {}).get("exitCode") != 0:
        return False
    return has_ended(pod) or has_other_containers(pod)


def _success(
    pods: list[Manifest], expected: Expected, at: datetime | None, now: datetime, collection: float
) -> End:
    first = next((p for p in pods if index_of(p) == 0), None)
    if first is None:
        return InProgress("lost", "its pod is gone")
    if terminated(first) is None and at and distance(at, now) < collection:
        # The watch of Jobs may be ahead of the watch of pods.
        return InProgress("going", requeue_after=collection - distance(at, now))
    return _result(first, expected)


def _result(pod: Manifest, expected: Expected) -> End:
    try:
        message = message_of(pod, expected)
    except OtherVersion as error:
        return _unsupported_version(str(error), pod)
    except Unreadable as error:
        return InProgress("lost", str(error))
    if message.failure is not FailureClass.SUCCESS or message.payload is None:
        return InProgress("lost", "its termination message does not report success")
    if doubt := doubt_about(message.payload, expected):
        text = f"Its result cannot be trusted: {doubt}."
        return Failure(Reason.RESULT_UNREADABLE, text, pod=_name(pod), node=pod["spec"].get("nodeName"))
    return Success(message.payload, message.peak_memory_bytes)


def _reported_cause(pod: Manifest, ended: Manifest | None, expected: Expected) -> Failure | None:
    """The cause that the termination message of a pod reports."""
    if ended is None:
        return None
    try:
        message = message_of(pod, expected)
    except OtherVersion as error:
        return _unsupported_version(str(error), pod)
    except Unreadable:
        return None
    if message.failure is FailureClass.SUCCESS:
        return None
    text = f"{message.message} {message.hint}".strip()
    place = clean(message.place, MAX_PLACE) if message.place else None
    return Failure(
        message.reason,
        text,
        message.failure,
        place=place,
        step=message.step,
        peak_memory=message.peak_memory_bytes,
    )


def _observed_cause(pod: Manifest, ended: Manifest | None, disruption: Manifest | None) -> Failure:
    """The cause that the status of a pod shows."""
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
        return _node_lost(pod)
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
        text = "and left no message that can be read."
        return Failure(
            failure.value, f"Pod {name} ended with exit code {code} ({failure.value}) {text}", failure
        )
    what = f"exit code {code}" if code is not None else str(status.get("reason") or "no exit code")
    more = (
        (ended or {}).get("message") if (ended or {}).get("reason") == "StartError" else status.get("message")
    )
    tail = f": {more}" if more else " and left no message."
    return Failure(Reason.TRAINER_DIED, f"Pod {name} ended with {what}{tail}")


def _failed_init(pod: Manifest) -> Failure | None:
    """The failure of an injected init container, after which the trainer did not start."""
    if condition_true(pod, "DisruptionTarget") or pod.get("status", {}).get("reason"):
        return None
    for status in pod.get("status", {}).get("initContainerStatuses") or []:
        ended = status.get("state", {}).get("terminated") or {}
        if terminated(pod) is None and ended.get("exitCode"):
            why = f": {ended['message']}" if ended.get("message") else "."
            return Failure(
                Reason.INIT_CONTAINER_FAILED,
                f"Init container {status['name']} of pod {_name(pod)} ended with exit code"
                f" {ended['exitCode']}, so the trainer did not start{why}",
            )
    return None


def _node_lost(pod: Manifest) -> Failure:
    node = pod.get("spec", {}).get("nodeName", "its node")
    return Failure(Reason.NODE_LOST, f"Node {node} of pod {_name(pod)} stopped answering.")


def _missing_pods(job: Manifest, pods: list[Manifest]) -> list[Failure]:
    """A failure for the first pod that the status of the Job counts as failed and that no longer exists."""
    there = {index_of(p) for p in pods}
    gone = [i for i in _indexes(job.get("status", {}).get("failedIndexes") or "") if i not in there]
    name = job["metadata"]["name"]
    return [Failure(Reason.POD_LOST, f"Pod {name}-{i} is gone and left no message.") for i in gone[:1]]


def _indexes(text: str) -> list[int]:
    """Parses the notation of indexes in a Job's status, for example `0,3-5`; only the ends of a range."""
    return [int(part) for piece in text.split(",") for part in piece.split("-") if part.isdecimal()]


def _unsupported_version(text: str, pod: Manifest) -> Failure:
    return Failure(
        Reason.TRAINER_VERSION_UNSUPPORTED,
        f"The trainer image of pod {_name(pod)} cannot be used: {text}, this operator speaks "
        f"{CONTRACT_VERSION}. Use the trainer image of the operator's release.",
        FailureClass.USER_CONFIG,
        pod=_name(pod),
    )


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])
