"""Gathers the observed objects of a reconcile: from the cache, and by requests for what the cache lacks.

Foreign objects and Events are not watched. The watch of pods may lag behind the watch of Jobs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from finetune_operator.names import LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning import pending
from finetune_operator.planning.types import DeliveryResult, Observed
from finetune_operator.runtime.api_client import MissingError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster
from finetune_trainer.contract import Progress

NAMESPACE_SECONDS = 5.0
"""The uid of a namespace is read again after this long."""
REREAD_SECONDS = 15.0
"""Interval between two reads of an object that is not watched."""


@dataclass
class ReadState:
    """Facts about one run that are not in the cache. After a restart they are read again."""

    run: str
    namespace: str
    namespace_uid: str = ""
    foreign: set[tuple[str, str]] = field(default_factory=set)
    """Kind and name of each foreign object: its name is a name of this run, its labels are not."""
    events: dict[str, tuple[Manifest, ...]] = field(default_factory=dict)
    """Events about hanging Jobs and pods, by the uid of the object; at most one object for each Job."""
    events_read_at: float = 0.0
    """Time of the last read of Events, by time.monotonic()."""
    reread: set[str] = field(default_factory=set)
    """Uids of ended Jobs whose pods were read again."""

    @property
    def requeue_after(self) -> float | None:
        """Seconds until objects that are not watched are read again; None: there are none."""
        return REREAD_SECONDS if self.foreign or self.events else None


def observed(
    read_state: ReadState,
    cache: Cache,
    progress: Progress | None,
    deliveries: tuple[DeliveryResult, ...],
    refused: str | None,
) -> Observed:
    """The observed objects that a plan is computed from.

    Args:
        read_state: the facts about the run that are not in the cache.
        cache: the objects that the watches reported.
        progress: the newest progress of the running stage; None: no progress to show.
        deliveries: the ended deliveries of notifications that the status does not show.
        refused: the API server's message when it refused a write for this run.
    """
    return Observed(
        jobs=cache.children(read_state.run, "Job"),
        pods=cache.children(read_state.run, "Pod"),
        services=cache.children(read_state.run, "Service"),
        network_policies=cache.children(read_state.run, "NetworkPolicy"),
        cleanup_records=cache.children(read_state.run, "ControllerRevision"),
        namespace_uid=read_state.namespace_uid,
        foreign=frozenset(read_state.foreign),
        refused=cache.unreadable(read_state.namespace) or refused,
        events=tuple(event for events in read_state.events.values() for event in events),
        progress=progress,
        base=cache.model_dependencies.of(read_state.run),
        node_failures=cache.node_failures.all(),
        deliveries=deliveries,
    )


async def reread_pods(read_state: ReadState, cache: Cache, cluster: Cluster) -> None:
    """Reads the pods of each Job that has ended while the cache still has running pods of the Job.

    Otherwise the plan would treat a result as lost that the watch of pods has not delivered yet.
    """
    pods = cache.children(read_state.run, "Pod")
    behind = {
        uid
        for job in cache.children(read_state.run, "Job")
        if (uid := job["metadata"]["uid"]) not in read_state.reread
        and has_ended(job)
        and any(is_of(pod, uid) and pod["status"].get("phase") in {"Pending", "Running"} for pod in pods)
    }
    if not behind:
        return
    read_state.reread |= behind
    found, _ = await cluster.list("Pod", read_state.namespace, f"{LABEL_UID}={read_state.run}")
    for pod in found:
        cache.put(pod)


async def read_namespace(
    read_state: ReadState, cluster: Cluster, known: dict[str, tuple[float, str]]
) -> None:
    """Reads the uid of the namespace once: the namespace cannot change while the FineTuneJob exists.

    Args:
        read_state: the state of the run.
        cluster: the API server.
        known: by namespace, when its uid was read (time.monotonic()) and the uid. Jobs that are created
            together share one read; a namespace is not deleted and created anew within NAMESPACE_SECONDS.
    """
    if read_state.namespace_uid:
        return
    read_at, uid = known.get(read_state.namespace, (float("-inf"), ""))
    if time.monotonic() - read_at > NAMESPACE_SECONDS:
        read_at, uid = time.monotonic(), await cluster.namespace_uid(read_state.namespace)
        known[read_state.namespace] = read_at, uid
    read_state.namespace_uid = uid


async def recheck_foreign(read_state: ReadState, cache: Cache, cluster: Cluster) -> None:
    """Reads the foreign objects again and forgets each that is gone."""
    for kind, name in list(read_state.foreign):
        try:
            await read_conflicting(read_state, cache, cluster, kind, name)
        except MissingError:
            read_state.foreign.discard((kind, name))


async def read_conflicting(
    read_state: ReadState, cache: Cache, cluster: Cluster, kind: str, name: str
) -> None:
    """Reads the object that has a name of this run.

    An object of this run is stored in the cache; any other object is recorded as foreign.

    Raises:
        MissingError: no object has the name.
    """
    there = await cluster.get(kind, read_state.namespace, name)
    if there["metadata"].get("labels", {}).get(LABEL_UID) == read_state.run:
        read_state.foreign.discard((kind, name))
        cache.put(there)
    else:
        read_state.foreign.add((kind, name))


async def read_events(read_state: ReadState, cache: Cache, cluster: Cluster, now: datetime) -> None:
    """Lists the Events about each hanging Job, or about one of its pods: one request for each Job.

    The Events of a Job that began to hang are read at once, then every 15 s. Each read is about the next pod
    of the gang, until the Events of a pod explain why the pod hangs.
    """
    hanging = pending.ask_about(
        cache.children(read_state.run, "Job"), cache.children(read_state.run, "Pod"), now
    )
    if not hanging:
        read_state.events = {}
        return
    due = time.monotonic() - read_state.events_read_at >= REREAD_SECONDS
    if due or any(read_state.events.keys().isdisjoint(uids) for uids in hanging):
        read_state.events_read_at = time.monotonic()
        asked = [_next_object(uids, read_state.events) for uids in hanging]
        read_state.events = {uid: await cluster.events(read_state.namespace, uid) for uid in asked}


def _next_object(uids: list[str], known: Mapping[str, tuple[Manifest, ...]]) -> str:
    """The object whose Events are read next.

    Keeps reading the same object while its Events explain the wait; else takes the next object.
    """
    last = next((number for number, uid in enumerate(uids) if uid in known), -1)
    if last >= 0 and pending.explains(known[uids[last]]):
        return uids[last]
    return uids[(last + 1) % len(uids)]


def has_ended(job: Manifest) -> bool:
    """Whether the Job controller has ended a Job, or has decided to end it."""
    over = {"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"}
    conditions = job.get("status", {}).get("conditions") or ()
    return any(c["type"] in over and c["status"] == "True" for c in conditions)


def is_of(pod: Manifest, job_uid: str) -> bool:
    """Whether a pod belongs to the Job with that uid."""
    return any(owner["uid"] == job_uid for owner in pod["metadata"].get("ownerReferences", ()))
