"""PURE. How the supervisors of a gang agree to restart their ranks in place.

The supervisor with index 0 coordinates. Each supervisor reports the state of its pod, and the answer is an
order for all pods. A round begins when the ranks of all pods start, and ends when they have ended:

1. A pod reports that its ranks have ended after a failure that a restart can cure. The order becomes Stop.
2. The other pods end their ranks and report the end.
3. When all pods have reported the end, the next round begins with the order Run, and all pods start their
   ranks.

The order becomes GiveUp if a pod reports that it cannot restart, if the restarts are used up, if a pod has
not reported the end of its ranks within STOP_SECONDS, or if a round after a restart has made no progress: no
later optimizer step than before the restart, and no newer checkpoint. GiveUp is final: no pod restarts any
more, and each pod ends with the cause that it observed itself.

A pod starts the ranks of a round only after all pods have reported the end of the round before, so the ranks
of two rounds never run at the same time. Reports may be late, lost or repeated: the end of a pod counts only
for the current round, and is final for its round. A pod that cannot restart can never restart again, so this
part of a report counts also after the end of the pod and in later rounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, NonNegativeInt

from finetune_trainer.contract import EXTERNAL_CAUSES, FailureClass, InPlaceRestarts, Model, Reason
from finetune_trainer.contract.messages import MAX_LOST_STEPS
from finetune_trainer.pod.errors import PEER_LOST

STOP_SECONDS = 30.0
"""Time limit from the order Stop until all pods have reported the end of their ranks.

