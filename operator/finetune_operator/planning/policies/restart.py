"""Decides whether and when a failed stage gets another attempt. Pure."""

from dataclasses import dataclass

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason, State
from finetune_operator.objects import distance
from finetune_operator.planning import divergence, micro_batch
from finetune_operator.planning.restart_budget import delay, failures_since_progress, repeated
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.planning.wording import count
from finetune_operator.rendering.trainer_config import uid_of
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


def check(inputs: PlanInput) -> Decision | None:
    """Fails a job whose stage gets no further attempt; holds a job that waits for its next attempt."""
    stage, tries = inputs.stage, _tries(inputs)
    if inputs.running or stage is None:
        return None
    if refused := verdict(inputs, stage, tries):
        return Decision(State.FAILED, refused.reason, refused.message + _where_to_look(inputs))
    if not tries or tries[-1].outcome != "Failed":
        return None
    last = tries[-1]
    left = delay(tries, uid_of(inputs.job)) - distance(last.end_time or inputs.now, inputs.now)
    if left <= 0:
        return None
    skip = divergence.step_to_skip(tries)
    how = f"is tried again shortly, without step {skip}" if skip else "is tried again shortly"
    message = f"{stage} attempt {last.number} failed and {how}. {_cause(last)}"
    return Decision(State.WAITING, Reason.RETRYING, message, requeue_after=left)


def gives_up(inputs: PlanInput) -> bool:
    """Whether nothing runs and the current stage gets no further attempt because of its failures."""
    if inputs.running or inputs.stage is None:
        return False
    return verdict(inputs, inputs.stage, _tries(inputs)) is not None


def _tries(inputs: PlanInput) -> list[AttemptStatus]:
    """The attempts of the current stage for the current spec, oldest first."""
    return [
        a for a in inputs.status.attempts if stage_of(a) is inputs.stage and a.spec_digest == inputs.digest
    ]


def verdict(inputs: PlanInput, stage: Stage, tries: list[AttemptStatus]) -> GiveUp | None:
    """Why a stage gets no further attempt; None where the stage gets another attempt."""
    failed = [a for a in tries if a.outcome == "Failed"]
    if tries and tries[-1].outcome == "Failed":
        last = tries[-1]
        where = f"{stage} attempt {last.number} failed"
        if last.failure in NON_RETRYABLE or last.reason in DEFINITE | LOST:
            return GiveUp(last.reason or Reason.RETRIES_EXHAUSTED, f"{where}. {_cause(last)}")
        if last.failure == FailureClass.NUMERICAL and not _rolls_back(inputs, tries):
            return GiveUp(last.reason or last.failure, f"{where}. {_cause(last)}{_skipped_before(last)}")
        if last.failure == FailureClass.OUT_OF_MEMORY and (advice := _out_of_memory(inputs, stage, failed)):
            return GiveUp(last.reason or Reason.OUT_OF_MEMORY, f"{where}. {_cause(last)} {advice}")
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
                f" {count(most, 'restart')}. The last cause: {_cause(last)}",
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
        f" {last.place}{step}), so {stage} is not tried again. {_cause(last)} Remove the cause, and apply the"
        " job with another name."
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


def _where_to_look(inputs: PlanInput) -> str:
    """The command that shows the log of the last pod, if the pod left no message of its own."""
    last = inputs.status.attempts[-1] if inputs.status.attempts else None
    if last is None or last.pod is None or last.reason not in (Reason.TRAINER_DIED, last.failure):
        return ""
    kept = inputs.job.spec.ttl.pods_after_finished
    command = f"kubectl -n {inputs.job.metadata['namespace']} logs {last.pod}"
    return f" Its log stays for {kept} (spec.ttl.podsAfterFinished): {command}."


def _cause(attempt: AttemptStatus) -> str:
    return f"{attempt.reason}: {attempt.message}"
