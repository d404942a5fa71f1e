"""What is shown of a job: conditions, state, progress, one sentence. Status only describes. Pure."""

from dataclasses import dataclass
from datetime import datetime

from finetune_operator.api import ConditionStatus, FineTuneJobStatus, ProgressStatus
from finetune_operator.names import Condition, Reason, State
from finetune_operator.results import told
from finetune_operator.turn import STAGES, Decision, Turn, condition, distance, done, stage_of
from finetune_trainer.contract import Progress, Stage

MESSAGE_LIMIT = 2048
ENDS = (State.SUCCEEDED, State.FAILED)


@dataclass(frozen=True)
class Fact:
    """One condition before it is dated."""

    status: bool | None
    reason: str
    message: str = ""


def described(turn: Turn, decision: Decision) -> FineTuneJobStatus:
    """The whole status after a turn."""
    progress = _progress(turn, decision)
    ended = decision.state in ENDS
    begun = turn.status.start_time or (turn.now if decision.create or turn.status.attempts else None)
    shown = decision.state
    message = decision.message
    if decision.all_run and progress and decision.reason == Reason.IN_PROGRESS:
        message = _step(turn, progress)
    stage = (turn.running and stage_of(turn.running)) or turn.stage or Stage.PUBLISH
    updates = {
        "state": shown,
        "stage": stage.value,
        "message": message[:MESSAGE_LIMIT],
        "start_time": begun,
        "completion_time": turn.now if ended else None,
        "progress": progress,
        "observed_generation": turn.job.metadata["generation"],
        "conditions": dated(turn, _facts(turn, decision, stage)),
    }
    return turn.status.model_copy(update=updates)


def refreshed(turn: Turn) -> FineTuneJobStatus:
    """The status of a finished job, after an edit that changes nothing about its end."""
    generation = turn.job.metadata["generation"]
    conditions = [c.model_copy(update={"observed_generation": generation}) for c in turn.status.conditions]
    return turn.status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def dated(turn: Turn, facts: dict[Condition, Fact]) -> list[ConditionStatus]:
    """Conditions with the time of their last change."""
    made = []
    for kind, fact in facts.items():
        status = "Unknown" if fact.status is None else str(fact.status)
        before = condition(turn.job.status, kind)
        same = before is not None and before.status == status
        made.append(
            ConditionStatus(
                type=kind.value,
                status=status,
                reason=fact.reason[:64],
                message=fact.message[:MESSAGE_LIMIT],
                observed_generation=turn.job.metadata["generation"],
                last_transition_time=before.last_transition_time if before and same else turn.now,
            )
        )
    return made


def _facts(turn: Turn, decision: Decision, stage: Stage) -> dict[Condition, Fact]:
    status = turn.status
    failed = decision.state is State.FAILED
    ended = decision.state in ENDS
    open_fact = Fact(False if failed else None, decision.reason if failed else Reason.IN_PROGRESS)

    def reached(kind: Stage) -> Fact:
        if done(status, kind, turn.digest):
            return Fact(True, Reason.COMPLETED, told(status, kind))
        if failed and kind is stage:
            return Fact(False, decision.reason, decision.message)
        later = STAGES.index(kind) > STAGES.index(stage)
        return Fact(open_fact.status, Reason.NOT_STARTED) if later else open_fact

    suspended = {
        Reason.SUSPENDED_BY_USER: Fact(True, Reason.SUSPENDED_BY_USER, decision.message),
        Reason.STOPPING: Fact(False, Reason.STOPPING if turn.job.spec.suspend else Reason.NOT_SUSPENDED),
    }
    summary = {
        State.SUCCEEDED: Fact(True, Reason.COMPLETED, decision.message),
        State.FAILED: Fact(False, decision.reason, decision.message),
    }
    return {
        Condition.PREPARED: reached(Stage.PREPARE),
        Condition.RUNNING: Fact(
            decision.all_run, decision.reason, "" if ended or decision.all_run else decision.message
        ),
        Condition.EVALUATED: reached(Stage.TRAIN),
        Condition.PUBLISHED: reached(Stage.PUBLISH),
        Condition.SUSPENDED: suspended.get(
            Reason(decision.reason) if decision.reason in suspended else Reason.NOT_SUSPENDED,
            Fact(False, Reason.NOT_SUSPENDED),
        ),
        Condition.FINISHED: Fact(ended, decision.reason if ended else Reason.IN_PROGRESS),
        Condition.SUCCEEDED: summary.get(decision.state, Fact(None, decision.reason)),
    }


def _progress(turn: Turn, decision: Decision) -> ProgressStatus | None:
    """The progress to show: news of the same activity only when what is shown has aged."""
    before, news = turn.status.progress, turn.observed.progress
    if decision.state is State.SUCCEEDED:
        return ProgressStatus(percent=100, activity="Done", updated=turn.now)
    running = turn.running
    if running is None:
        return before if decision.state is State.FAILED else None
    if news is None or news.stage is not stage_of(running) or news.attempt != running.number:
        return before
    fresh = before and distance(before.updated, turn.now) < turn.settings.status_seconds
    if before and fresh and before.activity == news.activity.value:
        return before
    return _shown(news, turn.now)


def _rounded(figure: float | None) -> float | None:
    """Four significant digits: kubectl prints a column's number with all it has."""
    return None if figure is None else float(f"{figure:.4g}")


def _shown(news: Progress, now: datetime) -> ProgressStatus:
    return ProgressStatus(
        percent=int(news.percent),
        activity=news.activity.value,
        step=news.step,
        total_steps=news.total_steps,
        epoch=news.epoch,
        loss=_rounded(news.loss),
        validation=_rounded(news.validation),
        samples_per_second=_rounded(news.samples_per_second),
        tokens_per_second=_rounded(news.tokens_per_second),
        eta_seconds=round(news.eta_seconds) if news.eta_seconds is not None else None,
        updated=now,
    )


def _step(turn: Turn, progress: ProgressStatus) -> str:
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
        parts.append(f"about {_duration(progress.eta_seconds)} left")
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in progress.activity).strip().capitalize()
    attempt = turn.running
    again = f" (attempt {attempt.number})" if attempt and attempt.number > 1 else ""
    return f"{words}{again}{': ' if parts else ''}{', '.join(parts)}."


def _duration(seconds: int) -> str:
    minute, hour = 60, 3600
    if seconds < minute:
        return f"{seconds} s"
    if seconds < hour:
        return f"{round(seconds / minute)} min"
    return f"{seconds / hour:.1f} h"
