"""`python -m finetune_operator [--settings FILE]`: waits until it leads, then works until SIGTERM."""

import argparse
import asyncio
import logging
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import uvloop
from prometheus_client import REGISTRY
from pydantic import ValidationError

from finetune_operator.objects import Manifest
from finetune_operator.runtime import handlers, logs, metrics
from finetune_operator.runtime.api_client import ApiError, LeaseLostError, Transport, access, connect
from finetune_operator.runtime.cache import CHILD_KINDS, Cache
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.runtime.endpoints import serve
from finetune_operator.runtime.event_loop import measure_lag
from finetune_operator.runtime.leader_election import Leadership
from finetune_operator.runtime.list_and_watch import list_and_watch, resync, scopes
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.server_clock import ServerClock
from finetune_operator.runtime.trainer_poller import Poller
from finetune_operator.runtime.workqueue import WorkQueue, backoff
from finetune_operator.settings import SETTINGS_FILE, Settings

LEASE_LOST = 3
"""Exit code of a leader that lost its lease."""
UNWELL_RESYNCS = 4
"""So many missed resyncs, and the process is better started again."""
STOP_SECONDS = 5.0
UNWELL_LEASE_SECONDS = 60.0
log = logging.getLogger("finetune_operator")


@dataclass
class Pulse:
    """When what last went well, by time.monotonic()."""

    settings: Settings
    leadership: Leadership
    resynced_at: float | None = None
    leads_since: float | None = None
    stopping: bool = field(default=False)

    def ailment(self) -> str | None:
        """Why this process should be started again; None while it is well."""
        now = time.monotonic()
        if self.stopping:
            return None
        if now - self.leadership.looked_at > UNWELL_LEASE_SECONDS:
            return f"the lease was last looked at {now - self.leadership.looked_at:.0f} s ago"
        since = self.resynced_at or self.leads_since
        if since is not None and now - since > UNWELL_RESYNCS * self.settings.resync_seconds:
            return f"the last resync was completed {now - since:.0f} s ago"
        return None


async def main(settings: Settings) -> None:
    """Runs one replica until SIGTERM or SIGINT.

    Raises:
        LeaseLostError: another replica may lead.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The image starts this with SIGTERM blocked: one that came meanwhile counts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    api = await connect()
    # The election writes before it leads; everything else asks it first.
    clock = ServerClock()
    electing = Cluster(Transport(api, lambda: 0.0, clock))
    leadership = Leadership(electing, settings.operator_namespace, settings.lease)
    leadership.looked_at = time.monotonic()
    pulse = Pulse(settings, leadership)
    cluster = Cluster(Transport(api, leadership.seconds_left, clock))
    cache = Cache()
    REGISTRY.register(metrics.JobCollector(cache.jobs))
    metrics.BUILD.info({"version": version("finetune-operator"), "python": platform.python_version()})
    async with serve(REGISTRY, settings.metrics_port, settings.health_port, pulse.ailment):
        lag = asyncio.create_task(measure_lag(), name="event loop lag")
        work = asyncio.create_task(lead(settings, leadership, pulse, cluster, cache, clock), name="lead")
        try:
            stopped = asyncio.create_task(stop.wait(), name="stop")
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            pulse.stopping = True
            stopped.cancel()
            work.cancel()
            await asyncio.wait({work}, timeout=STOP_SECONDS)
            if work.done() and not work.cancelled():
                work.result()
            log.info("stopped")
        finally:
            lag.cancel()
            if work.done():  # else something may still write: the lease runs out by itself
                await leadership.release()
            await cluster.close()


async def lead(
    settings: Settings,
    leadership: Leadership,
    pulse: Pulse,
    cluster: Cluster,
    cache: Cache,
    clock: ServerClock,
) -> None:
    """Waits for the lease, then works until cancelled."""
    log.info("waiting for the lease")
    await leadership.acquire()
    pulse.leads_since = time.monotonic()
    poller = Poller(settings.poll_seconds, settings.status_seconds)
    reconciler = Reconciler(cache, cluster, settings, poller, clock.now)
    queue = WorkQueue(reconciler.reconcile, settings.workers)
    cache.model_dependencies.enqueue = queue.enqueue
    loop = asyncio.get_running_loop()

    def take_in(job: Manifest, gone: bool) -> None:
        if run := cache.remove(job) if gone else cache.put(job):
            queue.enqueue(run, user_triggered=True)

    def seen(job: Manifest, gone: bool) -> None:
        loop.call_soon_threadsafe(take_in, job, gone)

    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(_keep(leadership), name="lease")
        await first_resync(cluster, cache, settings)
        pulse.resynced_at = time.monotonic()
        log.info("%d FineTuneJobs found", sum(1 for _ in cache.jobs()))
        for run in cache.runs():
            queue.enqueue(run)
        for namespace in scopes(settings.namespaces):
            for kind in CHILD_KINDS:
                group.create_task(
                    list_and_watch(cluster, cache, kind, namespace, queue.enqueue), name=f"watch {kind}"
                )
        group.create_task(queue.run(), name="work")
        group.create_task(poller.run(queue.enqueue), name="poll")
        group.create_task(keep_resyncing(cluster, cache, settings, queue, pulse), name="resync")
        stop_kopf = threading.Event()
        handlers.watch_jobs(settings.namespaces, partial(access, cluster.api), seen, stop_kopf)
        try:
            await keeping
        finally:
            stop_kopf.set()


async def _keep(leadership: Leadership) -> None:
    """Ends the process the moment the lease is lost: nothing of it may go on, not even an orderly end."""
    try:
        await leadership.keep()
    except LeaseLostError as error:
        log.error("%s: this replica stops at once", error)  # noqa: TRY400 - expected, no traceback
        logging.shutdown()
        os._exit(LEASE_LOST)


async def first_resync(cluster: Cluster, cache: Cache, settings: Settings) -> None:
    """Lists everything once, however long it takes: nothing is decided before."""
    failures = 0
    while True:
        try:
            await resync(cluster, cache, settings.namespaces)
        except ApiError as error:
            failures += 1
            log.warning("%s; nothing is done before everything could be listed once", error)
            await asyncio.sleep(min(15.0, backoff(failures)))
        else:
            return


async def keep_resyncing(
    cluster: Cluster, cache: Cache, settings: Settings, queue: WorkQueue, pulse: Pulse
) -> None:
    """Lists everything again every few minutes and wakes every run: what was missed is late, never lost."""
    failures = 0
    while True:
        await asyncio.sleep(backoff(failures) if failures else settings.resync_seconds)
        try:
            await resync(cluster, cache, settings.namespaces)
            pulse.resynced_at = time.monotonic()
            failures = 0
        except ApiError as error:
            failures += 1
            log.warning("%s; the resync is tried again", error)
        for run in cache.runs():
            queue.enqueue(run)


def run() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="finetune-operator", description=__doc__)
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help="default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="log debug lines too")
    arguments = parser.parse_args()
    logs.set_up(verbose=arguments.verbose)
    try:
        settings = Settings.read(arguments.settings)
    except (OSError, ValidationError) as error:
        log.critical("the settings in %s cannot be used: %s", arguments.settings, error)
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(settings))
    except Exception:
        log.critical("the operator cannot go on", exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
