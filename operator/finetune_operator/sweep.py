"""The last turns of a run whose FineTuneJob is gone: what it left in S3 is removed by its sweep Job."""

import logging

from finetune_operator.cache import Cache
from finetune_operator.cluster import Cluster
from finetune_operator.names import ANNOTATION_JOB_NAME, KIND, LABEL_JOB, LABEL_ROLE, LABEL_UID
from finetune_operator.observed import Manifest
from finetune_operator.plan import plan_sweep
from finetune_operator.transport import MissingError

LOOK_AGAIN_SECONDS = 15.0
log = logging.getLogger(__name__)


async def look_after(run: str, cache: Cache, cluster: Cluster) -> float | None:
    """Releases the sweep Jobs of a run when nothing else of it is left; returns when to look again.

    What a sweep deletes cannot be had again. So before a release the API server itself is asked: watches may
    be behind, be it with a FineTuneJob created a moment ago or with the pods of one deleted a moment ago.
    """
    jobs = cache.children(run, "Job")
    left = not all(is_sweep(o) for o in (*jobs, *cache.children(run, "Pod")))
    again_in = None
    for sweep in filter(is_sweep, jobs):
        decision = plan_sweep(sweep, run_left=left)
        if decision == "release" and await _lives(run, sweep, cluster):
            continue  # the watch of FineTuneJobs will tell of it
        if decision == "release" and await _is_left(run, sweep, cache, cluster):
            decision = "wait"
        if decision == "wait":
            again_in = LOOK_AGAIN_SECONDS
        elif decision == "release":
            cache.put(await cluster.release_sweep(sweep))
            log.info("released %s: its FineTuneJob is gone", sweep["metadata"]["name"])
    return again_in


def is_sweep(obj: Manifest) -> bool:
    """Whether a Job or pod is of the sweep, not of the run."""
    return bool(obj["metadata"].get("labels", {}).get(LABEL_ROLE) == "sweep")


async def _lives(run: str, sweep: Manifest, cluster: Cluster) -> bool:
    meta = sweep["metadata"]
    name = meta.get("annotations", {}).get(ANNOTATION_JOB_NAME) or meta["labels"][LABEL_JOB]
    try:
        job = await cluster.get(KIND, meta["namespace"], name)
    except MissingError:
        return False
    return bool(job["metadata"]["uid"] == run)


async def _is_left(run: str, sweep: Manifest, cache: Cache, cluster: Cluster) -> bool:
    """Whether there are Jobs or pods of the run. Jobs first: without one no pod is made any more."""
    for kind in ("Job", "Pod"):
        found, _ = await cluster.list(kind, sweep["metadata"]["namespace"], f"{LABEL_UID}={run}")
        if left := [o for o in found if not is_sweep(o)]:
            for obj in left:
                cache.put(obj)
            return True
    return False
