"""The stages of a run: when one is done, and the Job of its next attempt. Pure."""

from collections.abc import Iterable

from finetune_operator.api import AttemptStatus, FineTuneJob, FineTuneJobStatus
from finetune_operator.objects import Manifest
from finetune_operator.rendering.jobs import stage_job
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Settings
from finetune_trainer.contract import Chosen, FailureClass, Stage

STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH)


def stage_of(attempt: AttemptStatus) -> Stage:
    """The stage that an attempt tried."""
    return Stage(attempt.stage)


def train_attempts(attempts: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The Train attempts, oldest first, without those that a change of the spec has superseded."""
    return [a for a in attempts if stage_of(a) is Stage.TRAIN and a.outcome != "Superseded"]


def is_frozen(status: FineTuneJobStatus | None) -> bool:
    """Whether the API server refuses changes of the spec: a Train pod has run, and the stored status says so.

    An edit that the API server admits before it knows of the pod is legitimate, so planning takes the stored
    status as the answer too, even where the pod is already observed.
    """
    return status is not None and status.training_start_time is not None


def done(status: FineTuneJobStatus, stage: Stage, digest: str) -> bool:
    """Whether the status holds the result of a stage for this spec: of its newest successful attempt."""
    results = {
        Stage.PREPARE: status.data and status.chosen,
        Stage.TRAIN: status.training,
        Stage.PUBLISH: status.model and status.model.uri,
    }
    newest = next(
        (a for a in reversed(status.attempts) if stage_of(a) is stage and a.outcome == "Succeeded"), None
    )
    return bool(results[stage]) and newest is not None and newest.spec_digest == digest


def attempt_job(
    job: FineTuneJob,
    run: ResolvedRun,
    settings: Settings,
    status: FineTuneJobStatus,
    stage: Stage,
    number: int,
) -> Manifest:
    """The Job of one attempt of a stage."""
    if stage is Stage.PREPARE:
        return stage_job(job, run, settings, stage, number)
    prepared = status.data.digest if status.data else None
    chosen = train_choices(status, run) if stage is Stage.TRAIN else status.chosen
    return stage_job(job, run, settings, stage, number, chosen=chosen, prepared=prepared)


def train_choices(status: FineTuneJobStatus, run: ResolvedRun) -> Chosen | None:
    """Prepare's choices; after out of memory with half the micro-batch and the same global batch."""
    first = status.chosen
    earlier = [a for a in train_attempts(status.attempts) if a.spec_digest == run.spec_digest]
    if first is None or not earlier:
        return first
    micro = earlier[-1].micro_batch_size or first.micro_batch_size
    if earlier[-1].failure == FailureClass.OUT_OF_MEMORY and micro % 2 == 0:
        micro //= 2
    accumulation = first.accumulation_steps * first.micro_batch_size // micro
    return first.model_copy(update={"micro_batch_size": micro, "accumulation_steps": accumulation})


def readback_job(
    job: FineTuneJob, run: ResolvedRun, settings: Settings, number: int, attempt: AttemptStatus
) -> Manifest:
    """The Job that reads the durable result of an attempt back from S3, where its message was lost."""
    return stage_job(
        job, run, settings, Stage.READBACK, number, readback=(Stage(attempt.stage), attempt.number)
    )
