"""Advances a job that no policy holds: watches the running attempt, or starts the next attempt. Pure."""

from finetune_operator.api import AttemptStatus
from finetune_operator.names import ANNOTATION_SPEC_DIGEST, LABEL_ATTEMPT, Reason, State
from finetune_operator.objects import Manifest, is_subset, label, pods_of
from finetune_operator.planning import early_end, gang_size, job_limits, name_conflict, pending, sick_nodes
from finetune_operator.planning.attempts import next_number
from finetune_operator.planning.lookup import find_job, readback_name, readback_number
from finetune_operator.planning.policies import deadline
from finetune_operator.planning.stages import (
    FIRST_STAGE,
    STAGES,
    NextAttempt,
    build_readback_job,
    stage_of,
    train_attempts,
)
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.rendering.cleanup_record import cleanup_record
from finetune_operator.rendering.network import network_policy, service
from finetune_operator.rendering.pods import Gang
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_trainer.contract import Stage

LOOK_AGAIN_SECONDS = 15
"""Seconds until the next reconcile of a Job that waits: the reason may change without an event."""


def complete(inputs: PlanInput) -> Decision:
    """Ends a job whose stages are all done."""
    results = [STAGES[stage].summarize(inputs.status) for stage in (Stage.TRAIN, Stage.PUBLISH)]
    return Decision(
        State.SUCCEEDED,
        Reason.COMPLETED,
        " ".join([*results, *_sentence_on_early_end(inputs)]),
    )


def start_next_attempt(inputs: PlanInput) -> Decision:
    """Starts the next attempt of the current stage, and creates the missing objects of the run."""
    stage, resolved = inputs.stage, inputs.resolution
    if stage is None or not isinstance(resolved, ResolvedRun):
        raise AssertionError("decide and the requirements policy exclude this state")
    attempt = _next_attempt(inputs, stage)
    what = f"{stage} attempt {attempt.number} begins"
    apply, record = _missing_objects(inputs, resolved, stage)
    build = STAGES[stage].build_job
    create = (*record, build(inputs.job, resolved, inputs.settings, inputs.status, attempt))
    if held := name_conflict.check(inputs, (*apply, *create)):
        return held
    return Decision(
        _state(stage, attempt.number, started=False),
        Reason.IN_PROGRESS,
        f"{what}{_without_steps(attempt.finish_cause)}.",
        apply=apply,
        create=create,
        requeue_after=LOOK_AGAIN_SECONDS,
    )


def watch_running_attempt(inputs: PlanInput) -> Decision:
    """Describes the running attempt, and restores objects of the run that somebody deleted or changed."""
    attempt = inputs.running
    if attempt is None or inputs.progress_of_attempt is None:
        raise AssertionError("record_attempts sets progress_of_attempt for a running attempt")
    stage, progress_of_attempt = stage_of(attempt), inputs.progress_of_attempt
    apply, create = (
        _missing_objects(inputs, inputs.resolution, stage)
        if isinstance(inputs.resolution, ResolvedRun)
        else ((), ())
    )
    name = attempt.job
    if progress_of_attempt.kind == "lost":
        name = readback_name(inputs, attempt)
        if find_job(inputs.observed, name) is None:
            return _read_back(inputs, apply, create)
    job = find_job(inputs.observed, name)
    state, left = STAGES[stage].state, deadline.remaining(inputs)
    timers = [left and left[0], job_limits.seconds_left(inputs)]
    again = [max(1.0, timer) for timer in timers if timer is not None]
    if progress_of_attempt.requeue_after:
        again.append(progress_of_attempt.requeue_after)
    if job and (
        waits := pending.find_reason(job, pods_of(inputs.observed.pods, job), inputs.observed.events)
    ):
        shown = State.WAITING if waits.problem else _state(stage, attempt.number, started=False)
        return Decision(
            shown, waits.reason, waits.message, apply, create, requeue_after=min([*again, LOOK_AGAIN_SECONDS])
        )
    drift = pending.find_drift(job) if job else None
    message = progress_of_attempt.message or (
        f"{stage} attempt {attempt.number} is running{_without_steps(attempt.finish_cause)}."
    )
    if progress_of_attempt.kind == "lost":
        message = _readback_message(attempt, progress_of_attempt.message)
    return Decision(
        state,
        Reason.DRIFTED if drift else Reason.IN_PROGRESS,
        drift or message,
        apply,
        create,
        all_run=progress_of_attempt.kind == "going",
        requeue_after=min(again, default=None),
    )


