"""The last turns of a run whose FineTuneJob is gone: what it left in S3 is removed by its cleanup Job."""

import logging

from finetune_operator.names import ANNOTATION_JOB_NAME, KIND, LABEL_JOB, LABEL_ROLE, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning.cleanup import plan_cleanup
from finetune_operator.planning.lookup import reference
from finetune_operator.runtime.api_client import MissingError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster

LOOK_AGAIN_SECONDS = 15.0
log = logging.getLogger(__name__)


async def look_after(run: str, cache: Cache, cluster: Cluster) -> float | None:
    """Releases the cleanup Jobs of a run when nothing else of it is left; returns when to look again.

    A cleanup cannot be undone. So before a release the API server itself is asked: watches may
    be behind, be it with a FineTuneJob created a moment ago or with the pods of one deleted a moment ago.
    """
    jobs, pods = cache.children(run, "Job"), cache.children(run, "Pod")
    left = not all(is_cleanup(o) for o in (*jobs, *pods))
    requeue_after = None
    for cleanup in filter(is_cleanup, jobs):
        decision = plan_cleanup(cleanup, pods, run_left=left)
        if decision == "delete":
            await cluster.delete(cleanup["metadata"]["namespace"], reference(cleanup))
        if decision == "release" and await _lives(run, cleanup, cluster):
            continue  # the watch of FineTuneJobs will tell of it
        if decision == "release" and await _is_left(run, cleanup, cache, cluster):
            decision = "wait"
        if decision == "wait":
            requeue_after = LOOK_AGAIN_SECONDS
        elif decision == "release":
            cache.put(await cluster.release_cleanup(cleanup))
            log.info("released %s: its FineTuneJob is gone", cleanup["metadata"]["name"])
    return requeue_after


def is_cleanup(obj: Manifest) -> bool:
    """Whether a Job or pod is of the cleanup, not of the run."""
    return bool(obj["metadata"].get("labels", {}).get(LABEL_ROLE) == "cleanup")


async def _lives(run: str, cleanup: Manifest, cluster: Cluster) -> bool:
    meta = cleanup["metadata"]
    name = meta.get("annotations", {}).get(ANNOTATION_JOB_NAME) or meta["labels"][LABEL_JOB]
    try:
        job = await cluster.get(KIND, meta["namespace"], name)
    except MissingError:
        return False
    return bool(job["metadata"]["uid"] == run)


async def _is_left(run: str, cleanup: Manifest, cache: Cache, cluster: Cluster) -> bool:
    """Whether there are Jobs or pods of the run. Jobs first: without one no pod is made any more."""
    for kind in ("Job", "Pod"):
        found, _ = await cluster.list(kind, cleanup["metadata"]["namespace"], f"{LABEL_UID}={run}")
        if left := [o for o in found if not is_cleanup(o)]:
            for obj in left:
                cache.put(obj)
            return True
    return False
