"""What one turn decides from, what it decides, and how to look things up in it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from finetune_operator import names
from finetune_operator.api import AttemptStatus, ConditionStatus, FineTuneJob, FineTuneJobStatus
from finetune_operator.names import Condition, State
from finetune_operator.observed import Manifest, Observed, Reference
from finetune_operator.rendering import Asked
from finetune_operator.settings import Settings
from finetune_trainer.contract import Stage

STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH)
STUCK_AFTER = timedelta(seconds=120)
"""A pod that is still there so long after its grace period is given up: its node is lost."""


@dataclass(frozen=True)
class Unmet:
    """Why no attempt can be made from the job as it stands."""

    reason: str
    message: str
    passes: bool = False
    """Whether it may pass without a change of the job, which then waits instead of failing."""


@dataclass(frozen=True)
class Undecided:
    """The running attempt has no end yet.

    `collecting`: a pod failed, the others may still say more. `lost`: it succeeded, but its message is gone
    and has to be read back from S3.
    """

    kind: Literal["going", "collecting", "lost"]
    message: str = ""
    again_in: float | None = None


@dataclass(frozen=True)
class Turn:
    """Everything that one turn decides from; `status` is what is known so far."""

    job: FineTuneJob
    observed: Observed
    settings: Settings
    now: datetime
    status: FineTuneJobStatus
    ground: Asked | Unmet
    undecided: Undecided | None = None
    """How far the running attempt is; None where none is running."""

    @property
    def digest(self) -> str:
        """The spec digest that results have to have been made for."""
        if isinstance(self.ground, Asked):
            return self.ground.spec_digest
        return self.status.attempts[-1].spec_digest if self.status.attempts else ""

    @property
    def running(self) -> AttemptStatus | None:
        """The attempt that has not ended."""
        return next((a for a in reversed(self.status.attempts) if a.outcome == "Running"), None)

    @property
    def stage(self) -> Stage | None:
        """The first stage whose result is not there; None when all are."""
        return next((s for s in STAGES if not done(self.status, s, self.digest)), None)


@dataclass(frozen=True)
class Stop:
    """How the running attempt is to end."""

    outcome: Literal["Failed", "Suspended", "Superseded"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What a turn does about a job, and what to tell people about it."""

    state: State
    reason: str
    message: str
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    stop: Stop | None = None
    all_run: bool = False
    """Whether all pods of the running attempt run."""
    again_in: float | None = None


def stage_of(attempt: AttemptStatus) -> Stage:
    """The stage that an attempt tried."""
    return Stage(attempt.stage)


