"""Keeps the cache equal to the API server: our own objects by label, listed once and then watched.

kopf watches the FineTuneJobs; the children are watched here, because here the API server selects them, a
silent connection is noticed, and what was missed in a gap is found again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable

from finetune_operator import metrics
from finetune_operator.cache import CHILD_KINDS, Cache
from finetune_operator.cluster import Cluster, WatchEvent
from finetune_operator.names import KIND, LABEL_JOB
from finetune_operator.transport import (
    RESOURCES,
    ApiError,
    ExpiredError,
    MissingError,
    RefusedError,
    UnavailableError,
)
from finetune_operator.workqueue import backoff

WATCH_SECONDS = (240, 300)
"""After so long the API server ends a watch; apart, so that not all begin again together."""
Wake = Callable[[str], None]
log = logging.getLogger(__name__)


def scopes(namespaces: Iterable[str]) -> tuple[str | None, ...]:
    """Where to look: each namespace by itself, or None for all at once."""
    return tuple(namespaces) or (None,)


async def resync(cluster: Cluster, cache: Cache, namespaces: Iterable[str]) -> None:
    """Lists everything of ours again.

    Raises:
        ApiError: something could not be listed; what could was taken in.
    """
    started = time.monotonic()
    for namespace in scopes(namespaces):
        for kind in (KIND, *CHILD_KINDS):
            await relist(cluster, cache, kind, namespace)
    metrics.RESYNC_SECONDS.set(time.monotonic() - started)
    metrics.RESYNC_TIME.set_to_current_time()


async def relist(cluster: Cluster, cache: Cache, kind: str, namespace: str | None) -> tuple[str, set[str]]:
    """Lists a kind; returns the list's version and the runs for which it brought news."""
    try:
        objects, version = await cluster.list(kind, namespace, "" if kind == KIND else LABEL_JOB)
    except RefusedError as error:
        cache.note_readable(kind, namespace, str(error))
        raise
    except MissingError as error:
        raise UnavailableError(f"{error} (is the CustomResourceDefinition installed?)") from None
    healed = cache.note_readable(kind, namespace, None)
    news = cache.replace(kind, namespace, objects, version)
    return version, cache.runs() if healed else news


async def follow(cluster: Cluster, cache: Cache, kind: str, namespace: str | None, wake: Wake) -> None:
    """Watches a kind of our children for ever."""
    version = ""
    failures = 0
    while True:
        cause = "ended"
        try:
            if not version:
                version, news = await relist(cluster, cache, kind, namespace)
                for run in news:
                    wake(run)
            seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, no secret
            async for event in cluster.watch(kind, namespace, LABEL_JOB, version, seconds):
                version = event.object["metadata"]["resourceVersion"]
                failures = 0
                if run := take_in(cache, event):
                    wake(run)
        except ExpiredError:
            version, cause = "", "expired"
        except RefusedError as error:
            version, cause = "", "refused"
            if cache.note_readable(kind, namespace, str(error)):
                for run in cache.runs():
                    wake(run)
            failures += 1
            log.warning("%s; trying again", error)
            await asyncio.sleep(backoff(failures))
        except ApiError as error:
            cause = "broken"
            failures += 1
            log.info("%s; watching again", error)
            # The first time at once: one broken connection says nothing of the next.
            await asyncio.sleep(backoff(failures) if failures > 1 else random.random())  # noqa: S311
        metrics.WATCH_RESTARTS.labels(resource=RESOURCES[kind][1], cause=cause).inc()


def take_in(cache: Cache, event: WatchEvent) -> str | None:
    """Puts one event into the cache; returns the run for which it was news."""
    match event.type:
        case "BOOKMARK":
            return None
        case "DELETED":
            return cache.remove(event.object)
        case _:
            return cache.put(event.object)
