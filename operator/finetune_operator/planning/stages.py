"""The table of the stages that a run goes through, and the Job of each attempt. Pure.

To add a stage, write a row in STAGES, a builder, and the row of its pods in `rendering.stage_pods`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from finetune_operator.api import AttemptStatus, FineTuneJob, FineTuneJobStatus
from finetune_operator.names import Condition, State
from finetune_operator.objects import Manifest
from finetune_operator.planning import micro_batch, results
from finetune_operator.planning.divergence import step_to_skip
from finetune_operator.rendering.jobs import stage_job
from finetune_operator.rendering.pods import UNKNOWN_NEEDS, WHOLE_GANG, Gang, Needs
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Deadlines, Settings
from finetune_trainer.contract import Chosen, Digest, FailureClass, Stage

CHECKPOINT_MISSING = "CheckpointMissing"
"""Reason of an attempt of Train without steps that finds no complete checkpoint of the run."""


@dataclass(frozen=True)
class NextAttempt:
    """The decisions about the next attempt of a stage. Only Train reads more than the number."""

    number: int
    gang: Gang = WHOLE_GANG
    finish_cause: str | None = None
    """Why the attempt makes no steps; None where the attempt makes steps. See `early_end.finishes`."""


@dataclass(frozen=True)
class StageRow:
    """The facts about one stage of a run."""

    state: State
    """The state of the FineTuneJob while an attempt of the stage runs."""
    condition: Condition
    """The condition that is True when the stage is done."""
    deadline: Callable[[Deadlines], int]
    """How many seconds the pods of an attempt may run."""
    build_job: Callable[[FineTuneJob, ResolvedRun, Settings, FineTuneJobStatus, NextAttempt], Manifest]
    """Builds the Job of the next attempt."""
    has_result: Callable[[FineTuneJobStatus], bool]
    """Whether the status holds a result of the stage, for whatever spec."""
    accept_result: Callable[[FineTuneJobStatus, Any], FineTuneJobStatus]
    """Returns the status with the payload of the stage in it. The payload's type is that of the
    stage, for example PreparePayload."""
    summarize: Callable[[FineTuneJobStatus], str]
    """Describes the result in a sentence."""


def stage_of(attempt: AttemptStatus) -> Stage:
    """The stage of an attempt."""
    return Stage(attempt.stage)


def train_attempts(attempts: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The Train attempts, oldest first, without the attempts that a change of the spec has superseded."""
    return [a for a in attempts if stage_of(a) is Stage.TRAIN and a.outcome != "Superseded"]


