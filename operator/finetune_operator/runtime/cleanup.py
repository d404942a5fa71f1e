"""Cleans up after deleted FineTuneJobs: one cleanup Job for each cleanup record deletes the data in S3.

A cleanup cannot be undone. So the cleanup Job is created only after requests to the API server have confirmed
that the FineTuneJob, its Jobs and its pods are gone. The cache may lag behind: it may lack a FineTuneJob that
was just created, or the pods of a FineTuneJob that was just deleted.
"""

import logging
from dataclasses import dataclass, field
from datetime import datetime

from finetune_operator.names import KIND, LABEL_ROLE, LABEL_UID, ROLE_CLEANUP
from finetune_operator.objects import Manifest, label
from finetune_operator.planning.cleanup import CleanupStep, next_step
from finetune_operator.planning.types import Event, Reference
from finetune_operator.rendering.cleanup_record import CleanupRecord, read_record
from finetune_operator.rendering.jobs import cleanup_job
from finetune_operator.rendering.network import cleanup_network_policy
from finetune_operator.runtime import metrics
from finetune_operator.runtime.api_client import ApiError, ExistsError, MissingError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.runtime.gather import ReadState, read_events
from finetune_operator.settings import Settings

REQUEUE_SECONDS = 15.0
log = logging.getLogger(__name__)


