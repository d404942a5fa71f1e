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
    """The facts about a base job that its dependent jobs need."""

    uid: str
    state: State
    end: Literal["Succeeded", "Failed"] | None = None
    """How the job ended; None where the job has not ended, or was changed after its end and may succeed."""
    uri: str | None = None
    """Folder of the published model."""
    manifest: str | None = None
    """SHA-256 of the manifest.json in that folder."""


@dataclass(frozen=True)
class DeliveryResult:
    """How the delivery of one notification ended."""

    id: str
    target: str
    failure: str | None = None
    """Why the notification was not delivered; None: the target has the notification."""


@dataclass(frozen=True)
class NodeFailure:
    """The end of an attempt by a cause that points to a node."""

    node: str
    """Name of the node."""
    run: str
    """Uid of the FineTuneJob."""
    namespace: str
    """Namespace of the FineTuneJob."""
    time: datetime
    """Time of the end of the attempt."""


@dataclass(frozen=True)
class Observed:
    """The observed state of one FineTuneJob: its children, matched by the uid label, and its base job."""

    jobs: tuple[Manifest, ...] = ()
    """batch/v1 Jobs."""
    pods: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    network_policies: tuple[Manifest, ...] = ()
    cleanup_records: tuple[Manifest, ...] = ()
    """apps/v1 ControllerRevisions; see rendering.cleanup_record."""
    namespace_uid: str = ""
    """Uid of the namespace of the FineTuneJob."""
    foreign: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of objects that have a name of the run and do not belong to the run."""
    refused: str | None = None
    """The error of the API server, if it refused the last write for this job (RBAC, admission)."""
    events: tuple[Manifest, ...] = ()
    """core/v1 Events about pods that do not start and Jobs that get no pods; see `pending.ask_about`."""
    progress: Progress | None = None
    """Newest progress of the pod with index 0 of the running attempt."""
    base: BaseJob | None = None
    """The FineTuneJob that spec.model.fromJob names; None where no such job exists."""
    node_failures: tuple[NodeFailure, ...] = ()
    """Failures of all FineTuneJobs that point to a node."""
    deliveries: tuple[DeliveryResult, ...] = ()
    """Deliveries of notifications that have ended and that the status shows as Pending."""


@dataclass(frozen=True)
class Reference:
    """An object to delete, if the object still has this uid."""

    kind: Literal["Job", "FineTuneJob", "Pod", "Service", "NetworkPolicy", "ControllerRevision"]
    name: str
    uid: str


@dataclass(frozen=True)
class Blocked:
    """Why no attempt can be built from the current spec."""

    reason: str
    message: str
    passes: bool = False
    """Whether the reason may pass without a change of the job. The job then waits and does not fail."""


@dataclass(frozen=True)
class InProgress:
    """The running attempt has not ended.

    `going`: no pod has failed. `collecting`: a pod failed, and the other pods may still report their causes.
    `lost`: the attempt succeeded, but its message is lost, so a Job reads the result back from S3.
    """

    kind: Literal["going", "collecting", "lost"]
    message: str = ""
    requeue_after: float | None = None
    failing: bool = False
    """Whether the operator has observed a failed pod."""
    pod: str | None = None
    """The pod that failed first, by the state observed so far."""


@dataclass(frozen=True)
class PlanInput:
    """The input of one reconcile. `status` is the stored status with the changes of this reconcile."""

    job: FineTuneJob
    observed: Observed
    settings: Settings
    now: datetime
    status: FineTuneJobStatus
    resolution: ResolvedRun | Blocked
    progress_of_attempt: InProgress | None = None
    """How far the running attempt is; None where no attempt is running."""

    @property
    def digest(self) -> str:
        """The spec digest that results must have to count for the current spec."""
        if isinstance(self.resolution, ResolvedRun):
            return self.resolution.spec_digest
        return self.status.attempts[-1].spec_digest if self.status.attempts else ""

    @property
    def running(self) -> AttemptStatus | None:
        """The attempt that has not ended; None where all have ended."""
        return next((a for a in reversed(self.status.attempts) if a.outcome == "Running"), None)

    @property
    def stage(self) -> Stage | None:
        """The first stage that is not done; None where all stages are done."""
        return next((s for s in STAGES if not is_done(self.status, s, self.digest)), None)


@dataclass(frozen=True)
class Stop:
    """The outcome with which to end the running attempt."""

    outcome: Literal["Failed", "Suspended", "Superseded", "Resized"]
    reason: str
    message: str
    available_nodes: int | None = None
    """Resized: number of pods of the attempt that had a node."""


@dataclass(frozen=True)
class Decision:
    """The decision of one reconcile: the objects to write, and the state, reason and message to show."""

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
    """The writes of one reconcile, in this order: apply, create, update the status, delete, post Events.

    The status is durable before an object is deleted, so the cause of a failed attempt is never lost.
    """

    status: FineTuneJobStatus
    apply: tuple[Manifest, ...] = ()
    """Objects for server-side apply: Service, NetworkPolicy."""
    create: tuple[Manifest, ...] = ()
    """Objects that are created once and never changed: Jobs, cleanup records."""
    delete: tuple[Reference, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until the next reconcile; None where only an event enqueues the job."""
    poll: bool = False
    """Whether to poll the pod with index 0 of the running attempt for progress."""
    notes: tuple[str, ...] = field(default=())
    """Lines for the log: the decision and its reason."""
