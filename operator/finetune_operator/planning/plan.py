"""Plans one reconcile of a FineTuneJob. Pure: (job, observed, settings, now) -> Plan.

Policies hold or end a job, progression advances its stages, and status describes the decision.
"""

from dataclasses import replace
from datetime import datetime

from finetune_operator.api import FineTuneJob, FineTuneJobStatus
from finetune_operator.names import Reason, State
from finetune_operator.objects import Manifest, kept_alive_by, pods_of
from finetune_operator.planning import notifications, progression, retention, status
from finetune_operator.planning.attempts import record_attempts, stop_running_attempt
from finetune_operator.planning.events import events_between
from finetune_operator.planning.lookup import is_over, jobs_of, readback_name, reference
from finetune_operator.planning.policies import CHAIN, gate
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.stages import STAGES
from finetune_operator.planning.types import Decision, Observed, Plan, PlanInput, Reference
from finetune_operator.planning.usage import count_usage
from finetune_operator.settings import Settings
from finetune_trainer.contract import Stage


def plan(job: FineTuneJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Plans the writes of one reconcile."""
    stored = job.status or FineTuneJobStatus()
    if job.metadata.get("deletionTimestamp"):
        return Plan(status=stored)
    settled = notifications.settle(job, stored, observed.deliveries, settings)
    made = _plan_run(job, observed, settings, now, settled)
    return replace(made, status=notifications.announce(job, made.status, settings, now))


def _plan_run(
    job: FineTuneJob, observed: Observed, settings: Settings, now: datetime, stored: FineTuneJobStatus
) -> Plan:
    resolution = resolve(job, observed, settings)
    inputs = PlanInput(job, observed, settings, now.replace(microsecond=0), stored, resolution)
    if retention.has_ended(inputs):
        removal = retention.removal(inputs)
        delete = dict.fromkeys((*_jobs_to_delete(inputs, ended=True), *removal.delete))
        return Plan(status=status.refresh(inputs), delete=tuple(delete), requeue_after=removal.requeue_after)
    inputs = record_attempts(inputs)
    decision = decide(inputs)
    if decision.stop:
        inputs = stop_running_attempt(inputs, decision.stop)
        decision = _decide_after_stop(inputs, decision)
    if observed.refused:
        decision = _report_refusal(observed.refused)
    described = status.describe(inputs, decision, gate.fact(inputs))
    if described != stored:
        # Time alone changes no status.
        described = count_usage(inputs, described)
    return Plan(
        status=described,
        apply=decision.apply,
        create=decision.create,
        delete=_jobs_to_delete(inputs, ended=decision.state in status.FINAL_STATES),
        events=events_between(job.status, described, observed.pods),
        requeue_after=decision.requeue_after,
        poll=decision.all_run,
        notes=(f"{decision.reason}: {decision.message}",),
    )


def decide(inputs: PlanInput) -> Decision:
    """The decision of the first policy that returns a decision; else the current stage goes on."""
    if inputs.stage is None and inputs.running is None:
        return progression.complete(inputs)
    for check in CHAIN:
        if decision := check(inputs):
            return decision
    return (
        progression.watch_running_attempt(inputs)
        if inputs.running
        else progression.start_next_attempt(inputs)
    )


def _decide_after_stop(inputs: PlanInput, stopping: Decision) -> Decision:
    """The decision that the status describes after the running attempt was stopped.

    The same reconcile creates no Job: the status must hold the end of the attempt first.
    """
    if stopping.state in status.FINAL_STATES:
        return stopping
    following = decide(inputs)
    return stopping if following.create else following


def _jobs_to_delete(inputs: PlanInput, *, ended: bool) -> tuple[Reference, ...]:
    """The Jobs of attempts that did not succeed; the status already holds their causes.

    The last Job of a failed FineTuneJob stays for its logs until the ttl, unless its pods still run. A Job
    whose pods are kept alive by injected containers is deleted even after a success, because the pods would
    hold their GPUs forever.
    """
    attempts = inputs.status.attempts
    keep = {a.job for a in attempts if a.outcome in ("Running", "Succeeded")}
    if ended and attempts:
        keep.add(attempts[-1].job)
    keep |= {readback_name(inputs, a) for a in attempts if a.job in keep}
    running = {a.job for a in attempts if a.outcome == "Running"}
    running |= {readback_name(inputs, a) for a in attempts if a.job in running}
    may_have_pods = {a.job for a in attempts if a.outcome in ("Running", "Succeeded")}
    may_have_pods |= {readback_name(inputs, a) for a in attempts if a.job in may_have_pods}
    return tuple(
        reference(job)
        for job in jobs_of(inputs.job, inputs.observed, *STAGES, Stage.READBACK)
        if not job["metadata"].get("deletionTimestamp")
        and (
            job["metadata"]["name"] not in keep
            or (job["metadata"]["name"] not in may_have_pods and not is_over(inputs, job))
            or (job["metadata"]["name"] not in running and _is_kept_alive(inputs, job))
        )
    )


def _is_kept_alive(inputs: PlanInput, job: Manifest) -> bool:
    return any(kept_alive_by(pod) for pod in pods_of(inputs.observed.pods, job))


def _report_refusal(error: str) -> Decision:
    """The decision to wait after the API server refused a write."""
    message = f"The API server refuses what the operator wants to do: {error}"
    return Decision(State.WAITING, Reason.PERMISSION_DENIED, message, requeue_after=30)
