"""Keeps the cache equal to the API server: our own objects by label, listed once and then watched.

kopf watches the FineTuneJobs; the children are watched here, because here the API server selects them, a
silent connection is noticed, and what was missed in a gap is found again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable

from finetune_operator.names import KIND, LABEL_JOB
from finetune_operator.runtime import metrics
from finetune_operator.runtime.api_client import (
    RESOURCES,
    ApiError,
    ExpiredError,
    MissingError,
    RefusedError,
    SilentError,
    UnavailableError,
)
from finetune_operator.runtime.cache import CHILD_KINDS, Cache
from finetune_operator.runtime.cluster import Cluster, WatchEvent
from finetune_operator.runtime.workqueue import backoff

WATCH_SECONDS = (240, 300)
"""After so long the API server ends a watch; apart, so that not all begin again together."""
Enqueue = Callable[[str], None]
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
    news = await cache.replace(kind, namespace, objects, version)
    return version, cache.runs() if healed else news


async def list_and_watch(
    cluster: Cluster, cache: Cache, kind: str, namespace: str | None, enqueue: Enqueue
) -> None:
    """Watches a kind of our children for ever."""
    version = ""
    failures = 0
    while True:
        cause, pause = "ended", 0.0
        try:
            if not version:
                version, news = await relist(cluster, cache, kind, namespace)
                for run in news:
                    enqueue(run)
            seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, no secret
            async for event in cluster.watch(kind, namespace, LABEL_JOB, version, seconds):
                version = event.object["metadata"]["resourceVersion"]
                failures = 0
                if changed := take_in(cache, event):
                    enqueue(changed)
        except ExpiredError:
            version, cause = "", "expired"
        except SilentError as error:
            # Most often nothing has happened: waiting now would only make us blind.
            cause = "silent"
            log.debug("%s; watching again", error)
        except ApiError as error:
            failures += 1
            cause, pause = "broken", _pause(error, failures)
            log.info("%s; watching again", error)
            if isinstance(error, RefusedError):
                version, cause = "", "refused"
                _tell_refusal(cache, kind, namespace, str(error), enqueue)
        metrics.WATCH_RESTARTS.labels(resource=RESOURCES[kind][1], cause=cause).inc()
        await asyncio.sleep(pause)


def take_in(cache: Cache, event: WatchEvent) -> str | None:
    """Puts one event into the cache; returns the run for which it was news."""
    match event.type:
        case "BOOKMARK":
            return None
        case "DELETED":
            return cache.remove(event.object)
        case _:
            return cache.put(event.object)


def _pause(error: ApiError, failures: int) -> float:
    """Seconds until the next try; nearly none at first: one broken connection says little of the next."""
    if isinstance(error, UnavailableError) and failures == 1:
        return max(error.seconds, random.random())  # noqa: S311 - jitter, no secret
    return backoff(failures)


def _tell_refusal(cache: Cache, kind: str, namespace: str | None, said: str, enqueue: Enqueue) -> None:
    if cache.note_readable(kind, namespace, said):
        log.warning("%s", said)
        for run in cache.runs():
            enqueue(run)
