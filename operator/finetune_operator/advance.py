"""How a job goes on when no policy objects: watch the running attempt, or begin the next. Pure."""

from finetune_operator import waiting
from finetune_operator.api import AttemptStatus
from finetune_operator.attempts import next_number
from finetune_operator.drift import covers
from finetune_operator.names import ANNOTATION_CONFIG_DIGEST as DIGEST
from finetune_operator.names import Reason, State
from finetune_operator.observed import Manifest
from finetune_operator.policies import conflict, deadline
from finetune_operator.resources import network_policy, service, sweep_job
from finetune_operator.results import told
from finetune_operator.stages import prepare, publish, report, train
from finetune_operator.turn import Decision, Ground, Turn, find_job, jobs_of, pods_of, report_name, stage_of
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
    stage, ground = turn.stage, turn.ground
    if stage is None or not isinstance(ground, Ground):
        raise AssertionError("the requirements and the end are looked at before")
    number = next_number(turn, stage)
    apply, sweep = _upkeep(turn, ground, stage)
    create = (*sweep, JOBS[stage](turn, ground, number))
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
    apply, create = _upkeep(turn, turn.ground, stage) if isinstance(turn.ground, Ground) else ((), ())
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
    attempt, ground = turn.running, turn.ground
    if attempt is None or turn.undecided is None:
        raise AssertionError("an attempt whose message was lost has been looked at")
    if not isinstance(ground, Ground):
        return Decision(State.WAITING, ground.reason, ground.message)
    create = (*create, report.job(turn, ground, attempt))
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


def _upkeep(turn: Turn, ground: Ground, stage: Stage) -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
    """What a run needs besides its attempt, as far as it is not there: to apply, and to create."""
    wanted = [network_policy(turn.job, ground.run, turn.settings)]
    there = [*turn.observed.network_policies, *turn.observed.services]
    if stage is Stage.TRAIN:
        wanted.append(service(turn.job))
    apply = [w for w in wanted if not any(_is_same(w, t) and covers(w, t) for t in there)]
    sweeps = jobs_of(turn.job, turn.observed, Stage.SWEEP)
    digests = [s["metadata"].get("annotations", {}).get(DIGEST) for s in sweeps]
    if ground.run.digest() in digests:
        return tuple(apply), ()
    made = sweep_job(turn.job, ground.run, turn.settings, ground.profile, len(sweeps) + 1)
    return tuple(apply), (made,)


def _is_same(one: Manifest, other: Manifest) -> bool:
    return bool(one["kind"] == other["kind"] and one["metadata"]["name"] == other["metadata"]["name"])


def _state(stage: Stage, number: int, *, started: bool) -> State:
    """Pending until the first pod of all has run."""
    return State.PENDING if stage is Stage.PREPARE and number == 1 and not started else STATES[stage]
