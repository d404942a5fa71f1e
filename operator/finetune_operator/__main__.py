"""`python -m finetune_operator [--settings FILE]`: runs one replica of the operator until SIGTERM."""

import argparse
import asyncio
import logging
import os
import platform
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uvloop
from kubernetes.aio import client
from prometheus_client import REGISTRY
from pydantic import ValidationError

from finetune_operator.objects import Manifest
from finetune_operator.runtime import handlers, list_and_watch, logs, metrics, webhook
from finetune_operator.runtime.api_client import LeaseLostError, Transport, connect, token_lifetime
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.runtime.endpoints import serve
from finetune_operator.runtime.event_loop import freeze_startup_objects, measure_lag
from finetune_operator.runtime.leader_election import Leadership
from finetune_operator.runtime.notifier import Notifier
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.scopes import Scopes
from finetune_operator.runtime.scrape_access import ScrapeAccess
from finetune_operator.runtime.server_clock import ServerClock
from finetune_operator.runtime.serving_certificate import ServingCertificate
from finetune_operator.runtime.trainer_poller import Poller
from finetune_operator.runtime.workqueue import WorkQueue
from finetune_operator.settings import SETTINGS_FILE, Settings

LEASE_LOST = 3
"""Exit code of a leader that lost the Lease."""
UNHEALTHY_RESYNCS = 4
"""A leader without an answer to any list for this many resync intervals is unhealthy."""
STOP_SECONDS = 5.0
UNHEALTHY_LEASE_SECONDS = 60.0
log = logging.getLogger("finetune_operator")


@dataclass
class Health:
    """The health of this process. The health of a single scope is a metric and does not count here."""

    settings: Settings
    leadership: Leadership
    scopes: Scopes
    leads_since: float | None = None

    def problem(self) -> str | None:
        """Why this process should be restarted; None: the process is healthy.

        A refusal counts as an answer: a restart restores no namespace and no permission. A leader without an
        answer for any scope, although the API server answers the renewals of the Lease, is unhealthy.
        """
        now = time.monotonic()
        if (silence := now - self.leadership.tried_at) > UNHEALTHY_LEASE_SECONDS:
            return f"the lease was last looked at {silence:.0f} s ago"
        if self.leads_since is None:
            return None
        unlisted = now - max(self.leads_since, self.scopes.answered_at())
        if unlisted > UNHEALTHY_RESYNCS * self.settings.resync_seconds:
            return f"no list of any namespace was answered for {unlisted:.0f} s"
        return None