@dataclass
class Cleaner:
    """Carries out the cleanup of deleted runs."""

    cache: Cache
    cluster: Cluster
    settings: Settings
    _read_states: dict[str, ReadState] = field(default_factory=dict)
    _messages: dict[str, str] = field(default_factory=dict)
    """The newest message about each record, by the uid of its ControllerRevision."""

    async def reconcile(self, run: str, now: datetime) -> float | None:
        """Cleans up after a run whose FineTuneJob is gone; returns the seconds until the next reconcile."""
        requeue_after = None
        for manifest in self.cache.children(run, "ControllerRevision"):
            try:
                record = read_record(manifest)
            except ValueError as error:
                self._log_once(manifest, logging.WARNING, str(error))
                continue
            step = await self._decide(run, record, now)
            if step.kind == "start" and not await self._may_start(run, record, manifest):
                continue  # a watch or the next resync enqueues the run
            await self._carry_out(step, record, manifest, now)
            if step.kind in {"wait", "start", "running"}:
                requeue_after = REQUEUE_SECONDS
        if not self.cache.children(run, "ControllerRevision"):
            self._read_states.pop(run, None)
        return requeue_after

    async def _decide(self, run: str, record: CleanupRecord, now: datetime) -> CleanupStep:
        jobs, pods = self.cache.children(run, "Job"), self.cache.children(run, "Pod")
        read_state = self._read_states.setdefault(run, ReadState(run, record.job.metadata["namespace"]))
        await read_events(read_state, self.cache, self.cluster, now)
        return next_step(
            record,
            next((job for job in jobs if is_cleanup(job) and job["metadata"]["name"] == record.name), None),
            pods,
            tuple(event for events in read_state.events.values() for event in events),
            settings=self.settings,
            run_left=not all(is_cleanup(child) for child in (*jobs, *pods)),
            now=now,
        )

    async def _carry_out(
        self, step: CleanupStep, record: CleanupRecord, manifest: Manifest, now: datetime
    ) -> None:
        level = logging.INFO if step.event and step.event.type == "Normal" else logging.WARNING
        if step.event and self._log_once(manifest, level, step.event.message):
            await self._post_event(record, step.event, now)
            if step.kind in {"completed", "failed"}:
                metrics.CLEANUPS.labels(result=step.kind).inc()
        match step.kind:
            case "start":
                await self._start(record, manifest)
            case "completed":
                # The record last: if the operator ends in between, the cleanup is repeated.
                meta = manifest["metadata"]
                job = self.cache.child(meta["labels"][LABEL_UID], "Job", record.name)
                if job and step.delete_job:
                    await self.cluster.delete(
                        meta["namespace"], Reference("Job", record.name, job["metadata"]["uid"])
                    )
                await self.cluster.delete(
                    meta["namespace"], Reference("ControllerRevision", meta["name"], meta["uid"])
                )
                self.cache.remove(manifest)
                self._messages.pop(meta["uid"], None)
                metrics.cleanup_failed(record.job.metadata["namespace"], record.prefix, failed=False)
            case "failed":
                metrics.cleanup_failed(record.job.metadata["namespace"], record.prefix, failed=True)
            case "wait" | "running":
                pass

    async def _start(self, record: CleanupRecord, manifest: Manifest) -> None:
        self._messages.pop(manifest["metadata"]["uid"], None)
        for child in (
            cleanup_network_policy(record, manifest, self.settings),
            cleanup_job(record, self.settings),
        ):
            kind, name, namespace = child["kind"], record.name, record.job.metadata["namespace"]
            try:
                self.cache.put(await self.cluster.create(child))
            except ExistsError:
                there = await self.cluster.get(kind, namespace, name)
                if label(there, LABEL_UID) != label(child, LABEL_UID):
                    message = (
                        f"The cleanup of {record.prefix} waits for the name {name}: there is a {kind}"
                        f" {namespace}/{name} that is not of this run. Delete or rename that {kind}."
                    )
                    self._log_once(manifest, logging.WARNING, message)
                    return
                self.cache.put(there)
        log.info("started the cleanup of %s: its FineTuneJob is gone", record.prefix)

    async def _may_start(self, run: str, record: CleanupRecord, manifest: Manifest) -> bool:
        """Whether the API server confirms that the run is gone and that its namespace is the recorded one."""
        meta = record.job.metadata
        if await self._job_exists(run, record) or await self._has_children(run, record):
            return False
        try:
            namespace_uid = await self.cluster.namespace_uid(meta["namespace"])
        except MissingError:
            return False
        if namespace_uid != record.namespace_uid:
            message = (
                f"{record.prefix} is not deleted: ControllerRevision {meta['namespace']}/{record.name} was"
                " created in another namespace of this name, or in another cluster, where the run may be"
                " alive. Delete the ControllerRevision if it came with a restored backup."
            )
            self._log_once(manifest, logging.WARNING, message)
            return False
        return True

    async def _job_exists(self, run: str, record: CleanupRecord) -> bool:
        meta = record.job.metadata
        try:
            job = await self.cluster.get(KIND, meta["namespace"], meta["name"])
        except MissingError:
            return False
        return bool(job["metadata"]["uid"] == run)

    async def _has_children(self, run: str, record: CleanupRecord) -> bool:
        """Whether the run has Jobs or pods. Jobs are read first: without a Job, no new pod is created."""
        for kind in ("Job", "Pod"):
            found, _ = await self.cluster.list(kind, record.job.metadata["namespace"], f"{LABEL_UID}={run}")
            if left := [child for child in found if not is_cleanup(child)]:
                for child in left:
                    self.cache.put(child)
                return True
        return False

    async def _post_event(self, record: CleanupRecord, event: Event, now: datetime) -> None:
        """Posts an Event about the deleted FineTuneJob; `kubectl get events` shows the Event."""
        try:
            await self.cluster.post_event({"metadata": record.job.metadata}, event, now)
        except ApiError as error:
            log.warning("no Event posted: %s", error)

    def _log_once(self, manifest: Manifest, level: int, message: str) -> bool:
        """Logs a message about a record unless it was the last message; returns whether it was logged."""
        uid = manifest["metadata"]["uid"]
        if self._messages.get(uid) == message:
            return False
        self._messages[uid] = message
        log.log(level, "%s", message)
        return True


def is_cleanup(child: Manifest) -> bool:
    """Whether a Job or pod belongs to the cleanup, not to the run."""
    return label(child, LABEL_ROLE) == ROLE_CLEANUP