def _next_attempt(inputs: PlanInput, stage: Stage) -> NextAttempt:
    nodes = gang_size.next_nodes(inputs)
    gang = Gang(
        nodes=nodes,
        extra_rendezvous_seconds=gang_size.extra_seconds(inputs.job, nodes),
        avoided_nodes=sick_nodes.avoided(inputs),
    )
    finishes = stage is Stage.TRAIN and early_end.finishes(inputs)
    return NextAttempt(next_number(inputs, stage), gang, early_end.cause(inputs) if finishes else None)


def _without_steps(cause: str | None) -> str:
    """What to add about an attempt of Train that makes no steps."""
    return f" without further steps: {cause.rstrip('.')}" if cause else ""


def _sentence_on_early_end(inputs: PlanInput) -> list[str]:
    """A sentence about a training that ended before its last step."""
    tries, chosen = train_attempts(inputs.status.attempts), inputs.status.chosen
    if chosen is None or not tries or tries[-1].finish_cause is None:
        return []
    step = tries[-1].step or early_end.newest_checkpoint(inputs)
    if step is None or step >= chosen.total_steps:
        return []
    return [f"Training ended early at step {step} of {chosen.total_steps}. {tries[-1].finish_cause}"]


def _read_back(inputs: PlanInput, apply: tuple[Manifest, ...], create: tuple[Manifest, ...]) -> Decision:
    """Creates the readback Job of an attempt whose message was lost."""
    attempt, resolved = inputs.running, inputs.resolution
    if attempt is None or inputs.progress_of_attempt is None:
        raise AssertionError("record_attempts sets progress_of_attempt for a running attempt")
    if not isinstance(resolved, ResolvedRun):
        return Decision(State.WAITING, resolved.reason, resolved.message)
    create = (
        *create,
        build_readback_job(inputs.job, resolved, inputs.settings, readback_number(attempt), attempt),
    )
    return name_conflict.check(inputs, create) or Decision(
        STAGES[stage_of(attempt)].state,
        Reason.IN_PROGRESS,
        _readback_message(attempt, inputs.progress_of_attempt.message),
        apply,
        create,
        requeue_after=LOOK_AGAIN_SECONDS,
    )


def _readback_message(attempt: AttemptStatus, why: str) -> str:
    return f"{attempt.stage} attempt {attempt.number} succeeded, but {why}: its result is read back from S3."


def _missing_objects(
    inputs: PlanInput, resolved: ResolvedRun, stage: Stage
) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
    """The missing objects of a run besides its Jobs: the objects to apply, and the objects to create."""
    wanted = [network_policy(inputs.job, resolved.run, inputs.settings)]
    existing = [*inputs.observed.network_policies, *inputs.observed.services]
    if STAGE_PODS[stage].is_gang:
        wanted.append(service(inputs.job))
    apply = [w for w in wanted if not any(_has_same_name(w, t) and is_subset(w, t) for t in existing)]
    records = inputs.observed.cleanup_records
    made_for = [r["metadata"].get("annotations", {}).get(ANNOTATION_SPEC_DIGEST) for r in records]
    if resolved.spec_digest in made_for:
        return tuple(apply), ()
    number = 1 + max((int(label(r, LABEL_ATTEMPT) or 0) for r in records), default=0)
    return tuple(apply), (cleanup_record(inputs.job, resolved, number, inputs.observed.namespace_uid),)


def _has_same_name(one: Manifest, other: Manifest) -> bool:
    return bool(one["kind"] == other["kind"] and one["metadata"]["name"] == other["metadata"]["name"])


def _state(stage: Stage, number: int, *, started: bool) -> State:
    """The state of a stage; Pending until the first pod of the run has started."""
    return State.PENDING if stage is FIRST_STAGE and number == 1 and not started else STAGES[stage].state