class Operator:
    """One replica of the operator. kopf starts and stops the replica (`handlers.run`)."""

    def __init__(self, settings: Settings, notification_keys: Path) -> None:
        self._notification_keys = notification_keys
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._cache = Cache()
        self._scopes = Scopes(settings.namespaces)
        self._queue = WorkQueue(self._reconcile, settings.workers)
        self._poller = Poller(settings.poll_seconds, settings.status_seconds)
        self._notifier: Notifier
        self._cache.model_dependencies.enqueue = self._enqueue
        self._reconciler: Reconciler
        self._opened = AsyncExitStack()

    def _pods_of(self, run: str) -> tuple[Manifest, ...]:
        return self._cache.children(run, "Pod")

    async def start(self) -> client.ApiClient:
        """Connects, waits for the Lease, then starts the background tasks."""
        settings = self._settings
        api = await connect()
        # The election writes without holding the Lease; every other write requires the Lease.
        clock = ServerClock()
        election = Cluster(Transport(api, lambda: 0.0, clock))
        self._opened.push_async_callback(election.close)
        leadership = Leadership(election, settings.operator_namespace, settings.lease)
        leadership.tried_at = time.monotonic()
        health = Health(settings, leadership, self._scopes)
        cluster = Cluster(Transport(api, leadership.seconds_left, clock))
        self._notifier = Notifier(settings.notifications.targets, clock.now, self._notification_keys)
        self._reconciler = Reconciler(self._cache, cluster, settings, self._poller, self._notifier, clock.now)
        REGISTRY.register(
            metrics.JobCollector(
                self._cache.jobs,
                self._pods_of,
                self._poller.newest,
                clock.now,
                settings.metrics,
                self._cache.node_failures.all,
            )
        )
        metrics.BUILD.info({"version": version("finetune-operator"), "python": platform.python_version()})
        metrics.TOKEN_START.set_function(lambda: token_lifetime()[0])
        metrics.TOKEN_END.set_function(lambda: token_lifetime()[1])
        certificate = ServingCertificate() if settings.metrics.tls else None
        access = ScrapeAccess(election.review) if settings.metrics.authentication else None
        await self._opened.enter_async_context(
            serve(
                REGISTRY,
                settings.metrics_port,
                settings.health_port,
                health.problem,
                tls=certificate.context if certificate else None,
                decide=access.decide if access else None,
            )
        )
        if certificate:
            fresh = asyncio.create_task(certificate.keep_fresh(), name="certificate")
            self._opened.callback(fresh.cancel)
        log.info("waiting for the lease")
        await leadership.acquire()
        health.leads_since = time.monotonic()
        work = asyncio.create_task(self._work(leadership, cluster), name="work")
        work.add_done_callback(self._end)
        self._opened.push_async_callback(_stop_work, work, leadership)
        return api

    async def stop(self) -> None:
        """Stops the background tasks, releases the Lease and closes all connections."""
        await self._opened.aclose()
        log.info("stopped")
        if not self.ended.done():
            self.ended.set_result(None)  # kopf has a task that waits for this

    def job_seen(self, job: Manifest, *, gone: bool) -> None:
        """Puts a FineTuneJob into the cache and enqueues its run as user-triggered."""
        if run := self._cache.remove(job) if gone else self._cache.put(job):
            self._queue.enqueue(run, job["metadata"]["namespace"], user_triggered=True)

    def note_watch(self, namespace: str | None, problem: str | None) -> None:
        """Records why the FineTuneJobs of a scope cannot be listed or watched; None: they can."""
        self._scopes.of(namespace).note("watch FineTuneJob", problem)

    async def _work(self, leadership: Leadership, cluster: Cluster) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_keep(leadership), name="lease")
            group.create_task(measure_lag(), name="event loop lag")
            group.create_task(self._queue.run(), name="queue")
            group.create_task(self._poller.run(self._enqueue), name="poll")
            group.create_task(self._notifier.run(self._enqueue), name="notify")
            for scope in self._scopes:
                group.create_task(
                    list_and_watch.keep(
                        cluster, self._cache, scope, self._enqueue, self._settings.resync_seconds
                    ),
                    name=f"{scope}",
                )

    async def _reconcile(self, run: str) -> float | None:
        """Reconciles a run, unless its scope is not listed: `list_and_watch.keep` enqueues it again then."""
        namespace = self._cache.namespace(run)
        if namespace is None:
            return await self._reconciler.reconcile(run)
        scope = self._scopes.of(namespace)
        if not scope.listed:
            return None
        with scope.reconciling():
            return await self._reconciler.reconcile(run)

    def _enqueue(self, run: str) -> None:
        self._queue.enqueue(run, self._cache.namespace(run) or "")

    def _end(self, work: asyncio.Task[None]) -> None:
        """Ends the operator with the error of its background tasks."""
        if not work.cancelled() and not self.ended.done() and (error := work.exception()):
            self.ended.set_exception(error)


async def _stop_work(work: asyncio.Task[None], leadership: Leadership) -> None:
    work.cancel()
    await asyncio.wait({work}, timeout=STOP_SECONDS)
    if work.done():  # else a task may still write: the Lease expires by itself
        await leadership.release()


async def _keep(leadership: Leadership) -> None:
    """Keeps the Lease. A lost Lease ends the process at once: no task may go on, not even the cleanup."""
    try:
        await leadership.keep()
    except LeaseLostError as error:
        log.error("%s: this replica stops at once", error)  # noqa: TRY400 - expected, no traceback
        logging.shutdown()
        os._exit(LEASE_LOST)


async def main(settings: Settings, notification_keys: Path = webhook.FOLDER) -> None:
    """Runs one replica until SIGTERM or SIGINT.

    Args:
        settings: the settings of the operator.
        notification_keys: the folder with the signing keys of each notification target.
    """
    await handlers.run(Operator(settings, notification_keys), settings.namespaces)


def run() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="finetune-operator", description=__doc__)
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help="default: %(default)s")
    parser.add_argument(
        "--notification-keys",
        type=Path,
        default=webhook.FOLDER,
        help="folder with a folder of keys for each notification target; default: %(default)s",
    )
    parser.add_argument("--verbose", action="store_true", help="log debug lines too")
    arguments = parser.parse_args()
    logs.set_up(verbose=arguments.verbose)
    try:
        settings = Settings.read(arguments.settings)
    except (OSError, ValidationError) as error:
        log.critical("the settings in %s cannot be used: %s", arguments.settings, error)
        return 2
    freeze_startup_objects()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(settings, arguments.notification_keys))
    except Exception:
        log.critical("the operator cannot go on", exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
