"""Derives how long the pods of attempts ran, and for how long the pods held GPUs. Pure.

All times are times at which the operator observed a change, or at which the Job controller observed the end
of a Job while the operator was away. Times of kubelets do not count, because the clocks of nodes differ. The
status stores the number of GPUs that an attempt holds and the time up to which its GPU time is counted, so
that the GPU time at any later moment follows from the status.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from finetune_operator.api import AttemptStatus, DroppedAttempts, FineTuneJobStatus, GpuSeconds
from finetune_operator.objects import Manifest, index_of, label, live, since, transition_time
from finetune_operator.planning.stages import stage_of
from finetune_operator.planning.termination_messages import Expected, Unreadable, message_of
from finetune_operator.planning.types import PlanInput
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_trainer.contract import SecondsByUse


def active_seconds(status: FineTuneJobStatus, now: datetime) -> float:
    """How long all pods of an attempt ran, in seconds, summed over all attempts of a job."""
    dropped = status.attempts_dropped
    return sum((active_seconds_of(a, now) for a in status.attempts), dropped.active_seconds if dropped else 0)


def active_seconds_of(attempt: AttemptStatus, now: datetime) -> float:
    """How long all pods of an attempt ran, in seconds."""
    if attempt.running_since is None or (attempt.active_seconds is not None and attempt.end_time):
        return attempt.active_seconds or 0
    return (attempt.active_seconds or 0) + since(attempt.running_since, attempt.end_time or now)


def end_of_run(job: Manifest, now: datetime) -> datetime:
    """When the pods of a Job no longer all ran: now, or earlier if the conditions of the Job have a time.

    The operator may observe the end of a Job long after the end, for example after an upgrade.
    """
    ended = transition_time(job, "SuccessCriteriaMet", "Complete", "FailureTarget", "Failed")
    stopped = transition_time(job, "Suspended") if job["spec"].get("suspend") else None
    return min(t for t in (ended, stopped, now) if t)


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
    counted = _count_up_to(attempt, inputs.now if held else _release_of_gpus(inputs, attempt))
    return counted.model_copy(update={"gpus_held": held, "gpus": max(held, counted.gpus or 0)})


def count_usage(inputs: PlanInput, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with the GPU time of the job up to now, by use. The end of the job ends the count.

    Args:
        inputs: the input of the reconcile.
        status: the status that the reconcile writes.
    """
    attempts = [_count_up_to(a, inputs.now) if a.gpus_held else a for a in status.attempts]
    newest = (_divide(a, _reported(inputs, a), _lost_share(status, a)) for a in attempts[-1:])
    attempts = [*attempts[:-1], *newest]
    if status.completion_time:
        attempts = [a.model_copy(update={"gpus_held": 0}) if a.gpus_held else a for a in attempts]
    dropped = status.attempts_dropped
    total = _sum([*(a.gpu_seconds for a in attempts), dropped.gpu_seconds if dropped else None])
    return status.model_copy(update={"attempts": attempts, "gpu_seconds": total})


def add_dropped(before: DroppedAttempts, dropped: list[AttemptStatus]) -> dict[str, object]:
    """The fields of DroppedAttempts with the usage of more attempts.

    Args:
        before: the attempts that were dropped before.
        dropped: the attempts that the status drops now.
    """
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
        if _is_of(pod, attempt) and pod["spec"].get("nodeName")
    ]
    return len(own) * inputs.job.spec.resources.gpus_per_node


def _release_of_gpus(inputs: PlanInput, attempt: AttemptStatus) -> datetime:
    """When the last pod of an attempt released its GPUs: now, or the time in the conditions of its Job."""
    job = next((j for j in inputs.observed.jobs if j["metadata"]["uid"] == attempt.job_uid), None)
    if job is None:
        return inputs.now
    # The Job controller sets Complete and Failed after the end of the pods, and Suspended before their end.
    times = [transition_time(job, "Complete", "Failed")]
    if job["spec"].get("suspend") and (stopped := transition_time(job, "Suspended")):
        grace = job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 0)
        times.append(stopped + timedelta(seconds=grace))
    released = min(t for t in (*times, inputs.now) if t)
    return max(released, attempt.usage_time or released)


