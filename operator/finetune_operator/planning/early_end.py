"""Decides whether Train makes no further steps, and the job publishes the best weights so far. Pure.

The attempts of Train before that decision make steps; the attempts after that decision make none.
"""

from finetune_operator.api import AttemptStatus
from finetune_operator.planning import job_limits
from finetune_operator.planning.stages import since_missing_checkpoint, stage_of, train_attempts
from finetune_operator.planning.types import PlanInput
from finetune_operator.planning.verdict import GiveUp, verdict
from finetune_trainer.contract import Stage


def finishes(inputs: PlanInput) -> bool:
    """Whether the next attempt of Train makes no steps: training is over, and the job has a checkpoint."""
    return training_is_over(inputs) and has_checkpoint(inputs)


def training_is_over(inputs: PlanInput) -> bool:
    """Whether Train makes no further steps: at the request of the user, or because training cannot go on."""
    return inputs.job.spec.finish_training or _cannot_go_on(inputs)


def cause(inputs: PlanInput) -> str:
    """Describes in a sentence why training is over."""
    if inputs.job.spec.finish_training:
        return "spec.finishTraining is set."
    if limit := job_limits.reached(inputs):
        return limit.sentence
    failure = why_training_failed(inputs)
    return failure.message if failure else "Training is over."


def replaces_failure(inputs: PlanInput) -> bool:
    """Whether the job publishes the best weights so far where the job would fail otherwise."""
    stage = stage_of(inputs.running) if inputs.running else inputs.stage
    wanted = inputs.job.spec.failure_policy.on_train_failure == "Finish"
    return wanted and stage is Stage.TRAIN and has_checkpoint(inputs)


def has_checkpoint(inputs: PlanInput) -> bool:
    """Whether a checkpoint of the job is known: of an ended attempt of Train, or of the running attempt."""
    if newest_checkpoint(inputs) is not None:
        return True
    if inputs.running is None or stage_of(inputs.running) is not Stage.TRAIN:
        return False
    reports = (inputs.observed.progress, inputs.status.progress)
    return any(report.checkpoint_step for report in reports if report)


def newest_checkpoint(inputs: PlanInput) -> int | None:
    """The step of the newest checkpoint of the ended attempts of Train; None where no checkpoint is known."""
    tries = [a for a in train_attempts(inputs.status.attempts) if a.spec_digest == inputs.digest]
    steps = [a.checkpoint_step for a in since_missing_checkpoint(tries) if a.checkpoint_step]
    return max(steps, default=None)


def tries_of_next(inputs: PlanInput) -> list[AttemptStatus]:
    """The attempts whose failures decide whether the current stage gets another attempt, oldest first.

    Attempts of Train with steps and without steps fail for different causes, so the failures of the former do
    not count for the latter.
    """
    without_steps = inputs.stage is Stage.TRAIN and finishes(inputs)
    return [a for a in tries_of(inputs, inputs.stage) if (a.finish_cause is not None) is without_steps]


def tries_of(inputs: PlanInput, stage: Stage | None) -> list[AttemptStatus]:
    """The attempts of a stage for the current spec, oldest first."""
    return [a for a in inputs.status.attempts if stage_of(a) is stage and a.spec_digest == inputs.digest]


def why_training_failed(inputs: PlanInput) -> GiveUp | None:
    """Why Train gets no further attempt that makes steps; None where Train gets such an attempt."""
    with_steps = [a for a in tries_of(inputs, Stage.TRAIN) if a.finish_cause is None]
    return verdict(inputs, Stage.TRAIN, with_steps)


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
