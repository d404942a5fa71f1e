"""Decides what one turn does about a FineTuneJob. Pure: (job, observed, settings, now) -> Plan.

Policies veto or end, stages advance, status only describes.
"""

from datetime import datetime
from typing import Literal

from finetune_operator import advance, status
from finetune_operator.api import FineTuneJob, FineTuneJobStatus
from finetune_operator.attempts import recorded, stopped
from finetune_operator.milestones import between
from finetune_operator.names import Reason, State
from finetune_operator.observed import Manifest, Observed, Plan, Reference
from finetune_operator.policies import (
    deadline,
    gate,
    requirements,
    restart,
    stopping,
    supersede,
    suspend,
    ttl,
)
from finetune_operator.settings import Settings
from finetune_operator.turn import (
    STAGES,
    Decision,
    Turn,
    is_over,
    jobs_of,
    reference,
    report_name,
)
from finetune_trainer.contract import Stage

POLICIES = (
    supersede.check,
    gate.check,
    suspend.check,
    deadline.check,
    requirements.check,
    restart.check,
    stopping.check,
)
"""Asked in this order; the first that has something to say decides."""


def plan(job: FineTuneJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What one turn does about a job."""
    stored = job.status or FineTuneJobStatus()
    if job.metadata.get("deletionTimestamp"):
        return Plan(status=stored)
    ground = requirements.ground_of(job, observed, settings)
    turn = Turn(job, observed, settings, now.replace(microsecond=0), stored, ground)
    if ttl.has_ended(turn):
        removal = ttl.removal(turn)
        delete = dict.fromkeys((*_left_over(turn, ended=True), *removal.delete))
        return Plan(status=status.refreshed(turn), delete=tuple(delete), again_in=removal.again_in)
    turn = recorded(turn)
    decision = decide(turn)
    if decision.stop:
        turn = stopped(turn, decision.stop)
        decision = _after_stop(turn, decision)
    if observed.refused:
        decision = _refused(observed.refused)
    shown = status.described(turn, decision, gate.fact(turn))
    return Plan(
        status=shown,
        apply=decision.apply,
        create=decision.create,
        delete=_left_over(turn, ended=decision.state in status.ENDS),
        events=between(job.status, shown),
        again_in=decision.again_in,
        poll=decision.all_run,
        notes=(f"{decision.reason}: {decision.message}",),
    )


def decide(turn: Turn) -> Decision:
    """The first policy that has something to say; else the stage goes on."""
    if turn.stage is None and turn.running is None:
        return advance.completed(turn)
    for check in POLICIES:
        if decision := check(turn):
            return decision
    return advance.watched(turn) if turn.running else advance.begun(turn)


def _after_stop(turn: Turn, stopping: Decision) -> Decision:
    """What is shown once the running attempt was stopped.

    Nothing is made in the same turn: that the attempt has ended must be durable first.
    """
    if stopping.state in status.ENDS:
        return stopping
    following = decide(turn)
    return stopping if following.create else following


def plan_sweep(sweep_job: Manifest, *, run_left: bool) -> Literal["wait", "release", "none"]:
    """What to do about a sweep Job whose FineTuneJob is gone.

    Args:
        sweep_job: the Job.
        run_left: whether the run has pods left, or Jobs that may still make some.

    Returns:
        `none`: it was released before; `wait`: not yet; `release`: now.
    """
    if not sweep_job["spec"].get("suspend"):
        return "none"
    return "wait" if run_left else "release"


def _left_over(turn: Turn, *, ended: bool) -> tuple[Reference, ...]:
    """Jobs of attempts that have ended otherwise than well. Their causes are in the status by now.

    The Job that a failed FineTuneJob ended with stays for its logs until the ttl, unless some of its pods
    still hold resources.
    """
    attempts = turn.status.attempts
    keep = {a.job for a in attempts if a.outcome in ("Running", "Succeeded")}
    if ended and attempts:
        keep.add(attempts[-1].job)
    keep |= {report_name(turn, a) for a in attempts if a.job in keep}
    going = {a.job for a in attempts if a.outcome in ("Running", "Succeeded")}
    going |= {report_name(turn, a) for a in attempts if a.job in going}
    return tuple(
        reference(job)
        for job in jobs_of(turn.job, turn.observed, *STAGES, Stage.REPORT)
        if not job["metadata"].get("deletionTimestamp")
        and (
            job["metadata"]["name"] not in keep
            or (job["metadata"]["name"] not in going and not is_over(turn, job))
        )
    )


def _refused(told: str) -> Decision:
    """What is shown where the API server refused what was decided."""
    message = f"The API server refuses what the operator wants to do: {told}"
    return Decision(State.WAITING, Reason.PERMISSION_DENIED, message, again_in=30)
