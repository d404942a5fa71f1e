"""Describes a job in its status: conditions, state, progress and message. Pure."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from finetune_operator.api import ConditionStatus, FineTuneJobStatus, ProgressStatus, SlowRank
from finetune_operator.names import Condition, Reason, State
from finetune_operator.objects import distance, has_started, index_of, pods_of
from finetune_operator.planning.lookup import condition, find_job
from finetune_operator.planning.stages import LAST_STAGE, STAGES, is_done, stage_of, train_attempts
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.planning.wording import count, duration
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import SLOW_RANK_RATIO, Progress, Stage

MESSAGE_LIMIT = 2048
FINAL_STATES = {
    State.SUCCEEDED: "The job has succeeded.",
    State.FAILED: "The job has failed.",
    State.GATE_FAILED: "The job has ended: its gate is not passed.",
}
"""The final states. The condition Succeeded holds the cause."""


@dataclass(frozen=True)
class Fact:
    """A condition without its last transition time."""

    status: bool | None
    reason: str
    message: str


def describe(inputs: PlanInput, decision: Decision, gate: Fact | None) -> FineTuneJobStatus:
    """The status after a reconcile. `gate` is the condition GatePassed; None on a job without a gate."""
    progress = _next_progress(inputs, decision)
    ended = decision.state in FINAL_STATES
    start_time = inputs.status.start_time or (
        inputs.now if decision.create or inputs.status.attempts else None
    )
    shown = decision.state
    message = decision.message
    if decision.all_run and progress and decision.reason == Reason.IN_PROGRESS:
        message = _describe_progress(inputs, progress)
    stage = (inputs.running and stage_of(inputs.running)) or inputs.stage or LAST_STAGE
    updates = {
        "state": shown,
        "stage": stage.value,
        "message": message[:MESSAGE_LIMIT],
        "start_time": start_time,
        "training_start_time": inputs.status.training_start_time
        or (inputs.now if _training_has_started(inputs) else None),
        "completion_time": inputs.now if ended else None,
        "progress": progress,
        "observed_generation": inputs.job.metadata["generation"],
        "conditions": date_conditions(inputs, _describe_conditions(inputs, decision, stage, gate)),
    }
    return inputs.status.model_copy(update=updates)


def _training_has_started(inputs: PlanInput) -> bool:
    """Whether a Train pod has started for the current spec.

    Pods of an attempt for an earlier spec do not count: the attempt is superseded, or the current spec cannot
    be run and may still be corrected.
    """
    resolved, generation = isinstance(inputs.resolution, ResolvedRun), inputs.job.metadata["generation"]
    jobs = [
        find_job(inputs.observed, a.job)
        for a in train_attempts(inputs.status.attempts)
        if a.spec_digest == inputs.digest and (resolved or a.generation == generation)
    ]
    return any(has_started(pod) for job in jobs if job for pod in pods_of(inputs.observed.pods, job))


def refresh(inputs: PlanInput) -> FineTuneJobStatus:
    """The status of a finished job after an edit that does not restart the job."""
    generation = inputs.job.metadata["generation"]
    conditions = [c.model_copy(update={"observed_generation": generation}) for c in inputs.status.conditions]
    return inputs.status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def date_conditions(inputs: PlanInput, facts: dict[Condition, Fact]) -> list[ConditionStatus]:
    """Adds to each condition the time of its last change."""
    conditions = []
    for kind, fact in facts.items():
        status = "Unknown" if fact.status is None else str(fact.status)
        before = condition(inputs.job.status, kind)
        same = before is not None and before.status == status
        conditions.append(
            ConditionStatus(
                type=kind.value,
                status=status,
                reason=fact.reason[:64],
                message=fact.message[:MESSAGE_LIMIT],
                observed_generation=inputs.job.metadata["generation"],
                last_transition_time=before.last_transition_time if before and same else inputs.now,
            )
        )
    return conditions


def _describe_conditions(
    inputs: PlanInput, decision: Decision, stage: Stage, gate: Fact | None
) -> dict[Condition, Fact]:
    facts = {row.condition: _stage_fact(inputs, decision, stage, kind) for kind, row in STAGES.items()} | {
        Condition.RUNNING: _running_fact(inputs, decision),
        Condition.SUSPENDED: _suspended_fact(inputs, decision),
        Condition.FINISHED: _finished_fact(decision),
        Condition.SUCCEEDED: _succeeded_fact(decision),
        Condition.READY: _ready_fact(decision),
        Condition.STALLED: _stalled_fact(decision),
    }
    if gate:
        facts[Condition.GATE_PASSED] = gate
    return {kind: facts[kind] for kind in Condition if kind in facts}


def _stage_fact(inputs: PlanInput, decision: Decision, current: Stage, stage: Stage) -> Fact:
    """The condition of a stage; `current` is the stage that the job has reached."""
    if is_done(inputs.status, stage, inputs.digest):
        return Fact(True, Reason.COMPLETED, STAGES[stage].summarize(inputs.status))
    failed = _has_failed(decision)
    if failed and stage is current:
        return Fact(False, decision.reason, _refer_to_cause(inputs, decision, stage))
    known = False if failed else None
    order = list(STAGES)
    if order.index(stage) > order.index(current):
        return Fact(known, Reason.NOT_STARTED, f"{stage} has not begun.")
    return Fact(known, decision.reason if failed else Reason.IN_PROGRESS, f"{stage} has not ended.")


def _refer_to_cause(inputs: PlanInput, decision: Decision, stage: Stage) -> str:
    """Refers to the condition that holds the cause of a failure, so that the cause stands in one place."""
    if decision.reason == Reason.GATE_FAILED:
        return f"The gate is not passed; see the condition {Condition.GATE_PASSED}."
    last = next((a for a in reversed(inputs.status.attempts) if stage_of(a) is stage), None)
    if last is None or last.outcome != "Failed":
        return f"{stage} has not succeeded; see the condition {Condition.SUCCEEDED}."
    return f"{stage} attempt {last.number} failed; see the condition {Condition.SUCCEEDED}."


def _running_fact(inputs: PlanInput, decision: Decision) -> Fact:
    """The condition Running. Progress changes often, so it stands in the message of the status instead."""
    message = FINAL_STATES.get(decision.state, decision.message)
    if decision.all_run and decision.reason == Reason.IN_PROGRESS and inputs.running:
        message = f"All pods of {inputs.running.stage} attempt {inputs.running.number} run."
        if inputs.running.nodes:
            message = (
                f"All pods of Train attempt {inputs.running.number} run: Train goes on with"
                f" {_size(inputs, inputs.running.nodes)}."
            )
        if cause := inputs.running.finish_cause:
            message = f"{message} Train makes no further steps: {cause}"
    if decision.reason == Reason.RETRYING and inputs.status.attempts:
        last = inputs.status.attempts[-1]
        message = (
            f"{last.stage} attempt {last.number} failed and is tried again shortly; status.attempts says why."
        )
    return Fact(decision.all_run, decision.reason, message)


def _suspended_fact(inputs: PlanInput, decision: Decision) -> Fact:
    if decision.reason == Reason.SUSPENDED_BY_USER:
        return Fact(True, Reason.SUSPENDED_BY_USER, decision.message)
    if decision.reason == Reason.STOPPING and inputs.job.spec.suspend:
        return Fact(False, Reason.STOPPING, decision.message)
    return Fact(False, Reason.NOT_SUSPENDED, "The job is not suspended.")


def _finished_fact(decision: Decision) -> Fact:
    if ended := FINAL_STATES.get(decision.state):
        return Fact(True, decision.reason, ended)
    return Fact(False, Reason.IN_PROGRESS, "The job has not ended.")


def _succeeded_fact(decision: Decision) -> Fact:
    if decision.state is State.SUCCEEDED:
        return Fact(True, Reason.COMPLETED, decision.message)
    if _has_failed(decision):
        return Fact(False, decision.reason, decision.message)
    return Fact(None, decision.reason, "The job has not ended.")


def _ready_fact(decision: Decision) -> Fact:
    """The condition Ready: the status of Succeeded. The cause of a failure stands in Succeeded only."""
    return replace(
        _succeeded_fact(decision), message=FINAL_STATES.get(decision.state, "The job has not ended.")
    )


def _stalled_fact(decision: Decision) -> Fact:
    """The condition Stalled, which kstatus reads as a failure."""
    if _has_failed(decision):
        return Fact(True, decision.reason, FINAL_STATES[decision.state])
    reason = Reason.COMPLETED if decision.state is State.SUCCEEDED else Reason.IN_PROGRESS
    return Fact(False, reason, "The job has not failed.")


def _has_failed(decision: Decision) -> bool:
    return decision.state in FINAL_STATES and decision.state is not State.SUCCEEDED


def _next_progress(inputs: PlanInput, decision: Decision) -> ProgressStatus | None:
    """The progress to store. Progress within one activity is stored at most every `status_seconds`."""
    before, news = inputs.status.progress, inputs.observed.progress
    if decision.state is State.SUCCEEDED:
        return ProgressStatus(percent=100, activity="Done", updated=inputs.now)
    running = inputs.running
    if running is None:
        return before if decision.state is State.FAILED else None
    if news is None or news.stage is not stage_of(running) or news.attempt != running.number:
        return before
    fresh = before and distance(before.updated, inputs.now) < inputs.settings.status_seconds
    if before and fresh and before.activity == news.activity.value:
        return before
    return _progress_status(news, inputs.now).model_copy(update={"slow_rank": _slow_rank(inputs, news)})


def _round(figure: float | None) -> float | None:
    """Rounds to four significant digits, because kubectl prints all digits of a number in a column."""
    return None if figure is None else float(f"{figure:.4g}")


def _time(seconds: float | None, now: datetime) -> datetime | None:
    """A Unix time of a pod as a time of the status, at most `now`."""
    return None if seconds is None else datetime.fromtimestamp(int(min(seconds, now.timestamp())), UTC)


def _progress_status(news: Progress, now: datetime) -> ProgressStatus:
    return ProgressStatus(
        percent=int(news.percent),
        activity=news.activity.value,
        step=news.step,
        total_steps=news.total_steps,
        checkpoint_step=news.checkpoint_step,
        checkpoint_time=_time(news.checkpoint_time, now),
        epoch=news.epoch,
        loss=_round(news.loss),
        validation=_round(news.validation),
        samples_per_second=_round(news.samples_per_second),
        tokens_per_second=_round(news.tokens_per_second),
        eta_seconds=round(news.eta_seconds) if news.eta_seconds is not None else None,
        updated=now,
    )


def _slow_rank(inputs: PlanInput, news: Progress) -> SlowRank | None:
    """The slowest process with its node, if the process is slow."""
    rank, ratio = news.slowest_rank, news.slowest_rank_ratio
    if rank is None or ratio is None or ratio < SLOW_RANK_RATIO:
        return None
    node = None
    if inputs.running and isinstance(inputs.resolution, ResolvedRun):
        index = rank // inputs.resolution.run.world.processes_per_node
        job = find_job(inputs.observed, inputs.running.job)
        pods = pods_of(inputs.observed.pods, job) if job else []
        node = next((p["spec"].get("nodeName") for p in pods if index_of(p) == index), None)
    return SlowRank(rank=rank, node=node, ratio=_round(ratio) or 0.0)


def _describe_progress(inputs: PlanInput, progress: ProgressStatus) -> str:
    """A sentence such as: Training: step 120 of 300, loss 0.52, about 2 min left."""
    parts = []
    if progress.step is not None:
        parts.append(
            f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
        )
    elif progress.percent:
        parts.append(f"{progress.percent} %")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3g}")
    if progress.eta_seconds is not None:
        parts.append(f"about {duration(progress.eta_seconds)} left")
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in progress.activity).strip().capitalize()
    attempt = inputs.running
    facts = []
    if attempt and (attempt.number > 1 or attempt.resumed_from_step is not None):
        facts.append(f"attempt {attempt.number}")
    if attempt and attempt.nodes:
        facts.append(_size(inputs, attempt.nodes))
    if attempt and attempt.resumed_from_step is not None:
        facts.append(f"resumed from step {attempt.resumed_from_step}")
    again = f" ({', '.join(facts)})" if facts else ""
    return f"{words}{again}{': ' if parts else ''}{', '.join(parts)}."


def _size(inputs: PlanInput, nodes: int) -> str:
    """The size of a smaller gang, for example `3 of 4 nodes`."""
    return f"{nodes} of {count(inputs.job.spec.resources.nodes, 'node')}"
