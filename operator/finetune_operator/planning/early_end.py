"""Decides whether Train makes no further steps, and the job publishes the best weights so far. Pure."""

from finetune_operator.api import AttemptStatus, FineTuneJobStatus
from finetune_operator.planning import job_limits
from finetune_operator.planning.stages import stage_of, train_attempts
from finetune_operator.planning.types import PlanInput
from finetune_operator.planning.verdict import GiveUp, verdict
from finetune_trainer.contract import Stage

CHECKPOINT_MISSING = "CheckpointMissing"
"""Reason of an attempt of Train that finishes and finds no complete checkpoint of the run."""
ANNOUNCEMENT = (
    "Train ends early: its pods save a checkpoint and stop. The next attempt publishes the best weights."
)


def finishes(inputs: PlanInput) -> bool:
    """Whether the next attempt of Train makes no steps: training is over, and the job has a checkpoint."""
    return is_over(inputs) and has_checkpoint(inputs.status, inputs.digest)


def is_over(inputs: PlanInput) -> bool:
    """Whether the job ends training: at the request of the user, or because training cannot go on."""
    return inputs.job.spec.finish_training or _cannot_go_on(inputs)


def cause(inputs: PlanInput) -> str:
    """Describes in a sentence why training is over."""
    if inputs.job.spec.finish_training:
        return "spec.finishTraining is set."
    if limit := job_limits.reached(inputs):
        return limit.reached
    failure = why_training_failed(inputs)
    return failure.message if failure else ""


def replaces_failure(inputs: PlanInput) -> bool:
    """Whether the job publishes the best weights so far where it would fail otherwise."""
    stage = stage_of(inputs.running) if inputs.running else inputs.stage
    wanted = inputs.job.spec.failure_policy.on_train_failure == "Finish"
    return wanted and stage is Stage.TRAIN and has_checkpoint(inputs.status, inputs.digest)


def has_checkpoint(status: FineTuneJobStatus, digest: str) -> bool:
    """Whether an ended attempt of Train has left a checkpoint.

    Checkpoints of attempts up to an attempt that found none (CHECKPOINT_MISSING) no longer exist.
    """
    tries = [a for a in train_attempts(status.attempts) if a.spec_digest == digest]
    missing = [number for number, a in enumerate(tries, 1) if a.reason == CHECKPOINT_MISSING]
    left = tries[missing[-1] :] if missing else tries
    return any(a.checkpoint_step for a in left)


def tries_of_next(inputs: PlanInput) -> list[AttemptStatus]:
    """The attempts whose failures decide about the next attempt of the current stage, oldest first.

    Attempts of Train that make steps and attempts that make none fail for different causes, so the failures
    of the former do not count for the latter.
    """
    without_steps = inputs.stage is Stage.TRAIN and finishes(inputs)
    return [a for a in _tries(inputs, inputs.stage) if bool(a.finishes) is without_steps]


def why_training_failed(inputs: PlanInput) -> GiveUp | None:
    """Why Train gets no further attempt that makes steps; None where Train gets such an attempt."""
    return verdict(inputs, Stage.TRAIN, [a for a in _tries(inputs, Stage.TRAIN) if not a.finishes])


def all_steps_done(inputs: PlanInput) -> bool:
    """Whether the running attempt has reported that it has made its last step."""
    report = inputs.observed.progress or inputs.status.progress
    if report is None or report.step is None or report.total_steps is None:
        return False
    return report.step >= report.total_steps


def _cannot_go_on(inputs: PlanInput) -> bool:
    if not replaces_failure(inputs):
        return False
    return job_limits.reached(inputs) is not None or why_training_failed(inputs) is not None


def _tries(inputs: PlanInput, stage: Stage | None) -> list[AttemptStatus]:
    """The attempts of a stage for the current spec, oldest first."""
    return [a for a in inputs.status.attempts if stage_of(a) is stage and a.spec_digest == inputs.digest]
