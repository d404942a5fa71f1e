"""What a turn looks at: the cache that the watches fill, and what they do not tell or tell too late.

Foreign objects and Events are not watched; the watches of a Job and of its pods are not in step.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from finetune_operator.names import LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning import pending
from finetune_operator.planning.types import Observed
from finetune_operator.runtime.api_client import MissingError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster
from finetune_trainer.contract import Progress

REREAD_SECONDS = 15.0
"""What is not watched is looked at again so often while it matters."""


@dataclass
class ReadState:
    """What is known of one run besides the cache; it may be forgotten and is then asked for again."""

    run: str
    namespace: str
    namespace_uid: str = ""
    foreign: set[tuple[str, str]] = field(default_factory=set)
    """Kind and name of what has a name of ours and is not ours."""
    events: dict[str, tuple[Manifest, ...]] = field(default_factory=dict)
    """Events about Jobs and pods that hang, by uid: of one object a Job."""
    events_read_at: float = 0.0
    """When they were asked for, by time.monotonic()."""
    reread: set[str] = field(default_factory=set)
    """Uids of ended Jobs whose pods were read once more."""

    @property
    def requeue_after(self) -> float | None:
        """Seconds until something that is not watched has to be looked at again; None while there is none."""
        return REREAD_SECONDS if self.foreign or self.events else None


def observed(read_state: ReadState, cache: Cache, progress: Progress | None, refused: str | None) -> Observed:
    """All that a plan is made from.

    Args:
        read_state: of the run.
        cache: what the watches have told.
        progress: news of the running stage.
        refused: what the API server said when it refused a write for this run.
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
        events=tuple(event for told in read_state.events.values() for event in told),
        progress=progress,
        base=cache.model_dependencies.of(read_state.run),
    )


async def reread_pods(read_state: ReadState, cache: Cache, cluster: Cluster) -> None:
    """Reads the pods again where their Job was seen to end before them.

    Else a result would be taken for lost that is about to arrive.
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


async def read_namespace(read_state: ReadState, cluster: Cluster) -> None:
    """Reads the uid of the namespace once: the namespace cannot change while the FineTuneJob exists."""
    if not read_state.namespace_uid:
        read_state.namespace_uid = await cluster.namespace_uid(read_state.namespace)


async def recheck_foreign(read_state: ReadState, cache: Cache, cluster: Cluster) -> None:
    """Forgets foreign objects that have gone."""
    for kind, name in list(read_state.foreign):
        try:
            await read_conflicting(read_state, cache, cluster, kind, name)
        except MissingError:
            read_state.foreign.discard((kind, name))


async def read_conflicting(
    read_state: ReadState, cache: Cache, cluster: Cluster, kind: str, name: str
) -> None:
    """Whose object has a name of ours: our own is taken into the cache, another is foreign.

    Raises:
        MissingError: there is none (any more).
    """
    there = await cluster.get(kind, read_state.namespace, name)
    if there["metadata"].get("labels", {}).get(LABEL_UID) == read_state.run:
        read_state.foreign.discard((kind, name))
        cache.put(there)
    else:
        read_state.foreign.add((kind, name))


async def read_events(read_state: ReadState, cache: Cache, cluster: Cluster, now: datetime) -> None:
    """Lists the Events about each Job that hangs, or about one of its pods: one list a Job.

    Jobs are asked about every 15 s at most, and at once where a Job hangs since. The pods of a gang take
    turns until the Events of a pod say why it hangs.
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
    """The one that was asked about, while its Events say why it hangs; else the one after that."""
    last = next((number for number, uid in enumerate(uids) if uid in known), -1)
    if last >= 0 and pending.explains(known[uids[last]]):
        return uids[last]
    return uids[(last + 1) % len(uids)]


def has_ended(job: Manifest) -> bool:
    """Whether the Job controller says that a Job is over, or as good as."""
    over = {"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"}
    conditions = job.get("status", {}).get("conditions") or ()
    return any(c["type"] in over and c["status"] == "True" for c in conditions)


def is_of(pod: Manifest, job_uid: str) -> bool:
    """Whether a pod belongs to the Job with that uid."""
    return any(owner["uid"] == job_uid for owner in pod["metadata"].get("ownerReferences", ()))