def trained(attempts: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The Train attempts that count: once there is one, the spec is settled."""
    return [a for a in attempts if stage_of(a) is Stage.TRAIN and a.outcome != "Superseded"]


def done(status: FineTuneJobStatus, stage: Stage, digest: str) -> bool:
    """Whether a stage's result is there, for this spec."""
    results = {
        Stage.PREPARE: status.data and status.chosen,
        Stage.TRAIN: status.training,
        Stage.PUBLISH: status.model and status.model.uri,
    }
    return bool(results[stage]) and any(
        a.outcome == "Succeeded" and stage_of(a) is stage and a.spec_digest == digest for a in status.attempts
    )


def jobs_of(job: FineTuneJob, observed: Observed, *stages: Stage) -> list[Manifest]:
    """The run's Jobs of these stages, oldest first: those whose name is what their labels make of it.

    Anything else that carries our labels is somebody's own affair.
    """

    def is_ours(manifest: Manifest) -> bool:
        stage, number = label(manifest, names.LABEL_STAGE), label(manifest, names.LABEL_ATTEMPT) or ""
        return (
            stage in stages
            and number.isdecimal()
            and manifest["metadata"]["name"]
            == names.child_name(job.metadata["name"], job.metadata["uid"], stage, int(number))
        )

    found = [j for j in observed.jobs if is_ours(j)]
    return sorted(found, key=lambda j: (j["metadata"].get("creationTimestamp", ""), j["metadata"]["name"]))


def is_over(turn: Turn, job: Manifest) -> bool:
    """Whether a Job neither has pods that run nor will make any.

    It makes none once each index had its pod: there is one try for an index. The Job controller says so
    itself a moment later.
    """
    pods = pods_of(turn.observed.pods, job)
    if live(pods, turn.now):
        return False
    ended = {index_of(pod) for pod in pods if has_ended(pod)}
    return (
        len(ended) >= job["spec"].get("completions", 1)
        or condition_true(job, "Complete", "Failed") is not None
    )


def report_name(turn: Turn, attempt: AttemptStatus) -> str:
    """Name of an attempt's report Job."""
    meta = turn.job.metadata
    return names.child_name(meta["name"], meta["uid"], Stage.REPORT, report_number(turn, attempt))


def report_number(turn: Turn, attempt: AttemptStatus) -> int:
    """The attempt's place in the list, from 1: attempts are never taken out, so it stays."""
    return [a.job for a in turn.status.attempts].index(attempt.job) + 1


def live_run_pods(turn: Turn) -> list[Manifest]:
    """The run's pods that still run or may run, of whatever Job; not the sweep's."""
    return live([p for p in turn.observed.pods if label(p, names.LABEL_ROLE) != "sweep"], turn.now)


def find_job(observed: Observed, name: str) -> Manifest | None:
    """A Job of the run by name."""
    return next((j for j in observed.jobs if j["metadata"]["name"] == name), None)


def pods_of(pods: Iterable[Manifest], job: Manifest) -> list[Manifest]:
    """The pods of a Job, by index; not those of a deleted Job of the same name."""
    uid = job["metadata"].get("uid")
    mine = [
        p
        for p in pods
        if all(label(p, key) == label(job, key) for key in (names.LABEL_STAGE, names.LABEL_ATTEMPT))
        and label(p, "batch.kubernetes.io/controller-uid") == uid
    ]
    return sorted(mine, key=lambda p: (index_of(p), p["metadata"]["name"]))


def index_of(pod: Manifest) -> int:
    """A pod's completion index."""
    value = label(pod, "batch.kubernetes.io/job-completion-index") or ""
    return int(value) if value.isdecimal() else 0


def has_started(pod: Manifest) -> bool:
    """Whether a pod runs or has run."""
    status = pod.get("status", {})
    states = [c.get("state", {}) for c in status.get("containerStatuses") or []]
    return status.get("phase") in ("Succeeded", "Failed") or any(
        "running" in s or "terminated" in s for s in states
    )


def live(pods: Iterable[Manifest], now: datetime) -> list[Manifest]:
    """The pods that still run or may run; without those whose node does not answer any more."""
    return [p for p in pods if not has_ended(p) and not is_stuck(p, now)]


def has_ended(pod: Manifest) -> bool:
    """Whether a pod has come to its end."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_stuck(pod: Manifest, now: datetime) -> bool:
    """Whether a pod should long have left: its node does not answer any more."""
    leaves = moment(pod["metadata"].get("deletionTimestamp"))
    return leaves is not None and not has_ended(pod) and now > leaves + STUCK_AFTER


def reference(job: Manifest) -> Reference:
    """A Job as something to delete."""
    return Reference("Job", job["metadata"]["name"], job["metadata"]["uid"])


def label(manifest: Manifest, key: str) -> str | None:
    """One label of an object."""
    value: str | None = manifest["metadata"].get("labels", {}).get(key)
    return value


def condition_true(manifest: Manifest, *types: str) -> Manifest | None:
    """The first condition of a Kubernetes object that is True and of one of these types."""
    conditions: list[Manifest] = manifest.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] in types and c["status"] == "True"), None)


def condition(status: FineTuneJobStatus | None, kind: Condition) -> ConditionStatus | None:
    """One condition of a FineTuneJob."""
    return next((c for c in status.conditions if c.type == kind), None) if status else None


def holds(status: FineTuneJobStatus | None, kind: Condition) -> bool:
    """Whether a condition of a FineTuneJob is True."""
    found = condition(status, kind)
    return found is not None and found.status == "True"


def moment(timestamp: Any) -> datetime | None:
    """A Kubernetes timestamp; None where there is none or it cannot be read."""
    try:
        return datetime.fromisoformat(timestamp) if timestamp else None
    except (TypeError, ValueError):
        return None


def distance(then: datetime, now: datetime) -> float:
    """Seconds between two moments, whichever comes first.

    For waits that must end: a clock that was set back by a day must not stall a job for a day.
    """
    return abs((now - then).total_seconds())


def since(then: datetime, now: datetime) -> float:
    """Seconds that have passed, 0 where the clock was set back: for ends that must not come early."""
    return max(0.0, (now - then).total_seconds())