def _gpu_seconds_of(attempt: AttemptStatus, now: datetime) -> float:
    counted = attempt.gpu_seconds.total if attempt.gpu_seconds else 0
    if attempt.usage_time is None:
        return counted
    return counted + (attempt.gpus_held or 0) * since(attempt.usage_time, now)


def _count_up_to(attempt: AttemptStatus, now: datetime) -> AttemptStatus:
    """The attempt with its GPU time up to now. Until `_divide`, the added time counts as waiting."""
    before, total = attempt.gpu_seconds or GpuSeconds(), int(_gpu_seconds_of(attempt, now))
    counted = before.model_copy(update={"total": total, "waiting": before.waiting + total - before.total})
    return attempt.model_copy(update={"gpu_seconds": counted, "usage_time": now})


def _reported(inputs: PlanInput, attempt: AttemptStatus) -> SecondsByUse | None:
    """The time of rank 0 by use: from its termination message, or else from the newest progress."""
    expected = Expected(stage_of(attempt), attempt.number, attempt.config_digest, run=None)
    for pod in inputs.observed.pods:
        if _is_of(pod, attempt) and index_of(pod) == 0:
            with suppress(Unreadable):
                return message_of(pod, expected).seconds
    news = inputs.observed.progress
    same = news and news.stage is stage_of(attempt) and news.attempt == attempt.number
    return news.seconds if news and same else None


def _is_of(pod: Manifest, attempt: AttemptStatus) -> bool:
    """Whether a pod belongs to an attempt, whose Job may be deleted."""
    uid = label(pod, "batch.kubernetes.io/controller-uid")
    return uid is not None and uid == attempt.job_uid


def _divide(attempt: AttemptStatus, reported: SecondsByUse | None, lost_share: float) -> AttemptStatus:
    """The attempt with its GPU time by use.

    A tenant controls the pods, so the reported uses are at most the total. Without a report, the uses stay
    as they are.
    """
    counted = attempt.gpu_seconds
    if counted is None:
        return attempt
    known = counted.model_copy(update={"training": counted.training + counted.lost})
    left, uses = counted.total, {}
    for use in SecondsByUse.model_fields:
        wanted = (attempt.gpus or 0) * getattr(reported, use) if reported else getattr(known, use)
        uses[use] = min(wanted, left)
        left -= uses[use]
    lost = round(lost_share * uses["training"])
    uses |= {"training": uses["training"] - lost, "lost": lost, "waiting": left}
    return attempt.model_copy(update={"gpu_seconds": GpuSeconds(total=counted.total, **uses)})


def _lost_share(status: FineTuneJobStatus, attempt: AttemptStatus) -> float:
    """The share of the optimizer steps of the newest attempt that were lost, also by restarts in place.

    The reported time is that of all steps, so the steps that a restart in place repeated count twice.
    """
    in_place = attempt.in_place_restarts.lost_steps if attempt.in_place_restarts else 0
    lost = (attempt.lost_steps or 0) + in_place
    shown = status.progress.step if status.progress else None
    reached = shown if attempt.step is None else attempt.step
    if not lost or reached is None:
        return 0
    steps = reached - _first_step(status, attempt) + in_place
    return min(1.0, lost / steps) if steps > 0 else 1.0


def _first_step(status: FineTuneJobStatus, attempt: AttemptStatus) -> int:
    """The step at which the first round of an attempt began.

    After a restart in place, resumedFromStep is that of the newest round. The first round then resumed from
    the newest checkpoint of the earlier attempts.
    """
    resumed = attempt.resumed_from_step or 0
    if attempt.in_place_restarts is None:
        return resumed
    earlier = [
        a.checkpoint_step or 0
        for a in status.attempts
        if (a.stage, a.spec_digest) == (attempt.stage, attempt.spec_digest) and a.number < attempt.number
    ]
    return max((step for step in earlier if step <= resumed), default=0)


def _sum(parts: Iterable[GpuSeconds | None]) -> GpuSeconds | None:
    known = [part for part in parts if part]
    if not known:
        return None
    return GpuSeconds(**{use: sum(getattr(part, use) for part in known) for use in GpuSeconds.model_fields})
