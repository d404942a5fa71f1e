"""Decides whether a failed stage gets no further attempt, and why. Pure."""

from dataclasses import dataclass

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason
from finetune_operator.planning import divergence, micro_batch
from finetune_operator.planning.restart_budget import failures_since_progress, repeated
from finetune_operator.planning.types import PlanInput
from finetune_operator.planning.wording import count
from finetune_trainer.contract import FailureClass, Stage

NON_RETRYABLE = {FailureClass.USER_CONFIG, FailureClass.USER_DATA}
"""Failure classes for which another attempt would fail in the same way."""
DEFINITE = {"StorageDenied", "StorageCertificate", "StorageRefused"}
"""Reasons of Storage failures that a person has to fix."""
GPU_MEMORY = "GpuMemoryExhausted"
"""Reason of an OutOfMemory failure of the memory of a GPU, not of a pod."""
LOST = {"PreparedMissing", "PrepareResultMissing", "TrainResultMissing"}
"""Reasons for a lost result of an earlier stage: no attempt of this stage can bring the result back."""


@dataclass(frozen=True)
class GiveUp:
    """Why a stage gets no further attempt."""

    reason: str
    message: str


def verdict(inputs: PlanInput, stage: Stage, tries: list[AttemptStatus]) -> GiveUp | None:
    """Why a stage gets no further attempt; None where the stage gets another attempt.

    Args:
        inputs: the input of the reconcile.
        stage: the stage.
        tries: the attempts of the stage that count, oldest first.
    """
    failed = [a for a in tries if a.outcome == "Failed"]
    if tries and tries[-1].outcome == "Failed":
        last = tries[-1]
        where = f"{stage} attempt {last.number} failed"
        if last.failure in NON_RETRYABLE or last.reason in DEFINITE | LOST:
            return GiveUp(last.reason or Reason.RETRIES_EXHAUSTED, f"{where}. {cause_of(last)}")
        if last.failure == FailureClass.NUMERICAL and not _rolls_back(inputs, tries):
            return GiveUp(last.reason or last.failure, f"{where}. {cause_of(last)}{_skipped_before(last)}")
        if last.failure == FailureClass.OUT_OF_MEMORY and (advice := _out_of_memory(inputs, stage, failed)):
            return GiveUp(last.reason or Reason.OUT_OF_MEMORY, f"{where}. {cause_of(last)} {advice}")
        if earlier := repeated(tries):
            return GiveUp(last.reason or Reason.RETRIES_EXHAUSTED, _twice(stage, earlier, last))
        failures = len(failures_since_progress(tries))
        wanted = inputs.job.spec.failure_policy.max_restarts
        most = inputs.settings.max_restarts if wanted is None else wanted
        if failures > most:
            limit = "the operator's settings allow" if wanted is None else "spec.failurePolicy allows"
            return GiveUp(
                Reason.RETRIES_EXHAUSTED,
                f"{stage} failed {count(failures, 'time')} without progress; {limit}"
                f" {count(most, 'restart')}. The last cause: {cause_of(last)}",
            )
    return None


def _rolls_back(inputs: PlanInput, tries: list[AttemptStatus]) -> bool:
    """Whether the next attempt skips the step at which the last attempt diverged: once, if permitted."""
    permitted = inputs.job.spec.failure_policy.on_divergence == "RollBack"
    return permitted and divergence.diverged(tries) == tries[-1:] and tries[-1].diverged_step is not None


def _skipped_before(attempt: AttemptStatus) -> str:
    if attempt.skipped_step is None:
        return ""
    return f" The attempt had skipped step {attempt.skipped_step}, which was not finite before."


def _twice(stage: Stage, earlier: AttemptStatus, last: AttemptStatus) -> str:
    step = f", step {last.step}" if last.step is not None else ""
    return (
        f"{stage} attempt {last.number} failed in the same way as attempt {earlier.number} (at"
        f" {last.place}{step}), so {stage} is not tried again. {cause_of(last)} Remove the cause, and apply"
        " the job with another name."
    )


def _out_of_memory(inputs: PlanInput, stage: Stage, failed: list[AttemptStatus]) -> str | None:
    """What the user can do about memory; None where the next attempt halves the micro-batch."""
    if stage is not Stage.TRAIN:
        return (
            "Ask an administrator to raise the memory of this stage's pods: cpuStages.memory of the profile"
            " in the operator's settings."
        )
    again = sum(a.failure == FailureClass.OUT_OF_MEMORY for a in failed) > 1
    tried = "Half the micro-batch did not help"
    if inputs.status.chosen and not again:
        chosen = micro_batch.choices_of(failed[-1], inputs.status.chosen)
        if micro_batch.halve(chosen):
            return None
        tried = f"{micro_batch.describe(chosen)} cannot be halved"
    if failed[-1].reason == GPU_MEMORY:
        change = (
            "set spec.training.microBatchSize to 1, lower maxLength, or use spec.method LoRA,"
            " spec.deepspeed.zeroStage 3 or spec.deepspeed.offload"
        )
    else:
        change = "raise spec.resources.memory or nodes, or lower spec.training.maxLength or batchSize"
    return f"{tried}: {change}, in a job of another name."


def cause_of(attempt: AttemptStatus) -> str:
    """Reason and message of the end of an attempt."""
    return f"{attempt.reason}: {attempt.message}"