def since_missing_checkpoint(tries: list[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts of Train whose checkpoints may still exist.

    Checkpoints of attempts up to an attempt that found none (CHECKPOINT_MISSING) no longer exist.
    """
    missing = [number for number, a in enumerate(tries, 1) if a.reason == CHECKPOINT_MISSING]
    return tries[missing[-1] :] if missing else tries


def is_frozen(status: FineTuneJobStatus | None) -> bool:
    """Whether the API server refuses changes of the spec: a Train pod has run, and the stored status says so.

    The API server admits an edit until the status is stored. Planning therefore reads the stored status too,
    even where it already observes the pod.
    """
    return status is not None and status.training_start_time is not None


def is_done(status: FineTuneJobStatus, stage: Stage, digest: str) -> bool:
    """Whether a stage is done for a spec.

    The newest successful attempt of the stage has this spec digest, and its result is in the status.
    """
    newest = next(
        (a for a in reversed(status.attempts) if stage_of(a) is stage and a.outcome == "Succeeded"), None
    )
    return STAGES[stage].has_result(status) and newest is not None and newest.spec_digest == digest


def choose_for_train(status: FineTuneJobStatus, run: ResolvedRun) -> Chosen | None:
    """The choices of Prepare for the next Train attempt.

    After an attempt that ran out of memory, the micro-batch is halved and the global batch stays the same.
    The choices are for all nodes of the run; `micro_batch.with_world` changes them for a smaller gang.
    """
    first, earlier = status.chosen, _earlier(status, run)
    if first is None or not earlier:
        return first
    chosen = micro_batch.choices_of(earlier[-1], first)
    if earlier[-1].failure == FailureClass.OUT_OF_MEMORY:
        return micro_batch.halve(chosen) or chosen
    return chosen


def _earlier(status: FineTuneJobStatus, run: ResolvedRun) -> list[AttemptStatus]:
    """The Train attempts of the current spec, oldest first."""
    return [a for a in train_attempts(status.attempts) if a.spec_digest == run.spec_digest]


def build_readback_job(
    job: FineTuneJob, run: ResolvedRun, settings: Settings, number: int, attempt: AttemptStatus
) -> Manifest:
    """Builds the Job that reads the result of an attempt back from S3, where its message was lost."""
    return stage_job(job, run, settings, Stage.READBACK, number, readback=(stage_of(attempt), attempt.number))


def _build_prepare_job(
    job: FineTuneJob, run: ResolvedRun, settings: Settings, _: FineTuneJobStatus, attempt: NextAttempt
) -> Manifest:
    return stage_job(job, run, settings, Stage.PREPARE, attempt.number)


def _build_train_job(
    job: FineTuneJob,
    run: ResolvedRun,
    settings: Settings,
    status: FineTuneJobStatus,
    attempt: NextAttempt,
) -> Manifest:
    chosen, gang = choose_for_train(status, run), attempt.gang
    if chosen and gang.nodes:
        chosen = micro_batch.with_world(chosen, gang.nodes * run.run.world.processes_per_node)
    return stage_job(
        job,
        run,
        settings,
        Stage.TRAIN,
        attempt.number,
        chosen=chosen,
        gang=gang,
        prepared=_data_digest(status),
        finish_cause=attempt.finish_cause,
        skipped_step=_skipped_step(_earlier(status, run), attempt),
        needs=Needs(status.memory.train, status.memory.scratch) if status.memory else UNKNOWN_NEEDS,
    )


def _skipped_step(tries: list[AttemptStatus], attempt: NextAttempt) -> int | None:
    """The step that the attempt skips; for an attempt without steps, the step that training has skipped."""
    if attempt.finish_cause is None:
        return step_to_skip(tries)
    return next((a.skipped_step for a in reversed(tries) if a.finish_cause is None), None)


def _build_publish_job(
    job: FineTuneJob,
    run: ResolvedRun,
    settings: Settings,
    status: FineTuneJobStatus,
    attempt: NextAttempt,
) -> Manifest:
    return stage_job(
        job,
        run,
        settings,
        Stage.PUBLISH,
        attempt.number,
        chosen=status.chosen,
        prepared=_data_digest(status),
        needs=Needs(status.memory.publish, status.memory.scratch) if status.memory else UNKNOWN_NEEDS,
    )


def _data_digest(status: FineTuneJobStatus) -> Digest | None:
    return status.data.digest if status.data else None


STAGES = {
    Stage.PREPARE: StageRow(
        state=State.PREPARING,
        condition=Condition.PREPARED,
        deadline=lambda deadlines: deadlines.prepare,
        build_job=_build_prepare_job,
        has_result=lambda status: bool(status.data and status.chosen),
        accept_result=results.accept_prepare,
        summarize=results.summarize_data,
    ),
    Stage.TRAIN: StageRow(
        state=State.TRAINING,
        condition=Condition.EVALUATED,
        deadline=lambda deadlines: deadlines.train,
        build_job=_build_train_job,
        has_result=lambda status: status.training is not None,
        accept_result=results.accept_train,
        summarize=results.summarize_scores,
    ),
    Stage.PUBLISH: StageRow(
        state=State.PUBLISHING,
        condition=Condition.PUBLISHED,
        deadline=lambda deadlines: deadlines.publish,
        build_job=_build_publish_job,
        has_result=lambda status: bool(status.model and status.model.uri),
        accept_result=results.accept_publish,
        summarize=results.summarize_model,
    ),
}
"""The stages of a run, in order. Readback and Cleanup have no row: their Jobs are no attempts of a run."""
FIRST_STAGE, LAST_STAGE = next(iter(STAGES)), next(reversed(STAGES))
