"""Reconciles a run: gathers the observed objects, plans, and carries out the plan.

A reconcile creates the missing objects. If none are missing, the reconcile writes the status and then
deletes. The status is written in a reconcile of its own, so that the first Jobs of other runs are created
before the status of this run is written.

If the process is killed at any point, the next reconcile comes to the same result: names are deterministic,
Jobs are created once, the status is durable before anything is deleted, and no decision depends on the memory
of this process.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_operator.api import FineTuneJob, FineTuneJobStatus
from finetune_operator.names import Reason
from finetune_operator.objects import Manifest, is_subset
from finetune_operator.planning import cloud_events, invalid_spec
from finetune_operator.planning.milestones import find_milestones
from finetune_operator.planning.plan import plan as decide
from finetune_operator.planning.types import DeliveryResult, Event, Plan
from finetune_operator.rendering.jobs import with_progress_key
from finetune_operator.runtime import gather, logs, metrics
from finetune_operator.runtime.api_client import (
    ApiError,
    ConflictError,
    ExistsError,
    MissingError,
    RefusedError,
)
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cleanup import Cleaner
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.runtime.gather import ReadState
from finetune_operator.runtime.notifier import Notifier
from finetune_operator.runtime.trainer_poller import Poller, first_pod
from finetune_operator.runtime.workqueue import RetryLaterError
from finetune_operator.settings import Settings
from finetune_trainer.contract import Progress
from finetune_trainer.contract.signatures import draw_key

MAX_CREATING_RECONCILES = 5
"""If so many reconciles in a row had to create or change objects, another program undoes the changes."""
CONFLICT_SECONDS = 0.2
"""Delay after a conflict. Another client wrote first, so the conflict is no failure of the run."""
CREATED_ONCE = {"Job", "ControllerRevision"}
"""Kinds that are never updated: their content is immutable, or other controllers own parts of it."""
EVENTS_PER_HOUR = 10
"""Most Kubernetes Events with the same reason that one run posts in an hour."""
log = logging.getLogger(__name__)


@dataclass
class RunMemory:
    """State of a run between two reconciles. A restart loses this state without harm."""

    read_state: ReadState
    undeletable: str | None = None
    """The message of the API server that refused a delete; None: no delete was refused."""
    creating: int = 0
    """Number of reconciles in a row that created or changed objects."""
    posted: list[tuple[str, float]] = field(default_factory=list)
    """Reasons of the Events of the last hour, with the time of each by time.monotonic()."""


@dataclass
class Reconciler:
    """Reconciles runs. The work queue never reconciles one run twice at the same time."""

    cache: Cache
    cluster: Cluster
    settings: Settings
    poller: Poller
    notifier: Notifier
    clock: Callable[[], datetime]
    """The API server's time; see ServerClock."""
    _memories: dict[str, RunMemory] = field(default_factory=dict)
    _namespaces: dict[str, tuple[float, str]] = field(default_factory=dict)
    _cleaner: Cleaner = field(init=False)

    def __post_init__(self) -> None:
        self._cleaner = Cleaner(self.cache, self.cluster, self.settings)

    async def reconcile(self, run: str) -> float | None:
        """Reconciles a run.

        Returns:
            Seconds until the next reconcile; None: only an event enqueues the run.

        Raises:
            RetryLaterError: the API server refused or could not answer a request.
        """
        raw = self.cache.job(run)
        meta = raw["metadata"] if raw else {}
        if raw is None or meta.get("deletionTimestamp"):
            self.poller.follow(run, None)
            self.notifier.forget(run)
            self._memories.pop(run, None)
        logs.about(
            namespace=meta.get("namespace"), job=meta.get("name"), run=run, attempt=_newest_attempt(raw)
        )
        try:
            if raw is None:
                return await self._cleaner.reconcile(run, self.clock())
            return None if meta.get("deletionTimestamp") else await self._reconcile_job(run, raw)
        except ConflictError as error:
            log.info("%s", error)
            return CONFLICT_SECONDS
        except ApiError as error:
            raise RetryLaterError(str(error), getattr(error, "seconds", 0.0)) from None

    async def _reconcile_job(self, run: str, raw: Manifest) -> float | None:
        """Reconciles a run whose FineTuneJob exists."""
        memory = self._memories.setdefault(run, RunMemory(ReadState(run, raw["metadata"]["namespace"])))
        now = self.clock().replace(microsecond=0)
        try:
            job = FineTuneJob.model_validate(raw)
        except ValidationError as error:
            self.poller.follow(run, None)
            await self._report_invalid(raw, memory, invalid_spec.status_of(raw, error, now), now)
            return None
        await gather.read_namespace(memory.read_state, self.cluster, self._namespaces)
        await gather.recheck_foreign(memory.read_state, self.cache, self.cluster)
        await gather.reread_pods(memory.read_state, self.cache, self.cluster)
        await gather.read_events(memory.read_state, self.cache, self.cluster, now)
        news = self.poller.news(run)
        ended = self.notifier.ended(run)
        plan, refusal = self._decide(memory, job, now, news, ended), memory.undeletable
        try:
            if await self._create_missing(plan, memory):
                return 0.0
        except RefusedError as error:
            refusal = str(error)
        shown = self._decide(memory, job, now, news, ended, refusal) if refusal else plan
        written = await self._write_status(raw, dumped(shown.status))
        self.poller.shown(run, news)
        self.notifier.recorded(run, ended)
        self.notifier.deliver(run, cloud_events.pending(job, shown.status))
        before, memory.undeletable = memory.undeletable, await self._delete_all(run, raw, plan)
        if written:
            metrics.count_milestones(find_milestones(job, job.status, shown.status))
            for note in shown.notes:
                log.info("%s", note)
            for event in shown.events:
                await self._post_event(raw, memory, event, now)
        pods, jobs = self.cache.children(run, "Pod"), self.cache.children(run, "Job")
        self.poller.follow(run, first_pod(pods, jobs) if plan.poll else None)
        if memory.undeletable != before:
            return 0.0
        if refusal:
            raise RetryLaterError(refusal)
        return min(
            (s for s in (plan.requeue_after, memory.read_state.requeue_after) if s is not None), default=None
        )

    async def _create_missing(self, plan: Plan, memory: RunMemory) -> bool:
        """Applies and creates the missing objects; returns whether there were any."""
        changed = await self._apply_and_create(plan, memory.read_state)
        memory.creating = memory.creating + 1 if changed else 0
        if memory.creating > MAX_CREATING_RECONCILES:
            memory.creating = 0
            raise RuntimeError(
                f"after {MAX_CREATING_RECONCILES} reconciles the plan still creates or changes {_names(plan)}"
            )
        return changed

    async def _apply_and_create(self, plan: Plan, read_state: ReadState) -> bool:
        changed = False
        for manifest in (*plan.apply, *plan.create):
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            if (kind, name) in read_state.foreign:
                continue
            known = self.cache.child(read_state.run, kind, name)
            if known is None:
                changed = True
                await self._create(manifest, read_state)
                if (kind, name) in read_state.foreign:
                    return True  # later objects depend on this one: no pods without their NetworkPolicy
            elif kind not in CREATED_ONCE and not is_subset(manifest, known):
                log.info("%s %s differs from the plan and is applied again", kind, name)
                try:
                    self.cache.put(await self.cluster.apply(manifest, known["metadata"]["uid"]))
                except ConflictError:
                    await self._refresh(known)
                changed = True
        return changed

    async def _create(self, manifest: Manifest, read_state: ReadState) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind == "Job":
            manifest = with_progress_key(manifest, draw_key())
        try:
            self.cache.put(await self.cluster.create(manifest))
            log.info("created %s %s", kind, name)
        except ExistsError:
            await gather.read_conflicting(read_state, self.cache, self.cluster, kind, name)
            if (kind, name) in read_state.foreign:
                log.warning("%s %s exists and does not belong to this run", kind, name)

    async def _delete_all(self, run: str, raw: Manifest, plan: Plan) -> str | None:
        """Deletes the objects of the plan; returns the API server's message if it refused a delete."""
        for reference in plan.delete:
            try:
                await self.cluster.delete(raw["metadata"]["namespace"], reference)
            except RefusedError as error:
                return str(error)
            log.info("deleted %s %s", reference.kind, reference.name)
            known = self.cache.child(run, reference.kind, reference.name)
            if known and known["metadata"]["uid"] == reference.uid:
                self.cache.remove(known)
        return None

    async def _write_status(self, raw: Manifest, status: dict[str, Any]) -> bool:
        """Writes the status if the status changed; returns whether.

        Raises:
            ConflictError: the FineTuneJob changed since it was read; the cache has the new version.
        """
        if status == (raw.get("status") or {}):
            return False
        try:
            self.cache.put(await self.cluster.write_status(raw, status))
        except ConflictError:
            await self._refresh(raw)
            raise
        return True

    async def _report_invalid(
        self, raw: Manifest, memory: RunMemory, status: dict[str, Any], now: datetime
    ) -> None:
        """Writes a status that explains why the spec is invalid.

        The API server refuses the write if the stored spec violates the schema; then an Event explains.
        """
        try:
            await self._write_status(raw, status)
        except RefusedError as error:
            log.warning("%s", error)
            event = Event("Warning", Reason.SPEC_INVALID.value, status["message"])
            await self._post_event(raw, memory, event, now)

    async def _post_event(self, raw: Manifest, memory: RunMemory, event: Event, now: datetime) -> None:
        """Posts an Event. A failure to post is logged and does not fail the reconcile."""
        since = time.monotonic() - 3600
        memory.posted = [(reason, at) for reason, at in memory.posted if at > since]
        if sum(reason == event.reason for reason, _ in memory.posted) >= EVENTS_PER_HOUR:
            return
        memory.posted.append((event.reason, time.monotonic()))
        try:
            await self.cluster.post_event(raw, event, now)
        except ApiError as error:
            log.warning("no Event posted: %s", error)

    async def _refresh(self, raw: Manifest) -> None:
        meta = raw["metadata"]
        try:
            self.cache.put(await self.cluster.get(raw["kind"], meta["namespace"], meta["name"]))
        except MissingError:
            self.cache.remove(raw)

    def _decide(
        self,
        memory: RunMemory,
        job: FineTuneJob,
        now: datetime,
        news: Progress | None,
        ended: tuple[DeliveryResult, ...],
        refused: str | None = None,
    ) -> Plan:
        seen = gather.observed(memory.read_state, self.cache, news, ended, refused)
        return decide(job, seen, self.settings, now)


def _newest_attempt(raw: Manifest | None) -> str | None:
    """Stage and number of the newest attempt, for the log. The object may be invalid."""
    status = (raw or {}).get("status")
    attempts = status.get("attempts") if isinstance(status, dict) else None
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    return f"{last.get('stage')} {last.get('number')}" if isinstance(last, dict) else None


def dumped(status: FineTuneJobStatus) -> dict[str, Any]:
    """The JSON of a status as the API server stores it."""
    document: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return document


def _names(plan: Plan) -> str:
    return ", ".join(manifest["metadata"]["name"] for manifest in (*plan.apply, *plan.create))
