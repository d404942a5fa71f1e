"""The last turns of a run whose FineTuneJob is gone: what it left in S3 is removed by its sweep Job."""

import logging
from datetime import datetime

from finetune_operator.cache import Cache
from finetune_operator.cluster import Cluster
from finetune_operator.names import ANNOTATION_JOB_NAME, KIND, LABEL_JOB, LABEL_ROLE
from finetune_operator.observed import Manifest
from finetune_operator.plan import plan_sweep
from finetune_operator.transport import MissingError

LOOK_AGAIN_SECONDS = 15.0
log = logging.getLogger(__name__)


async def look_after(run: str, cache: Cache, cluster: Cluster, now: datetime) -> float | None:
    """Releases the sweep Jobs of a run when nothing else of it is left; returns when to look again."""
    jobs = cache.children(run, "Job")
    left = [o for o in (*jobs, *cache.children(run, "Pod")) if not is_sweep(o)]
    known = {job["metadata"]["uid"] for job in cache.jobs()}
    again_in = None
    for sweep in filter(is_sweep, jobs):
        decision = plan_sweep(sweep, known, bool(left), now)
        if decision == "wait":
            again_in = LOOK_AGAIN_SECONDS
        elif decision == "release" and not await _lives(run, sweep, cluster):
            cache.put(await cluster.release_sweep(sweep))
            log.info("released %s: its FineTuneJob is gone", sweep["metadata"]["name"])
    return again_in


def is_sweep(obj: Manifest) -> bool:
    """Whether a Job or pod is of the sweep, not of the run."""
    return bool(obj["metadata"].get("labels", {}).get(LABEL_ROLE) == "sweep")


async def _lives(run: str, sweep: Manifest, cluster: Cluster) -> bool:
    """Asks the API server itself: what a sweep deletes cannot be had again."""
    meta = sweep["metadata"]
    name = meta.get("annotations", {}).get(ANNOTATION_JOB_NAME) or meta["labels"][LABEL_JOB]
    try:
        job = await cluster.get(KIND, meta["namespace"], name)
    except MissingError:
        return False
    return bool(job["metadata"]["uid"] == run)
