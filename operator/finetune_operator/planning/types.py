"""The data types of planning: observed state, decisions, and the plan for the reconciler. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from finetune_operator.api import AttemptStatus, FineTuneJob, FineTuneJobStatus
from finetune_operator.names import State
from finetune_operator.objects import Manifest
from finetune_operator.planning.stages import STAGES, is_done
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Settings
from finetune_trainer.contract import Progress, Stage


@dataclass(frozen=True)
class BaseJob:
    """What a FineTuneJob shows to those that take their model from it."""

    uid: str
    state: State
    end: Literal["Succeeded", "Failed"] | None = None
    """How it ended; None: it has not, or was changed since and may yet succeed."""
    uri: str | None = None
    """Folder of its published model."""
    manifest: str | None = None
    """SHA-256 of the manifest.json in that folder."""


@dataclass(frozen=True)
class Observed:
    """What was seen of one FineTuneJob: its children, all matched by the job's uid label, and its base."""

    jobs: tuple[Manifest, ...] = ()
    """batch/v1 Jobs."""
    pods: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    network_policies: tuple[Manifest, ...] = ()
    cleanup_records: tuple[Manifest, ...] = ()
    """apps/v1 ControllerRevisions; see rendering.cleanup_record."""
    namespace_uid: str = ""
    """Uid of the namespace that the FineTuneJob is in."""
    foreign: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of objects that have a name of ours but are not ours."""
    refused: str | None = None
    """What the API server said when it refused our last write for this job (RBAC, admission); else None."""
    events: tuple[Manifest, ...] = ()
    """core/v1 Events about pods that hang in waiting and Jobs that get no pods; see `pending.ask_about`."""
    progress: Progress | None = None
    """Newest answer of the running stage's index 0."""
    base: BaseJob | None = None
    """The FineTuneJob that spec.model.fromJob names; None where there is none."""


@dataclass(frozen=True)
class Reference:
    """An object to delete, only if it still has this uid."""

    kind: Literal["Job", "FineTuneJob", "Pod", "Service", "NetworkPolicy", "ControllerRevision"]
    name: str
    uid: str


@dataclass(frozen=True)
class Blocked:
    """Why no attempt can be made from the job as it stands."""

    reason: str
    message: str
    passes: bool = False
    """Whether it may pass without a change of the job, which then waits instead of failing."""


@dataclass(frozen=True)
class InProgress:
    """The running attempt has no end yet.

    `collecting`: a pod failed, the others may still say more. `lost`: it succeeded, but its message is gone
    and has to be read back from S3.
    """

    kind: Literal["going", "collecting", "lost"]
    message: str = ""
    requeue_after: float | None = None
    failing: bool = False
    """Whether a pod was seen to have failed."""
    pod: str | None = None
    """The pod that failed first, as far as is known."""


@dataclass(frozen=True)
class PlanInput:
    """Everything that one turn decides from; `status` is what is known so far."""

    job: FineTuneJob
    observed: Observed
    settings: Settings
    now: datetime
    status: FineTuneJobStatus
    resolution: ResolvedRun | Blocked
    progress_of_attempt: InProgress | None = None
    """How far the running attempt is; None where none is running."""

    @property
    def digest(self) -> str:
        """The spec digest that results have to have been made for."""
        if isinstance(self.resolution, ResolvedRun):
            return self.resolution.spec_digest
        return self.status.attempts[-1].spec_digest if self.status.attempts else ""

    @property
    def running(self) -> AttemptStatus | None:
        """The attempt that has not ended."""
        return next((a for a in reversed(self.status.attempts) if a.outcome == "Running"), None)

    @property
    def stage(self) -> Stage | None:
        """The first stage whose result is not there; None when all are."""
        return next((s for s in STAGES if not is_done(self.status, s, self.digest)), None)


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
    requeue_after: float | None = None


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event to post about the FineTuneJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What one turn does, in this order: apply, create, write status if changed, delete, post events.

    Status is durable before anything is deleted: what an attempt died of is never lost.
    """

    status: FineTuneJobStatus
    apply: tuple[Manifest, ...] = ()
    """Server-side applied: Service, NetworkPolicy."""
    create: tuple[Manifest, ...] = ()
    """Created once and never changed: Jobs."""
    delete: tuple[Reference, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until time alone asks for another turn; None: only an event does."""
    poll: bool = False
    """Whether index 0 of the running stage is worth asking for progress."""
    notes: tuple[str, ...] = field(default=())
    """For the log: what was decided and why, one line each."""
