"""How a job goes on when no policy objects: watch the running attempt, or begin the next. Pure."""

from finetune_operator import waiting
from finetune_operator.api import AttemptStatus
from finetune_operator.attempts import next_number
from finetune_operator.drift import covers
from finetune_operator.names import ANNOTATION_SPEC_DIGEST, LABEL_ATTEMPT, Reason, State
from finetune_operator.observed import Manifest
from finetune_operator.policies import conflict, deadline
from finetune_operator.rendering import Asked
from finetune_operator.resources import network_policy, service, sweep_job
from finetune_operator.results import told
from finetune_operator.stages import prepare, publish, report, train
from finetune_operator.turn import Decision, Turn, find_job, jobs_of, label, pods_of, report_name, stage_of
from finetune_trainer.contract import Stage

STATES = {Stage.PREPARE: State.PREPARING, Stage.TRAIN: State.TRAINING, Stage.PUBLISH: State.PUBLISHING}
JOBS = {Stage.PREPARE: prepare.job, Stage.TRAIN: train.job, Stage.PUBLISH: publish.job}
LOOK_AGAIN_SECONDS = 15
"""What pods wait for may change without a word; so it is looked at again."""


def completed(turn: Turn) -> Decision:
    """All stages are done."""
    return Decision(
        State.SUCCEEDED,
        Reason.COMPLETED,
        f"{told(turn.status, Stage.TRAIN)} {told(turn.status, Stage.PUBLISH)}",
    )


def begun(turn: Turn) -> Decision:
    """The next attempt of the current stage, with what it needs."""
    stage, asked = turn.stage, turn.ground
    if stage is None or not isinstance(asked, Asked):
        raise AssertionError("the requirements and the end are looked at before")
    number = next_number(turn, stage)
    apply, sweep = _upkeep(turn, asked, stage)
    create = (*sweep, JOBS[stage](turn, asked, number))
    if held := conflict.check(turn, (*apply, *create)):
        return held
    return Decision(
        _state(stage, number, started=False),
        Reason.IN_PROGRESS,
        f"{stage} attempt {number} begins.",
        apply=apply,
        create=create,
        again_in=LOOK_AGAIN_SECONDS,
    )


def watched(turn: Turn) -> Decision:
    """What the running attempt does; what it needs is put back where somebody took it away."""
    attempt = turn.running
    if attempt is None or turn.undecided is None:
        raise AssertionError("an attempt that runs has been looked at")
    stage, undecided = stage_of(attempt), turn.undecided
    apply, create = _upkeep(turn, turn.ground, stage) if isinstance(turn.ground, Asked) else ((), ())
    name = attempt.job
    if undecided.kind == "lost":
        name = report_name(turn, attempt)
        if find_job(turn.observed, name) is None:
            return _read_back(turn, apply, create)
    job = find_job(turn.observed, name)
    state, left = STATES[stage], deadline.remaining(turn)
    again = [s for s in (undecided.again_in, left and max(1.0, left[0])) if s]
    if job and (waits := waiting.on(job, pods_of(turn.observed.pods, job), turn.observed.events)):
        shown = State.WAITING if waits.problem else _state(stage, attempt.number, started=False)
        return Decision(
            shown, waits.reason, waits.message, apply, create, again_in=min([*again, LOOK_AGAIN_SECONDS])
        )
    drift = waiting.drifted(job) if job else None
    going = undecided.message or f"{stage} attempt {attempt.number} is running."
    if undecided.kind == "lost":
        going = _lost(attempt, undecided.message)
    return Decision(
        state,
        Reason.DRIFTED if drift else Reason.IN_PROGRESS,
        drift or going,
        apply,
        create,
        all_run=undecided.kind == "going",
        again_in=min(again, default=None),
    )


def _read_back(turn: Turn, apply: tuple[Manifest, ...], create: tuple[Manifest, ...]) -> Decision:
    """The report Job of an attempt whose message was lost."""
    attempt, asked = turn.running, turn.ground
    if attempt is None or turn.undecided is None:
        raise AssertionError("an attempt whose message was lost has been looked at")
    if not isinstance(asked, Asked):
        return Decision(State.WAITING, asked.reason, asked.message)
    create = (*create, report.job(turn, asked, attempt))
    return conflict.check(turn, create) or Decision(
        STATES[stage_of(attempt)],
        Reason.IN_PROGRESS,
        _lost(attempt, turn.undecided.message),
        apply,
        create,
        again_in=LOOK_AGAIN_SECONDS,
    )


def _lost(attempt: AttemptStatus, why: str) -> str:
    return f"{attempt.stage} attempt {attempt.number} succeeded, but {why}: its result is read back from S3."


def _upkeep(turn: Turn, asked: Asked, stage: Stage) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
    """What a run needs besides its attempt, as far as it is not there: to apply, and to create."""
    wanted = [network_policy(turn.job, asked.run, turn.settings)]
    there = [*turn.observed.network_policies, *turn.observed.services]
    if stage is Stage.TRAIN:
        wanted.append(service(turn.job))
    apply = [w for w in wanted if not any(_is_same(w, t) and covers(w, t) for t in there)]
    sweeps = jobs_of(turn.job, turn.observed, Stage.SWEEP)
    made_for = [s["metadata"].get("annotations", {}).get(ANNOTATION_SPEC_DIGEST) for s in sweeps]
    if asked.spec_digest in made_for:
        return tuple(apply), ()
    number = 1 + max((int(label(s, LABEL_ATTEMPT) or 0) for s in sweeps), default=0)
    return tuple(apply), (sweep_job(turn.job, asked, turn.settings, number),)


def _is_same(one: Manifest, other: Manifest) -> bool:
    return bool(one["kind"] == other["kind"] and one["metadata"]["name"] == other["metadata"]["name"])


def _state(stage: Stage, number: int, *, started: bool) -> State:
    """Pending until the first pod of all has run."""
    return State.PENDING if stage is Stage.PREPARE and number == 1 and not started else STATES[stage]
