"""Delivers notifications in the background: reconciles hand notifications over and never wait.

Nothing is lost if the process ends: the status of a job lists each notification as Pending until the status
shows the result, and the first reconcile after a restart hands the pending notifications over again. So a
target may receive a notification twice, with the same id.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import aiohttp

from finetune_operator.planning.cloud_events import Notification
from finetune_operator.planning.types import DeliveryResult
from finetune_operator.runtime import metrics, webhook
from finetune_operator.runtime.api_client import proxy_to
from finetune_operator.runtime.workqueue import backoff
from finetune_operator.settings import NotificationTarget

MAX_PENDING = 1000
"""Most pending notifications of one target in memory. Further notifications stay Pending in the status of
their job, and the next resync hands them over again."""
MAX_REQUESTS = 8
"""Most requests to one target at the same time."""
log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Id of an event, and name of the target."""


@dataclass
class _Target:
    settings: NotificationTarget
    folder: Path
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_REQUESTS))
    resumes_at: float = 0.0
    """Time by time.monotonic() until which the target has asked to be left alone."""
    pending: dict[str, datetime] = field(default_factory=dict)
    """Time of the event of each pending notification, by id."""


@dataclass
class _Run:
    pending: set[Key] = field(default_factory=set)
    """Notifications that are not delivered yet."""
    untried: set[Key] = field(default_factory=set)
    """Notifications without a request yet."""
    ended: dict[Key, DeliveryResult] = field(default_factory=dict)
    """Results that the status does not show yet."""


class Notifier:
    """Delivers notifications to their targets.

    Args:
        targets: the targets of the settings, by name.
        clock: the current time; see ServerClock.
        folder: the folder with the files of each target.
        backoff: seconds to wait after a number of failures in a row.
    """

    def __init__(
        self,
        targets: Mapping[str, NotificationTarget],
        clock: Callable[[], datetime],
        folder: Path = webhook.FOLDER,
        backoff: Callable[[int], float] = backoff,
    ) -> None:
        self._targets = {name: _Target(settings, folder / name) for name, settings in targets.items()}
        self._clock = clock
        self._backoff = backoff
        self._runs: dict[str, _Run] = {}
        self._accepted: asyncio.Queue[tuple[str, Notification]] = asyncio.Queue()

    def deliver(self, run: str, notifications: Iterable[Notification]) -> None:
        """Takes over the pending notifications of a run. Notifications that are known are ignored."""
        for notification in notifications:
            target = self._targets[notification.target]
            key = (notification.id, notification.target)
            known = self._runs.get(run)
            if notification.id in target.pending or (known and key in known.ended):
                continue
            if len(target.pending) >= MAX_PENDING:
                _count(notification.target, "deferred")
                continue
            target.pending[notification.id] = notification.time
            known = self._runs.setdefault(run, _Run())
            known.pending.add(key)
            known.untried.add(key)
            self._accepted.put_nowait((run, notification))

    def ended(self, run: str) -> tuple[DeliveryResult, ...]:
        """The results of a run that the status does not show yet."""
        known = self._runs.get(run)
        return tuple(known.ended.values()) if known else ()

    def recorded(self, run: str, results: Iterable[DeliveryResult]) -> None:
        """Records that the status of a run shows these results."""
        if known := self._runs.get(run):
            for result in results:
                known.ended.pop((result.id, result.target), None)
            if not known.pending and not known.ended:
                del self._runs[run]

    def forget(self, run: str) -> None:
        """Drops the results of a run that was deleted. Its pending notifications are still delivered."""
        self._runs.pop(run, None)

    async def run(self, enqueue: Callable[[str], None]) -> None:
        """Delivers until cancelled; calls `enqueue` with each run whose results are to be recorded."""
        for name, target in self._targets.items():
            for result in ("delivered", "retried", "failed", "deferred"):
                metrics.NOTIFICATIONS.labels(target=name, result=result)
            metrics.NOTIFICATIONS_PENDING.labels(target=name).set_function(partial(len, target.pending))
            metrics.NOTIFICATIONS_OLDEST_SECONDS.labels(target=name).set_function(
                partial(self._oldest_age, target)
            )
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            while True:
                run, notification = await self._accepted.get()
                group.create_task(self._deliver(session, run, notification, enqueue))

    async def _deliver(
        self,
        session: aiohttp.ClientSession,
        run: str,
        notification: Notification,
        enqueue: Callable[[str], None],
    ) -> None:
        """Sends one notification until the target has it or the operator gives up."""
        target = self._targets[notification.target]
        failures = 0
        while True:
            async with target.slots:
                await asyncio.sleep(max(0.0, target.resumes_at - time.monotonic()))
                answer = await self._send(session, target, notification)
            if answer.problem is None or answer.final or self._is_too_old(target, notification):
                break
            failures += 1
            _count(notification.target, "retried")
            level = logging.INFO if failures == 1 else logging.DEBUG
            log.log(level, "notification %s to %s: %s", notification.id, notification.target, answer)
            target.resumes_at = max(target.resumes_at, time.monotonic() + answer.wait)
            self._note_tried(run, notification, enqueue)
            await asyncio.sleep(self._backoff(failures))
        _count(notification.target, "failed" if answer.problem else "delivered")
        if answer.problem:
            log.warning(
                "notification %s to %s was not delivered: %s",
                notification.id,
                notification.target,
                answer,
            )
        del target.pending[notification.id]
        key = (notification.id, notification.target)
        if (known := self._runs.get(run)) and key in known.pending:
            known.pending.discard(key)
            known.ended[key] = DeliveryResult(*key, answer.problem)
        self._note_tried(run, notification, enqueue)

    async def _send(
        self, session: aiohttp.ClientSession, target: _Target, notification: Notification
    ) -> webhook.Answer:
        try:
            keys = webhook.read_keys(target.folder)
        except ValueError as error:
            return webhook.Answer(str(error), final=False)
        now = self._clock()
        timestamp = int(now.timestamp())
        headers = {
            "webhook-id": notification.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": webhook.sign(keys, notification.id, timestamp, notification.body),
        }
        try:
            return await webhook.post(
                session,
                target.settings.url,
                headers,
                notification.body,
                authorities=webhook.read_authorities(target.folder),
                proxy=proxy_to(target.settings.url),
                seconds=target.settings.timeout_seconds,
                now=now,
            )
        except Exception:
            # No answer of a target may stop the deliveries to the other targets.
            log.exception("notification %s to %s", notification.id, notification.target)
            return webhook.Answer("The request failed with an unexpected error.", final=False)

    def _note_tried(self, run: str, notification: Notification, enqueue: Callable[[str], None]) -> None:
        """Enqueues a run with results, once each notification of the run has had its first request.

        So the results of one event at several targets need one write of the status.
        """
        known = self._runs.get(run)
        if known is None:
            return
        known.untried.discard((notification.id, notification.target))
        if known.ended and not known.untried:
            enqueue(run)

    def _is_too_old(self, target: _Target, notification: Notification) -> bool:
        return (self._clock() - notification.time).total_seconds() >= target.settings.give_up_seconds

    def _oldest_age(self, target: _Target) -> float:
        """Seconds since the oldest event with a pending notification; 0: none is pending."""
        oldest = min(target.pending.values(), default=None)
        return 0.0 if oldest is None else max(0.0, (self._clock() - oldest).total_seconds())


def _count(target: str, result: str) -> None:
    metrics.NOTIFICATIONS.labels(target=target, result=result).inc()
