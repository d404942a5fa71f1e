"""Whether a failed stage gets another attempt, and when. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason, State
from finetune_operator.objects import distance, since
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.planning.wording import counted
from finetune_operator.rendering.trainer_config import uid_of
from finetune_trainer.contract import FailureClass, Stage

NON_RETRYABLE = {FailureClass.USER_CONFIG, FailureClass.USER_DATA, FailureClass.NUMERICAL}
"""The same again would end the same."""
DEFINITE = {"StorageDenied", "StorageCertificate", "StorageRefused"}
"""Storage failures that time does not mend, somebody has to."""
FREE_STORAGE_SECONDS = 3600
"""From a stage's first Storage failure: until then they do not count, a store may be down for a while."""
FIRST_DELAY, LONGEST_DELAY = 10.0, 300.0
ATTEMPT_LIMIT = {Stage.PREPARE: 48, Stage.TRAIN: 56, Stage.PUBLISH: 64}
"""Attempts of the whole job after which a stage gets no more: status.attempts holds 64, and the stages that
follow need room."""


@dataclass(frozen=True)
class GiveUp:
    """No further attempt, and why."""

    reason: str
    message: str


def check(inputs: PlanInput) -> Decision | None:
    """Ends a job whose stage is beyond help; holds one that waits for its next attempt."""
    stage = inputs.stage
    if inputs.running or stage is None:
        return None
    tries = [a for a in inputs.status.attempts if stage_of(a) is stage and a.spec_digest == inputs.digest]
    if refused := verdict(inputs, stage, tries):
        return Decision(State.FAILED, refused.reason, refused.message + _where_to_look(inputs))
    if not tries or tries[-1].outcome != "Failed":
        return None
    last = tries[-1]
    left = delay(tries, uid_of(inputs.job)) - distance(last.end_time or inputs.now, inputs.now)
    if left <= 0:
        return None
    message = f"{stage} attempt {last.number} failed and is tried again shortly. {_cause(last)}"
    return Decision(State.WAITING, Reason.RETRYING, message, requeue_after=left)


def verdict(inputs: PlanInput, stage: Stage, tries: list[AttemptStatus]) -> GiveUp | None:
    """Why a stage gets no further attempt; None where it does."""
    failed = [a for a in tries if a.outcome == "Failed"]
    if tries and tries[-1].outcome == "Failed":
        last = tries[-1]
        where = f"{stage} attempt {last.number} failed"
        if last.failure in NON_RETRYABLE or last.reason in DEFINITE:
            return GiveUp(last.reason or Reason.RETRIES_EXHAUSTED, f"{where}. {_cause(last)}")
        if last.failure == FailureClass.OUT_OF_MEMORY and (advice := _out_of_memory(inputs, stage, failed)):
            return GiveUp(last.reason or Reason.OUT_OF_MEMORY, f"{where}. {_cause(last)} {advice}")
        failures, most = len(_counted(failed)), inputs.settings.max_restarts
        if failures > most:
            return GiveUp(
                Reason.RETRIES_EXHAUSTED,
                f"{stage} failed {counted(failures, 'time')}; the operator's settings allow"
                f" {counted(most, 'restart')}. The last cause: {_cause(last)}",
            )
    if len(inputs.status.attempts) >= ATTEMPT_LIMIT[stage]:
        total = len(inputs.status.attempts)
        return GiveUp(
            Reason.RETRIES_EXHAUSTED,
            f"The job has had {total} attempts, {stage} gets no more. Apply it again under another name.",
        )
    return None


def delay(tries: list[AttemptStatus], uid: str) -> float:
    """Seconds from the last failure to the next attempt: 10 s x 2^n, at most 5 min.

    Spread by up to a quarter, by the job's uid instead of randomness, so that jobs that failed together do
    not come back together.
    """
    failures = 0
    for attempt in reversed(tries):
        if attempt.outcome != "Failed":
            break
        failures += 1
    base = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 10))
    share = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:2], "big") / 65536
    return base * (1 + share / 4)


def _counted(failed: list[AttemptStatus]) -> list[AttemptStatus]:
    """The failures that count against the restarts allowed."""
    storage = [a.end_time for a in failed if a.failure == FailureClass.STORAGE and a.end_time]
    first = min(storage, default=None)
    return [a for a in failed if not _is_free(a, first)]


def _is_free(attempt: AttemptStatus, first_storage: datetime | None) -> bool:
    match attempt.failure:
        case FailureClass.PREEMPTED | FailureClass.OUT_OF_MEMORY:
            return True
        case FailureClass.STORAGE if first_storage and attempt.end_time:
            return since(first_storage, attempt.end_time) < FREE_STORAGE_SECONDS
        case _:
            return False


def _out_of_memory(inputs: PlanInput, stage: Stage, failed: list[AttemptStatus]) -> str | None:
    """What to do about memory, where a smaller micro-batch cannot help (any more)."""
    if stage is not Stage.TRAIN:
        return (
            "Ask an administrator to raise the memory of this stage's pods: cpuStages.memory of the profile"
            " in the operator's settings."
        )
    again = sum(a.failure == FailureClass.OUT_OF_MEMORY for a in failed) > 1
    micro = failed[-1].micro_batch_size or (
        inputs.status.chosen.micro_batch_size if inputs.status.chosen else 1
    )
    if not again and micro % 2 == 0:
        return None
    tried = "Half the micro-batch did not help" if again else f"A micro-batch of {micro} cannot be halved"
    return (
        f"{tried}: raise spec.resources.memory or nodes, or lower spec.training.maxLength or batchSize, in a"
        " job of another name."
    )


def _where_to_look(inputs: PlanInput) -> str:
    """The log, where the last pod itself said nothing. Its Job stays; those of earlier attempts are gone."""
    last = inputs.status.attempts[-1] if inputs.status.attempts else None
    if last is None or last.pod is None or last.reason not in (Reason.TRAINER_DIED, last.failure):
        return ""
    kept = inputs.job.spec.ttl.pods_after_finished
    command = f"kubectl -n {inputs.job.metadata['namespace']} logs {last.pod}"
    return f" Its log stays for {kept} (spec.ttl.podsAfterFinished): {command}."


def _cause(attempt: AttemptStatus) -> str:
    return f"{attempt.reason}: {attempt.message}"
