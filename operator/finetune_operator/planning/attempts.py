"""Records attempts in the status: adopts new Jobs, closes ended attempts with their cause or result. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from finetune_operator import names
from finetune_operator.api import AttemptStatus
from finetune_operator.names import Reason
from finetune_operator.objects import Manifest, moment, pods_of
from finetune_operator.planning import divergence, pending
from finetune_operator.planning.attempt_history import shorten
from finetune_operator.planning.attempt_steps import (
    restarts_in_place,
    resumed_from,
    steps_of_failure,
    steps_of_success,
)
from finetune_operator.planning.failure_classification import End, Failing, Failure, Success, end_of
from finetune_operator.planning.lookup import find_job, jobs_of, readback_name
from finetune_operator.planning.micro_batch import differing_micro_batch
from finetune_operator.planning.stages import STAGES, stage_of
from finetune_operator.planning.termination_messages import Expected
from finetune_operator.planning.types import InProgress, PlanInput, Stop
from finetune_operator.planning.usage import active_seconds_of, end_of_run, observe_gpus
from finetune_operator.rendering.jobs import config_of
from finetune_trainer.contract import Stage

REASON_LIMIT = 64
MESSAGE_LIMIT = 1024


def record_attempts(inputs: PlanInput) -> PlanInput:
    """Brings the status up to the observed state.

    An attempt begins when the operator observes its Job. A crash between the creation of the Job and the
    write of the status therefore neither loses nor repeats the attempt. An attempt ends once, with its cause.
    """
    inputs = _adopt_new_jobs(inputs)
    for attempt in inputs.status.attempts:
        if attempt.outcome == "Running":
            inputs = _update_attempt(inputs, attempt)
    for attempt in inputs.status.attempts:
        if attempt.outcome == "Running" or attempt.gpus_held:
            inputs = _replace_attempt(inputs, observe_gpus(inputs, attempt))
    for attempt in inputs.status.attempts[-1:]:
        if attempt.outcome in ("Failed", "Suspended", "Resized"):
            # The pods of an attempt that was stopped save a checkpoint before they end.
            late = attempt.model_copy(update=steps_of_failure(inputs, attempt))
            inputs = _replace_attempt(inputs, late)
    return replace(inputs, status=shorten(inputs.status))


def stop_running_attempt(inputs: PlanInput, stop: Stop) -> PlanInput:
    """Ends the running attempt with the outcome of `stop`."""
    cause = {"reason": stop.reason, "message": stop.message, "available_nodes": stop.available_nodes}
    ended = [
        _end_attempt(inputs, a, stop.outcome, **cause, **steps_of_failure(inputs, a))
        if a.outcome == "Running"
        else a
        for a in inputs.status.attempts
    ]
    return replace(
        inputs, status=inputs.status.model_copy(update={"attempts": ended}), progress_of_attempt=None
    )


def next_number(inputs: PlanInput, stage: Stage) -> int:
    """The number of the next attempt of a stage. Numbers are never used twice."""
    return max((a.number for a in inputs.status.attempts if stage_of(a) is stage), default=0) + 1


def _adopt_new_jobs(inputs: PlanInput) -> PlanInput:
    # A Job with a lower number belongs to an attempt that the status has dropped.
    newest = {stage: next_number(inputs, stage) - 1 for stage in STAGES}
    jobs = jobs_of(inputs.job, inputs.observed, *STAGES)
    attempts = [_attempt_of(inputs, job) for job in jobs]
    new = [attempt for attempt in attempts if attempt.number > newest[stage_of(attempt)]]
    if not new:
        return inputs
    status = inputs.status.model_copy(update={"attempts": [*inputs.status.attempts, *new], "progress": None})
    return replace(inputs, status=status)


def _attempt_of(inputs: PlanInput, job: Manifest) -> AttemptStatus:
    meta, config = job["metadata"], config_of(job)
    annotations = meta.get("annotations", {})
    generation = annotations.get(names.ANNOTATION_GENERATION, "")
    chosen, attempt_chosen = inputs.status.chosen, config.chosen if config else None
    halved = differing_micro_batch(attempt_chosen, chosen) if chosen and attempt_chosen else {}
    return AttemptStatus(
        stage=Stage(meta["labels"][names.LABEL_STAGE]).value,
        number=int(meta["labels"][names.LABEL_ATTEMPT]),
        generation=int(generation) if generation.isdecimal() else 0,
        config_digest=annotations.get(names.ANNOTATION_CONFIG_DIGEST, "")[:71],
        spec_digest=annotations.get(names.ANNOTATION_SPEC_DIGEST, "")[:71],
        job=meta["name"],
        job_uid=meta["uid"],
        start_time=moment(meta.get("creationTimestamp")) or inputs.now,
        outcome="Running",
        nodes=config.nodes if config else None,
        finish_cause=_finish_cause(annotations) if config and config.finish else None,
        skipped_step=config.skipped_step if config and not config.finish else None,
        **halved,
    )


def _finish_cause(annotations: Mapping[str, str]) -> str:
    """Why an attempt makes no steps. Its config, and not the annotation, decides whether it makes none."""
    return annotations.get(names.ANNOTATION_FINISH_CAUSE, "")[:MESSAGE_LIMIT] or "Training is over."


def _update_attempt(inputs: PlanInput, attempt: AttemptStatus) -> PlanInput:
    """Closes a running attempt whose Job has ended; else records how far the attempt is."""
    job = find_job(inputs.observed, attempt.job)
    if job is None or job["metadata"]["uid"] != attempt.job_uid or job["metadata"].get("deletionTimestamp"):
        message = f"Somebody deleted Job {attempt.job} while it was at work."
        return _close_attempt(inputs, attempt, Failure(Reason.JOB_DELETED, message))
    config = config_of(job)
    run = config.run if config and config.run.digest() == attempt.config_digest else None
    expected = Expected(Stage(attempt.stage), attempt.number, attempt.config_digest, run)
    end = _classify(inputs, attempt, job, expected)
    if isinstance(end, InProgress) and end.kind == "lost":
        end = _read_back_result(inputs, attempt, expected, end)
    if isinstance(end, InProgress):
        watched = _set_times(inputs, attempt, job, end)
        update = {
            "resumed_from_step": resumed_from(inputs, attempt),
            "in_place_restarts": restarts_in_place(inputs, attempt),
        }
        watched = watched.model_copy(update=update)
        return replace(_replace_attempt(inputs, watched), progress_of_attempt=end)
    return _close_attempt(inputs, attempt, end)


def _set_times(
    inputs: PlanInput, attempt: AttemptStatus, job: Manifest, progress: InProgress
) -> AttemptStatus:
    """Sets the times that deadlines and the collection window count from.

    They are times at which the operator observed the change, or times of the Job controller: kubelets write
    times of the clocks of their nodes.
    """
    update: dict[str, object] = {}
    pods = pods_of(inputs.observed.pods, job)
    if job["spec"].get("suspend"):
        stopped = end_of_run(job, inputs.now)
        update["active_seconds"] = int(active_seconds_of(attempt, stopped)) or None
        update["running_since"] = None
    elif attempt.running_since is None and pending.have_all_started(job, pods):
        update["running_since"] = inputs.now
    if progress.failing:
        update |= {"failing_since": attempt.failing_since or inputs.now, "pod": progress.pod}
    return attempt.model_copy(update=update)


def _read_back_result(
    inputs: PlanInput, attempt: AttemptStatus, expected: Expected, lost: InProgress
) -> Success | Failure | InProgress:
    """The end that the readback Job of an attempt reports; `lost` until the readback Job exists."""
    job = find_job(inputs.observed, readback_name(inputs, attempt))
    if job is None or job["metadata"].get("deletionTimestamp"):
        return lost
    end = _classify(inputs, attempt, job, replace(expected, readback=True))
    match end:
        case Success():
            return end
        case InProgress(kind="going" | "collecting"):
            return replace(lost, requeue_after=end.requeue_after, failing=end.failing)
        case Failure():
            detail = f"{lost.message}; reading the result back from S3 failed: {end.message}"
        case InProgress():
            detail = f"{lost.message}; the result was read back from S3, but {end.message}"
    message = f"Job {attempt.job} succeeded, but {detail}"
    return Failure(Reason.RESULT_UNREADABLE, message, failure=getattr(end, "failure", None))


def _classify(inputs: PlanInput, attempt: AttemptStatus, job: Manifest, expected: Expected) -> End:
    pods, collection = pods_of(inputs.observed.pods, job), inputs.settings.deadlines.collection
    failing = Failing(attempt.failing_since, attempt.pod)
    return end_of(job, pods, expected, now=inputs.now, collection=collection, failing=failing)


def _close_attempt(inputs: PlanInput, attempt: AttemptStatus, end: Success | Failure) -> PlanInput:
    if isinstance(end, Success):
        ended = _end_attempt(
            inputs,
            attempt,
            "Succeeded",
            peak_memory_bytes=end.peak_memory,
            **steps_of_success(inputs, attempt),
        )
        status = STAGES[stage_of(attempt)].accept_result(inputs.status, end.payload)
    else:
        status = inputs.status
        ended = _end_attempt(
            inputs,
            attempt,
            "Failed",
            failure=end.failure.value if end.failure else None,
            reason=end.reason,
            message=end.message,
            pod=end.pod,
            node=end.node,
            exit_code=end.exit_code,
            place=end.place,
            peak_memory_bytes=end.peak_memory,
            diverged_step=_diverged_step(inputs, end),
            **steps_of_failure(inputs, attempt),
        )
    return replace(_replace_attempt(replace(inputs, status=status), ended), progress_of_attempt=None)


def _diverged_step(inputs: PlanInput, end: Failure) -> int | None:
    """The step whose loss or gradient was not finite, as the pod that is the cause of the failure reports it.

    A tenant controls the pod, so the step is at most the total of the run.
    """
    chosen = inputs.status.chosen
    if not chosen or not end.step or not divergence.is_divergence(end.failure, end.reason):
        return None
    return min(end.step, chosen.total_steps)


def _replace_attempt(inputs: PlanInput, changed: AttemptStatus) -> PlanInput:
    """Replaces one attempt in the status."""
    attempts = [changed if a.job == changed.job else a for a in inputs.status.attempts]
    return replace(inputs, status=inputs.status.model_copy(update={"attempts": attempts}))


def _end_attempt(inputs: PlanInput, attempt: AttemptStatus, outcome: str, **cause: object) -> AttemptStatus:
    cause["in_place_restarts"] = restarts_in_place(inputs, attempt)
    if isinstance(reason := cause.get("reason"), str):
        cause["reason"] = reason[:REASON_LIMIT]
    if isinstance(message := cause.get("message"), str):
        cause["message"] = message[:MESSAGE_LIMIT]
    # After a clock was set back, an attempt still does not end before its start.
    end = max(inputs.now, attempt.start_time)
    active: int | None = None
    if attempt.running_since or attempt.active_seconds:
        job = find_job(inputs.observed, attempt.job)
        own = job if job and job["metadata"]["uid"] == attempt.job_uid else None
        active = int(active_seconds_of(attempt, end_of_run(own, inputs.now) if own else end))
    return attempt.model_copy(update={"outcome": outcome, "end_time": end, "active_seconds": active, **cause})
