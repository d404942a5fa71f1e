"""What a turn looks at: the cache that the watches fill, and what they do not tell or tell too late.

Foreign objects and Events are not watched; the watches of a Job and of its pods are not in step.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime

from finetune_operator import waiting
from finetune_operator.cache import Cache
from finetune_operator.cluster import Cluster
from finetune_operator.names import LABEL_UID
from finetune_operator.observed import Manifest, Observed
from finetune_operator.transport import MissingError
from finetune_trainer.contract import Progress

ASK_AGAIN_SECONDS = 15.0
"""What is not watched is looked at again so often while it matters."""


@dataclass
class Sight:
    """What is known of one run besides the cache; it may be forgotten and is then asked for again."""

    run: str
    namespace: str
    foreign: set[tuple[str, str]] = field(default_factory=set)
    """Kind and name of what has a name of ours and is not ours."""
    events: dict[str, tuple[Manifest, ...]] = field(default_factory=dict)
    """Events about what hangs, by its uid."""
    asked_at: float = 0.0
    """When they were asked for, by time.monotonic()."""
    caught_up: set[str] = field(default_factory=set)
    """Uids of ended Jobs whose pods were read once more."""

    @property
    def again_in(self) -> float | None:
        """Seconds until something that is not watched has to be looked at again; None while there is none."""
        return ASK_AGAIN_SECONDS if self.foreign or self.events else None


def observed(sight: Sight, cache: Cache, progress: Progress | None, refused: str | None) -> Observed:
    """All that a plan is made from.

    Args:
        sight: of the run.
        cache: what the watches have told.
        progress: news of the running stage.
        refused: what the API server said when it refused a write for this run.
    """
    return Observed(
        jobs=cache.children(sight.run, "Job"),
        pods=cache.children(sight.run, "Pod"),
        services=cache.children(sight.run, "Service"),
        network_policies=cache.children(sight.run, "NetworkPolicy"),
        foreign=frozenset(sight.foreign),
        refused=cache.unreadable(sight.namespace) or refused,
        events=tuple(event for told in sight.events.values() for event in told),
        progress=progress,
        base=cache.bases.of(sight.run),
    )


async def catch_up(sight: Sight, cache: Cache, cluster: Cluster) -> None:
    """Reads the pods again where their Job was seen to end before them.

    Else a result would be taken for lost that is about to arrive.
    """
    pods = cache.children(sight.run, "Pod")
    behind = {
        uid
        for job in cache.children(sight.run, "Job")
        if (uid := job["metadata"]["uid"]) not in sight.caught_up
        and has_ended(job)
        and any(is_of(pod, uid) and pod["status"].get("phase") in {"Pending", "Running"} for pod in pods)
    }
    if not behind:
        return
    sight.caught_up |= behind
    found, _ = await cluster.list("Pod", sight.namespace, f"{LABEL_UID}={sight.run}")
    for pod in found:
        cache.put(pod)


async def look_at_foreign(sight: Sight, cache: Cache, cluster: Cluster) -> None:
    """Forgets foreign objects that have gone."""
    for kind, name in list(sight.foreign):
        try:
            await look_at_taken(sight, cache, cluster, kind, name)
        except MissingError:
            sight.foreign.discard((kind, name))


async def look_at_taken(sight: Sight, cache: Cache, cluster: Cluster, kind: str, name: str) -> None:
    """Whose object has a name of ours: our own is taken into the cache, another is foreign.

    Raises:
        MissingError: there is none (any more).
    """
    there = await cluster.get(kind, sight.namespace, name)
    if there["metadata"].get("labels", {}).get(LABEL_UID) == sight.run:
        sight.foreign.discard((kind, name))
        cache.put(there)
    else:
        sight.foreign.add((kind, name))


async def ask_events(sight: Sight, cache: Cache, cluster: Cluster, now: datetime) -> None:
    """Reads the Events about what hangs, every 15 s at most, and at once about what hangs since."""
    asked = waiting.ask_about(cache.children(sight.run, "Job"), cache.children(sight.run, "Pod"), now)
    if not asked:
        sight.events = {}
    elif time.monotonic() - sight.asked_at >= ASK_AGAIN_SECONDS or set(asked) - set(sight.events):
        sight.asked_at = time.monotonic()
        sight.events = {uid: await cluster.events(sight.namespace, uid) for uid in asked}


def has_ended(job: Manifest) -> bool:
    """Whether the Job controller says that a Job is over, or as good as."""
    over = {"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"}
    conditions = job.get("status", {}).get("conditions") or ()
    return any(c["type"] in over and c["status"] == "True" for c in conditions)


def is_of(pod: Manifest, job_uid: str) -> bool:
    """Whether a pod belongs to the Job with that uid."""
    return any(owner["uid"] == job_uid for owner in pod["metadata"].get("ownerReferences", ()))
