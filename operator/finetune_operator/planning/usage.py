"""Derives how long the pods of attempts ran, and for how long the pods held GPUs. Pure.

All times are times at which the operator observed a change: kubelets write times of the clocks of their
nodes. The status stores the number of GPUs that an attempt holds and the time up to which its GPU time is
counted, so that the GPU time at any later moment follows from the status.
"""

from collections.abc import Iterable
from datetime import datetime

from finetune_operator.api import AttemptStatus, DroppedAttempts, FineTuneJobStatus, GpuSeconds
from finetune_operator.objects import label, live, since
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.types import PlanInput
from finetune_operator.rendering.stage_pods import STAGE_PODS


def active_seconds(status: FineTuneJobStatus, now: datetime) -> float:
    """How long all pods of an attempt ran, in seconds, summed over all attempts of a job."""
    dropped = status.attempts_dropped
    return sum((active_seconds_of(a, now) for a in status.attempts), dropped.active_seconds if dropped else 0)


def active_seconds_of(attempt: AttemptStatus, now: datetime) -> float:
    """How long all pods of an attempt ran, in seconds."""
    if attempt.running_since is None or (attempt.active_seconds is not None and attempt.end_time):
        return attempt.active_seconds or 0
    return (attempt.active_seconds or 0) + since(attempt.running_since, attempt.end_time or now)


def gpu_seconds(status: FineTuneJobStatus, now: datetime) -> float:
    """The GPU time of a job, in seconds x GPUs, summed over all attempts."""
    dropped = status.attempts_dropped
    earlier = dropped.gpu_seconds.total if dropped and dropped.gpu_seconds else 0
    return sum((_gpu_seconds_of(a, now) for a in status.attempts), earlier)


def observe_gpus(inputs: PlanInput, attempt: AttemptStatus) -> AttemptStatus:
    """The attempt with the number of GPUs that its pods hold now; unchanged where the number is unchanged."""
    held = _count_held(inputs, attempt)
    if held == (attempt.gpus_held or 0):
        return attempt
    if attempt.usage_time is None:
        # An attempt that began before this field existed has held its GPUs since its pods run.
        start = attempt.running_since or inputs.now
        attempt = attempt.model_copy(update={"gpus_held": held, "usage_time": start})
    counted = _count_up_to(attempt, inputs.now)
    return counted.model_copy(update={"gpus_held": held, "gpus": max(held, counted.gpus or 0)})


def count_usage(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status with the GPU time of the job up to now. The end of the job ends the count."""
    attempts = [_count_up_to(a, now) if a.gpus_held else a for a in status.attempts]
    if status.completion_time:
        attempts = [a.model_copy(update={"gpus_held": 0}) if a.gpus_held else a for a in attempts]
    dropped = status.attempts_dropped
    total = _sum([*(a.gpu_seconds for a in attempts), dropped.gpu_seconds if dropped else None])
    return status.model_copy(update={"attempts": attempts, "gpu_seconds": total})


def add_dropped(before: DroppedAttempts, dropped: list[AttemptStatus]) -> dict[str, object]:
    """The fields of DroppedAttempts with the usage of attempts that the status drops."""
    return {
        "active_seconds": before.active_seconds + sum(a.active_seconds or 0 for a in dropped),
        "gpu_seconds": _sum([before.gpu_seconds, *(a.gpu_seconds for a in dropped)]),
    }


def _count_held(inputs: PlanInput, attempt: AttemptStatus) -> int:
    """The number of GPUs of the pods that have a node and have not ended, also of a deleted Job."""
    if not STAGE_PODS[stage_of(attempt)].is_gang:
        return 0
    own = [
        pod
        for pod in live(inputs.observed.pods, inputs.now)
        if attempt.job_uid
        and label(pod, "batch.kubernetes.io/controller-uid") == attempt.job_uid
        and pod["spec"].get("nodeName")
    ]
    return len(own) * inputs.job.spec.resources.gpus_per_node


def _gpu_seconds_of(attempt: AttemptStatus, now: datetime) -> float:
    counted = attempt.gpu_seconds.total if attempt.gpu_seconds else 0
    if attempt.usage_time is None:
        return counted
    return counted + (attempt.gpus_held or 0) * since(attempt.usage_time, now)


def _count_up_to(attempt: AttemptStatus, now: datetime) -> AttemptStatus:
    total = GpuSeconds(total=int(_gpu_seconds_of(attempt, now)))
    return attempt.model_copy(update={"gpu_seconds": total, "usage_time": now})


def _sum(parts: Iterable[GpuSeconds | None]) -> GpuSeconds | None:
    known = [part for part in parts if part]
    return GpuSeconds(total=sum(part.total for part in known)) if known else None
