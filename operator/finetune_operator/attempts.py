"""What is known of every attempt: new Jobs taken up, ended ones closed with their cause or result. Pure."""

from dataclasses import replace

from finetune_operator import names
from finetune_operator.api import AttemptStatus
from finetune_operator.evidence import End, Failure, Success, end_of
from finetune_operator.messages import Expected
from finetune_operator.names import Reason
from finetune_operator.observed import Manifest
from finetune_operator.resources import config_of
from finetune_operator.results import accepted
from finetune_operator.turn import (
    STAGES,
    Stop,
    Turn,
    Undecided,
    find_job,
    jobs_of,
    moment,
    pods_of,
    report_name,
    stage_of,
)
from finetune_trainer.contract import Stage

REASON_LIMIT = 64
MESSAGE_LIMIT = 1024


def recorded(turn: Turn) -> Turn:
    """The turn with its status brought up to what is observed.

    An attempt begins with its Job being seen, so that no crash between creating it and writing the status can
    lose or repeat it. It ends once, and with its cause.
    """
    turn = _adopted(turn)
    for attempt in turn.status.attempts:
        if attempt.outcome == "Running":
            turn = _judged(turn, attempt)
    return turn


def stopped(turn: Turn, stop: Stop) -> Turn:
    """The turn with its running attempt ended by us."""
    ended = [
        _ended(turn, a, stop.outcome, reason=stop.reason, message=stop.message)
        if a.outcome == "Running"
        else a
        for a in turn.status.attempts
    ]
    return replace(turn, status=turn.status.model_copy(update={"attempts": ended}), undecided=None)


def next_number(turn: Turn, stage: Stage) -> int:
    """The number of a stage's next attempt. Numbers are never used twice."""
    return max((a.number for a in turn.status.attempts if stage_of(a) is stage), default=0) + 1


def _adopted(turn: Turn) -> Turn:
    known = {a.job for a in turn.status.attempts}
    new = [
        _begun(turn, job)
        for job in jobs_of(turn.job, turn.observed, *STAGES)
        if job["metadata"]["name"] not in known
    ]
    if not new:
        return turn
    status = turn.status.model_copy(update={"attempts": [*turn.status.attempts, *new], "progress": None})
    return replace(turn, status=status)


def _begun(turn: Turn, job: Manifest) -> AttemptStatus:
    meta, config = job["metadata"], config_of(job)
    annotations = meta.get("annotations", {})
    generation = annotations.get(names.ANNOTATION_GENERATION, "")
    chosen, attempt_chosen = turn.status.chosen, config.chosen if config else None
    halved = chosen and attempt_chosen and attempt_chosen.micro_batch_size != chosen.micro_batch_size
    return AttemptStatus(
        stage=Stage(meta["labels"][names.LABEL_STAGE]).value,
        number=int(meta["labels"][names.LABEL_ATTEMPT]),
        generation=int(generation) if generation.isdecimal() else 0,
        config_digest=annotations.get(names.ANNOTATION_CONFIG_DIGEST, "")[:71],
        spec_digest=annotations.get(names.ANNOTATION_SPEC_DIGEST, "")[:71],
        job=meta["name"],
        job_uid=meta["uid"],
        start_time=moment(meta.get("creationTimestamp")) or turn.now,
        outcome="Running",
        micro_batch_size=attempt_chosen.micro_batch_size if halved and attempt_chosen else None,
    )


def _judged(turn: Turn, attempt: AttemptStatus) -> Turn:
    """The turn with one running attempt ended, if it has."""
    job = find_job(turn.observed, attempt.job)
    if job is None or job["metadata"]["uid"] != attempt.job_uid or job["metadata"].get("deletionTimestamp"):
        told = f"Somebody deleted Job {attempt.job} while it was at work."
        return _closed(turn, attempt, Failure(Reason.JOB_DELETED, told))
    config = config_of(job)
    run = config.run if config and config.run.digest() == attempt.config_digest else None
    expected = Expected(Stage(attempt.stage), attempt.number, attempt.config_digest, run)
    end = _end(turn, job, expected)
    if isinstance(end, Undecided) and end.kind == "lost":
        end = _reported(turn, attempt, expected, end)
    if isinstance(end, Undecided):
        return replace(turn, undecided=end)
    return _closed(turn, attempt, end)


def _reported(
    turn: Turn, attempt: AttemptStatus, expected: Expected, lost: Undecided
) -> Success | Failure | Undecided:
    """What the report Job of an attempt says; the loss itself while there is no such Job."""
    job = find_job(turn.observed, report_name(turn, attempt))
    if job is None or job["metadata"].get("deletionTimestamp"):
        return lost
    end = _end(turn, job, replace(expected, report=True))
    match end:
        case Success():
            return end
        case Undecided(kind="going" | "collecting"):
            return replace(lost, again_in=end.again_in)
        case Failure():
            told = f"{lost.message}; reading the result back from S3 failed: {end.message}"
        case Undecided():
            told = f"{lost.message}; the result was read back from S3, but {end.message}"
    message = f"Job {attempt.job} succeeded, but {told}"
    return Failure(Reason.RESULT_UNREADABLE, message, failure=getattr(end, "failure", None))


def _end(turn: Turn, job: Manifest, expected: Expected) -> End:
    pods, collection = pods_of(turn.observed.pods, job), turn.settings.deadlines.collection
    return end_of(job, pods, expected, now=turn.now, collection=collection)


def _closed(turn: Turn, attempt: AttemptStatus, end: Success | Failure) -> Turn:
    if isinstance(end, Success):
        ended = _ended(turn, attempt, "Succeeded")
        status = accepted(turn.status, end.payload)
    else:
        status = turn.status
        ended = _ended(
            turn,
            attempt,
            "Failed",
            failure=end.failure.value if end.failure else None,
            reason=end.reason,
            message=end.message,
            pod=end.pod,
            node=end.node,
            exit_code=end.exit_code,
        )
    attempts = [ended if a.job == attempt.job else a for a in turn.status.attempts]
    return replace(turn, status=status.model_copy(update={"attempts": attempts}), undecided=None)


def _ended(turn: Turn, attempt: AttemptStatus, outcome: str, **cause: object) -> AttemptStatus:
    if isinstance(reason := cause.get("reason"), str):
        cause["reason"] = reason[:REASON_LIMIT]
    if isinstance(message := cause.get("message"), str):
        cause["message"] = message[:MESSAGE_LIMIT]
    # A clock that was set back must not let an attempt end before it began.
    end = max(turn.now, attempt.start_time)
    return attempt.model_copy(update={"outcome": outcome, "end_time": end, **cause})
