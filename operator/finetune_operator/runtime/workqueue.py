"""A queue of runs to look at: woken any number of times, each is worked on by one worker at a time."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from finetune_operator.runtime import metrics

FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0
BACKGROUND_EVERY = 8
"""One turn in so many is for what nobody asked for, also while somebody does."""
log = logging.getLogger(__name__)


class RetryLaterError(Exception):
    """An expected failure: tried again with back-off and told in one line, without a traceback.

    Attributes:
        seconds: earliest time of the next try, where the other side said one.
    """

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass
class _Entry:
    """What the queue knows of one key: dropped as soon as nothing is known."""

    queued_at: float | None = None
    working: bool = False
    again: bool = False
    user_triggered: bool = False
    """Whether its next turn is one that somebody asked for."""
    failures: int = 0
    timer: asyncio.TimerHandle | None = None


@dataclass
class WorkQueue:
    """Two lines, each first come, first served: what somebody asks for, and what follows from it.

    Nobody who asks for something waits behind what follows from what others have asked for; but that gets
    one turn in `OTHERS_EVERY` whatever happens. A key that is woken while it is worked on goes to the end of
    its line.

    `work(key)` returns the seconds until it wants to be called again whatever happens, or None. A key whose
    work raises is tried again with back-off; no other key waits for it.
    """

    work: Callable[[str], Awaitable[float | None]]
    workers: int
    _user_triggered: deque[str] = field(default_factory=deque)
    _background: deque[str] = field(default_factory=deque)
    _turns: int = 0
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _some_ready: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def enqueue(self, key: str, *, user_triggered: bool = False) -> None:
        """Asks for a turn. A failing key waits for its back-off all the same, unless somebody asks for it."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.failures and entry.timer and not user_triggered:
            return
        if user_triggered and not entry.user_triggered:
            entry.user_triggered = True
            if entry.queued_at is not None:
                self._background.remove(key)
                self._user_triggered.append(key)
        self._line_up(key, entry)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.workers):
                group.create_task(self._worker(), name=f"worker {number}")

    def __len__(self) -> int:
        return len(self._user_triggered) + len(self._background)

    def _line_up(self, key: str, entry: _Entry) -> None:
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None
        if entry.working:
            entry.again = True
        elif entry.queued_at is None:
            entry.queued_at = time.monotonic()
            (self._user_triggered if entry.user_triggered else self._background).append(key)
            self._some_ready.release()
            metrics.QUEUE_DEPTH.set(len(self))

    def _line_up_later(self, key: str, entry: _Entry, seconds: float) -> None:
        entry.timer = asyncio.get_running_loop().call_later(seconds, self._line_up, key, entry)

    async def _worker(self) -> None:
        while True:
            await self._some_ready.acquire()
            key = self._next()
            entry = self._entries[key]
            started = time.monotonic()
            metrics.QUEUE_DEPTH.set(len(self))
            metrics.QUEUE_SECONDS.observe(started - (entry.queued_at or started))
            entry.queued_at, entry.working, entry.again, entry.user_triggered = None, True, False, False
            try:
                requeue_after = await self._attempt(key, entry)
            finally:
                entry.working = False
                metrics.RECONCILE_SECONDS.observe(time.monotonic() - started)
            self._settle(key, entry, requeue_after)

    def _next(self) -> str:
        self._turns += 1
        others_first = self._turns % BACKGROUND_EVERY == 0
        lines = (
            (self._background, self._user_triggered)
            if others_first
            else (self._user_triggered, self._background)
        )
        return (lines[0] or lines[1]).popleft()

    async def _attempt(self, key: str, entry: _Entry) -> float | None:
        try:
            requeue_after = await self.work(key)
        except RetryLaterError as error:
            entry.failures += 1
            wait = max(error.seconds, backoff(entry.failures))
            log.warning("%s; again in %.0f s", error, wait)
            metrics.RECONCILES.labels(result="retry").inc()
            return wait
        except Exception:
            entry.failures += 1
            wait = backoff(entry.failures)
            log.exception("a turn of run %s failed; again in %.0f s", key, wait)
            metrics.RECONCILES.labels(result="error").inc()
            return wait
        entry.failures = 0
        metrics.RECONCILES.labels(result="done").inc()
        return requeue_after

    def _settle(self, key: str, entry: _Entry, requeue_after: float | None) -> None:
        """Decides when the key is due again after a turn."""
        if entry.failures:
            self._line_up_later(key, entry, requeue_after or 0.0)
        elif entry.again:
            self._line_up(key, entry)
        elif requeue_after is not None:
            self._line_up_later(key, entry, requeue_after)
        else:
            del self._entries[key]


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling from 1 s to 60 s, half of it by chance."""
    longest = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
