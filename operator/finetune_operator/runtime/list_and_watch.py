"""Keeps the cache equal to the API server, scope by scope: each kind is listed, then watched.

kopf watches the FineTuneJobs, and this module watches their children: the API server selects the children by
label, a silent connection is restarted, and a list after each gap finds the changes of the gap.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
from finetune_operator.runtime.scopes import Scope
from finetune_operator.runtime.workqueue import backoff

WATCH_SECONDS = (240, 300)
"""The API server ends a watch after this time. A range, so that not all watches restart together."""
ESTABLISHED_SECONDS = 10.0
"""A watch that lasted this long before it broke was established: the back-off starts again."""
UNLISTED_RETRY_SECONDS = 15.0
"""Longest pause before a scope that was never listed, or is lost, is listed again."""
Enqueue = Callable[[str], None]
log = logging.getLogger(__name__)


async def keep(cluster: Cluster, cache: Cache, scope: Scope, enqueue: Enqueue, resync_seconds: float) -> None:
    """Keeps the cache equal to one scope until cancelled. No ApiError leaves this function.

    The scope starts once all its objects were listed. When FineTuneJobs can no longer be read (the namespace
    and the operator's Role in it were deleted, for example), the scope is lost: its objects are dropped, and
    it starts again once all can be listed.
    """
    while True:
        await _list_until_complete(cluster, cache, scope)
        scope.start()
        runs = runs_in(cache, scope)
        log.info("%s: %d runs found", scope, len(runs))
        for run in runs:
            enqueue(run)
        async with asyncio.TaskGroup() as group:
            watches = [
                group.create_task(
                    list_and_watch(cluster, cache, kind, scope, enqueue), name=f"watch {kind} in {scope}"
                )
                for kind in CHILD_KINDS
            ]
            await _resync_until_lost(cluster, cache, scope, enqueue, resync_seconds)
            for watch in watches:
                watch.cancel()
        for kind in CHILD_KINDS:
            scope.note(f"watch {kind}", None)  # the watch has ended, so its problem is over
        await scope.stop()
        for run in cache.forget(scope.namespace):
            enqueue(run)


async def _list_until_complete(cluster: Cluster, cache: Cache, scope: Scope) -> None:
    failures = 0
    while True:
        try:
            if await resync(cluster, cache, scope):
                return
        except RefusedError as error:
            log.debug("%s", error)
        failures += 1
        await asyncio.sleep(min(UNLISTED_RETRY_SECONDS, backoff(failures)))


async def _resync_until_lost(
    cluster: Cluster, cache: Cache, scope: Scope, enqueue: Enqueue, resync_seconds: float
) -> None:
    """Lists the scope every few minutes and enqueues its runs, so a missed event only delays a reconcile.

    Returns when the API server refuses to list FineTuneJobs.
    """
    failures = 0
    while True:
        await asyncio.sleep(backoff(failures) if failures else resync_seconds)
        try:
            complete = await resync(cluster, cache, scope)
        except RefusedError:
            return
        failures = 0 if complete else failures + 1
        for run in runs_in(cache, scope):
            enqueue(run)


async def resync(cluster: Cluster, cache: Cache, scope: Scope) -> bool:
    """Lists all kinds of a scope; returns whether every list succeeded.

    Raises:
        RefusedError: FineTuneJobs may not be listed.
    """
    started = time.monotonic()
    complete = True
    for kind in (KIND, *CHILD_KINDS):
        try:
            await relist(cluster, cache, kind, scope)
        except ApiError as error:
            if kind == KIND and isinstance(error, RefusedError):
                raise
            complete = False
    if complete:
        label = scope.namespace or ""
        metrics.RESYNC_SECONDS.labels(namespace=label).set(time.monotonic() - started)
        metrics.RESYNC_TIME.labels(namespace=label).set_to_current_time()
    return complete


async def relist(cluster: Cluster, cache: Cache, kind: str, scope: Scope) -> tuple[str, set[str]]:
    """Lists a kind; returns the version of the list and the runs that the list changed."""
    activity = f"list {kind}"
    try:
        objects, version = await cluster.list(kind, scope.namespace, "" if kind == KIND else LABEL_JOB)
    except ApiError as error:
        problem: ApiError = error
        if isinstance(error, MissingError):
            problem = UnavailableError(f"{error} (is the CustomResourceDefinition installed?)")
        if isinstance(error, RefusedError):
            cache.note_readable(kind, scope.namespace, str(error))
        if isinstance(error, MissingError | RefusedError):
            scope.answered_at = time.monotonic()
        scope.note(activity, str(problem))
        raise problem from None
    scope.answered_at = time.monotonic()
    scope.note(activity, None)
    healed = cache.note_readable(kind, scope.namespace, None)
    news = await cache.replace(kind, scope.namespace, objects, version)
    return version, runs_in(cache, scope) if healed else news


async def list_and_watch(cluster: Cluster, cache: Cache, kind: str, scope: Scope, enqueue: Enqueue) -> None:
    """Lists and watches a kind of children in a scope until cancelled."""
    watch = _Watch(cluster, cache, kind, scope, enqueue)
    while True:
        cause, pause = await watch.run_once()
        metrics.WATCH_RESTARTS.labels(resource=RESOURCES[kind][1], cause=cause).inc()
        await asyncio.sleep(pause)


@dataclass
class _Watch:
    """The watch of one kind of children in one scope."""

    cluster: Cluster
    cache: Cache
    kind: str
    scope: Scope
    enqueue: Enqueue
    version: str = ""
    """Where the next watch starts; empty: the kind is listed first."""
    failures: int = 0

    async def run_once(self) -> tuple[str, float]:
        """Watches until the watch ends; returns why, and the seconds to wait before the next watch."""
        started = time.monotonic()
        try:
            if not self.version:
                self.version, news = await relist(self.cluster, self.cache, self.kind, self.scope)
                self._enqueue_all(news)
            await self._take_in_events()
        except ExpiredError:
            self.version = ""
            return "expired", 0.0
        except SilentError as error:
            # Usually no object has changed. A pause before the next watch would only delay events.
            log.debug("%s; watching again", error)
            self._note(None)
            return "silent", 0.0
        except ApiError as error:
            log.debug("%s; watching again", error)
            if time.monotonic() - started > ESTABLISHED_SECONDS:
                self.failures = 0
            self.failures += 1
            if self.version and (self.failures > 1 or isinstance(error, RefusedError)):
                self._note(str(error))
            if isinstance(error, RefusedError):
                self._take_in_refusal(str(error))
                return "refused", backoff(self.failures)
            return "broken", _pause(error, self.failures)
        self._note(None)
        return "ended", 0.0

    async def _take_in_events(self) -> None:
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, no secret
        events = self.cluster.watch(self.kind, self.scope.namespace, LABEL_JOB, self.version, seconds)
        async for event in events:
            self.version = event.object["metadata"]["resourceVersion"]
            self.failures = 0
            self._note(None)
            if changed := take_in(self.cache, event):
                self.enqueue(changed)

    def _take_in_refusal(self, problem: str) -> None:
        self.version = ""
        if self.cache.note_readable(self.kind, self.scope.namespace, problem):
            self._enqueue_all(runs_in(self.cache, self.scope))

    def _note(self, problem: str | None) -> None:
        self.scope.note(f"watch {self.kind}", problem)

    def _enqueue_all(self, runs: Iterable[str]) -> None:
        for run in runs:
            self.enqueue(run)


def runs_in(cache: Cache, scope: Scope) -> set[str]:
    """The runs of a scope."""
    return {run for run in cache.runs() if scope.namespace in {None, cache.namespace(run)}}


def take_in(cache: Cache, event: WatchEvent) -> str | None:
    """Applies one event to the cache; returns the run that the event changed."""
    match event.type:
        case "BOOKMARK":
            return None
        case "DELETED":
            return cache.remove(event.object)
        case _:
            return cache.put(event.object)


def _pause(error: ApiError, failures: int) -> float:
    """Seconds until the next try. The first retry is nearly immediate: the next connection often works."""
    if isinstance(error, UnavailableError) and failures == 1:
        return max(error.seconds, random.random())  # noqa: S311 - jitter, no secret
    return backoff(failures)