The limit covers the time between two reports, the report of torchrun, and `processes.END_SECONDS`."""
UNREACHABLE_SECONDS = 15.0
"""Time without an answer of index 0 after which a pod whose ranks have ended gives up."""
_NEVER_JOINED = {"MasterUnreachable", "RendezvousFailed", "RendezvousTimeout"}
"""Reasons of the class Communication of a gang whose pods have not all joined: new pods may be needed."""


class Order(StrEnum):
    """The order of the supervisor with index 0 to all pods."""

    RUN = "Run"
    STOP = "Stop"
    GIVE_UP = "GiveUp"


class Step(StrEnum):
    """What a supervisor does after the end of its ranks."""

    WAIT = "Wait"
    START = "Start"
    LEAVE = "Leave"


class End(Model):
    """The end of the ranks of a pod."""

    failure: Annotated[FailureClass, Field(alias="class")]
    reason: Reason
    lost_steps: Annotated[int, Field(ge=0, le=MAX_LOST_STEPS)] = 0
    """Optimizer steps after the newest checkpoint; reported by the pod with rank 0."""
    step: NonNegativeInt = 0
    """Latest optimizer step of the pod in the attempt; 0 if unknown."""
    checkpoint_step: NonNegativeInt = 0
    """Optimizer step of the newest complete checkpoint that the pod knows; 0 without a checkpoint."""


class Report(Model):
    """The state of a pod, reported by its supervisor."""

    index: NonNegativeInt
    """Index of the pod in its gang."""
    round: NonNegativeInt
    """Number of the round: the restarts in place so far."""
    recoverable: bool = True
    """Whether the pod can start its ranks again."""
    end: End | None = None
    """The end of the ranks; None while they run."""


class Failed(Model):
    """The pod whose failure ended a round, as far as known."""

    index: NonNegativeInt
    failure: Annotated[FailureClass, Field(alias="class")]
    reason: Reason


class Answer(Model):
    """The answer to a report."""

    round: NonNegativeInt
    order: Order
    failed: Failed | None = None
    """The first failure of the round."""
    restarts: InPlaceRestarts | None = None
    """The restarts in place so far."""


@dataclass(frozen=True)
class Gang:
    """The state of a gang, kept by the supervisor with index 0."""

    pods: int
    """Number of pods."""
    limit: int
    """Maximum number of restarts in place."""
    round: int = 0
    order: Order = Order.RUN
    ended: Mapping[int, End] = field(default_factory=lambda: MappingProxyType({}))
    """The pods whose ranks have ended in this round, by index, in the order of their reports."""
    stopping_since: float = 0.0
    """Time of the order Stop, in seconds of a monotonic clock."""
    restarts: InPlaceRestarts | None = None
    reached: tuple[int, int] = (-1, -1)
    """Latest optimizer step and step of the newest checkpoint before this round; -1 in round 0."""
    why: str = ""
    """Why the gang gave up; for the log."""


def can_recover(failure: FailureClass, reason: str) -> bool:
    """Whether a restart of the ranks in the same pods may cure a failure.

    All other failures are left to the operator: the operator changes the micro-batch, waits for the store, or
    fails the job.

    Args:
        failure: class of the failure.
        reason: reason of the failure.
    """
    match failure:
        case FailureClass.COMMUNICATION:
            return reason not in _NEVER_JOINED
        case FailureClass.HANG:
            return True
        case FailureClass.INTERNAL:
            return reason in EXTERNAL_CAUSES
        case _:
            return False


def receive(gang: Gang, report: Report, now: float) -> Gang:
    """Returns the state of a gang after a report.

    Args:
        gang: the state before the report.
        report: the report of a pod.
        now: seconds of a monotonic clock.
    """
    gang = expire(gang, now)
    if gang.order is Order.GIVE_UP or report.round > gang.round or report.index >= gang.pods:
        return gang
    new_end = report.end if report.round == gang.round and report.index not in gang.ended else None
    if new_end:
        gang = replace(gang, ended=MappingProxyType({**gang.ended, report.index: new_end}))
    if not report.recoverable:
        return _give_up(gang, f"index {report.index} cannot restart its ranks")
    return _after_end(gang, now) if new_end else gang


def _after_end(gang: Gang, now: float) -> Gang:
    """The state after a pod has reported the end of its ranks, which can start again."""
    if gang.round >= gang.limit:
        return _give_up(gang, f"{gang.round} of {gang.limit} restarts are used up")
    if len(gang.ended) == gang.pods:
        step, checkpoint = gang.reached
        reached = (
            max(step, *(end.step for end in gang.ended.values())),
            max(checkpoint, *(end.checkpoint_step for end in gang.ended.values())),
        )
        if reached == gang.reached:
            return _give_up(gang, f"no step after {step} and no newer checkpoint since the last restart")
        return Gang(gang.pods, gang.limit, gang.round + 1, restarts=_counted(gang), reached=reached)
    if gang.order is Order.RUN:
        return replace(gang, order=Order.STOP, stopping_since=now)
    return gang


def expire(gang: Gang, now: float) -> Gang:
    """Returns the state of a gang at a time: the gang gives up if a pod does not stop in time.

    Args:
        gang: the state.
        now: seconds of a monotonic clock.
    """
    if gang.order is not Order.STOP or now - gang.stopping_since <= STOP_SECONDS:
        return gang
    missing = sorted(set(range(gang.pods)) - set(gang.ended))[:8]
    indexes = ", ".join(str(index) for index in missing)
    return _give_up(gang, f"no report of the end within {STOP_SECONDS:.0f} s from index {indexes}")


def answer_of(gang: Gang) -> Answer:
    """Returns the answer to a report in this state of the gang."""
    return Answer(
        round=gang.round, order=gang.order, failed=first_failure(gang.ended), restarts=gang.restarts
    )


def first_failure(ended: Mapping[int, End]) -> Failed | None:
    """Selects the failure that ended a round: the first that is not the consequence of another failure.

    Args:
        ended: the ends by index, in the order of their reports.
    """
    failures = [
        Failed(index=index, failure=end.failure, reason=end.reason)
        for index, end in ended.items()
        if end.failure is not FailureClass.SUCCESS
    ]
    return min(failures, key=_consequence, default=None)


def next_step(current: int, answer: Answer | None, silent_seconds: float) -> Step:
    """Decides what a pod does whose ranks have ended and can start again.

    Args:
        current: the round whose ranks have ended.
        answer: the latest answer of index 0; None if there is none.
        silent_seconds: time since the latest answer of index 0 or, if later, since the end of the ranks.
    """
    if answer and answer.order is Order.GIVE_UP:
        return Step.LEAVE
    if answer and answer.round > current:
        return Step.START
    return Step.LEAVE if silent_seconds > UNREACHABLE_SECONDS else Step.WAIT


def must_stop(current: int, answer: Answer | None) -> bool:
    """Whether a pod must end its ranks because another pod of the gang has failed.

    Args:
        current: the round whose ranks run.
        answer: the latest answer of index 0; None if there is none.
    """
    return answer is not None and answer.round == current and answer.order is Order.STOP


def _counted(gang: Gang) -> InPlaceRestarts:
    """The restarts in place after a round in which all pods have ended."""
    cause = first_failure(gang.ended)
    if cause is None:
        raise AssertionError("a round ends only after a failure")
    lost = sum(end.lost_steps for end in gang.ended.values())
    lost += gang.restarts.lost_steps if gang.restarts else 0
    return InPlaceRestarts(
        count=gang.round + 1,
        failure=cause.failure,
        reason=cause.reason,
        lost_steps=min(lost, MAX_LOST_STEPS),
    )


def _give_up(gang: Gang, why: str) -> Gang:
    return replace(gang, order=Order.GIVE_UP, why=why)


def _consequence(failed: Failed) -> int:
    """0 for an independent cause, 2 for a lost peer; see `classify`."""
    return (failed.failure is FailureClass.COMMUNICATION) + (failed.reason == PEER_LOST)
