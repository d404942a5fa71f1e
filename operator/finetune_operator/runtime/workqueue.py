"""The work queue: each key is processed by one worker at a time, however often the key is enqueued."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from finetune_operator.runtime import metrics

FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0
BACKGROUND_EVERY = 8
"""Every 8th key is taken from the background queue first, even while user-triggered keys wait."""
log = logging.getLogger(__name__)


class RetryLaterError(Exception):
    """An expected failure: the key is retried with back-off, and the log has one line without a traceback.

    Attributes:
        seconds: seconds until the next try at the earliest, if the API server asked to wait; else 0.
    """

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass
class _Entry:
    """State of one key; dropped when the key neither waits nor is processed."""

    namespace: str = ""
    queued_at: float | None = None
    processing: bool = False
    dirty: bool = False
    user_triggered: bool = False
    """Whether a user's change enqueued the key since the key was last processed."""
    failures: int = 0
    timer: asyncio.TimerHandle | None = None


class _RoundRobin:
    """A round robin over namespaces; the keys of one namespace are first in, first out.

    The first key of a namespace waits for at most one key of each other namespace.
    """

    def __init__(self) -> None:
        self._keys: dict[str, dict[str, None]] = {}
        """Waiting keys by namespace; `pop` takes a key of the first namespace."""
        self._count = 0

    def append(self, namespace: str, key: str) -> None:
        self._keys.setdefault(namespace, {})[key] = None
        self._count += 1

    def remove(self, namespace: str, key: str) -> None:
        del self._keys[namespace][key]
        self._count -= 1
        if not self._keys[namespace]:
            del self._keys[namespace]

    def pop(self) -> str:
        namespace = next(iter(self._keys))
        keys = self._keys.pop(namespace)
        key = next(iter(keys))
        del keys[key]
        self._count -= 1
        if keys:
            self._keys[namespace] = keys
        return key

    def __len__(self) -> int:
        return self._count


@dataclass
class WorkQueue:
    """Two queues, user-triggered before background; each is a round robin over namespaces.

    Every `BACKGROUND_EVERY`th key is taken from the background queue even while user-triggered keys wait. A
    key that is enqueued while it is processed goes to the end of the keys of its namespace.

    `work(key)` returns the seconds after which the key is enqueued again, or None. A key whose work raises
    is retried with back-off; no other key waits for the retry.
    """

    work: Callable[[str], Awaitable[float | None]]
    workers: int
    _user_triggered: _RoundRobin = field(default_factory=_RoundRobin)
    _background: _RoundRobin = field(default_factory=_RoundRobin)
    _picked: int = 0
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _ready: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def enqueue(self, key: str, namespace: str = "", *, user_triggered: bool = False) -> None:
        """Enqueues a key.

        Args:
            key: a key that is in back-off after a failure stays in back-off, unless `user_triggered`.
            namespace: the namespace for the round robin.
            user_triggered: whether a user's change enqueues the key.
        """
        entry = self._entries.setdefault(key, _Entry(namespace))
        if entry.failures and entry.timer and not user_triggered:
            return
        if user_triggered and not entry.user_triggered:
            entry.user_triggered = True
            if entry.queued_at is not None:
                self._background.remove(entry.namespace, key)
                self._user_triggered.append(entry.namespace, key)
        self._add(key, entry)

    async def run(self) -> None:
        """Processes keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.workers):
                group.create_task(self._worker(), name=f"worker {number}")

    def __len__(self) -> int:
        return len(self._user_triggered) + len(self._background)

    def _add(self, key: str, entry: _Entry) -> None:
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None
        if entry.processing:
            entry.dirty = True
        elif entry.queued_at is None:
            entry.queued_at = time.monotonic()
            queue = self._user_triggered if entry.user_triggered else self._background
            queue.append(entry.namespace, key)
            self._ready.release()
            metrics.QUEUE_DEPTH.set(len(self))

    def _add_after(self, key: str, entry: _Entry, seconds: float) -> None:
        entry.timer = asyncio.get_running_loop().call_later(seconds, self._add, key, entry)

    async def _worker(self) -> None:
        while True:
            await self._ready.acquire()
            key = self._next()
            entry = self._entries[key]
            started = time.monotonic()
            metrics.QUEUE_DEPTH.set(len(self))
            metrics.QUEUE_SECONDS.observe(started - (entry.queued_at or started))
            entry.queued_at, entry.processing, entry.dirty, entry.user_triggered = None, True, False, False
            try:
                requeue_after = await self._process(key, entry)
            finally:
                entry.processing = False
                metrics.RECONCILE_SECONDS.observe(time.monotonic() - started)
            self._requeue(key, entry, requeue_after)
            await asyncio.sleep(0)  # a reconcile that sends no request does not give way to other tasks

    def _next(self) -> str:
        self._picked += 1
        background_first = self._picked % BACKGROUND_EVERY == 0
        queues = (self._user_triggered, self._background)
        first, second = reversed(queues) if background_first else queues
        return (first or second).pop()

    async def _process(self, key: str, entry: _Entry) -> float | None:
        try:
            requeue_after = await self.work(key)
        except RetryLaterError as error:
            entry.failures += 1
            wait = max(error.seconds, backoff(entry.failures))
            log.warning("%s; next try in %.0f s", error, wait)
            metrics.RECONCILES.labels(result="retry").inc()
            return wait
        except Exception:
            entry.failures += 1
            wait = backoff(entry.failures)
            log.exception("the reconcile of run %s failed; next try in %.0f s", key, wait)
            metrics.RECONCILES.labels(result="error").inc()
            return wait
        entry.failures = 0
        metrics.RECONCILES.labels(result="done").inc()
        return requeue_after

    def _requeue(self, key: str, entry: _Entry, requeue_after: float | None) -> None:
        """Requeues a processed key, or drops its entry."""
        if entry.failures:
            self._add_after(key, entry, requeue_after or 0.0)
        elif entry.dirty:
            self._add(key, entry)
        elif requeue_after is not None:
            self._add_after(key, entry, requeue_after)
        else:
            del self._entries[key]


def backoff(failures: int) -> float:
    """Seconds to wait after failures in a row: doubles from 1 s to 60 s, less up to half of it as jitter."""
    longest = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
