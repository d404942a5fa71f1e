"""What goes into a plan and what comes out of it: the types between reading, deciding and writing."""

from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_operator.api import FineTuneJobStatus
from finetune_operator.names import State
from finetune_trainer.contract import Progress

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


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
    """batch/v1 Jobs, the sweep Job among them."""
    pods: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    network_policies: tuple[Manifest, ...] = ()
    foreign: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of objects that have a name of ours but are not ours."""
    refused: str | None = None
    """What the API server said when it refused our last write for this job (RBAC, admission); else None."""
    events: tuple[Manifest, ...] = ()
    """core/v1 Events about pods that hang in waiting and Jobs that get no pods; see `waiting.ask_about`."""
    progress: Progress | None = None
    """Newest answer of the running stage's index 0."""
    base: BaseJob | None = None
    """The FineTuneJob that spec.model.fromJob names; None where there is none."""


@dataclass(frozen=True)
class Reference:
    """An object to delete, only if it still has this uid."""

    kind: Literal["Job", "FineTuneJob", "Pod"]
    name: str
    uid: str


@dataclass(frozen=True)
class Milestone:
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
    events: tuple[Milestone, ...] = ()
    again_in: float | None = None
    """Seconds until time alone asks for another turn; None: only an event does."""
    poll: bool = False
    """Whether index 0 of the running stage is worth asking for progress."""
    notes: tuple[str, ...] = field(default=())
    """For the log: what was decided and why, one line each."""
