"""The only file that knows kopf: it watches FineTuneJobs, and each event wakes a run.

kopf runs in a thread of its own: when it stops, it cancels every task of its event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import kopf

from finetune_operator.names import GROUP, KIND, PLURAL, VERSION
from finetune_operator.objects import Manifest
from finetune_operator.runtime.api_client import CONNECT_SECONDS, REQUEST_SECONDS, Access
from finetune_operator.runtime.cluster import typed
from finetune_operator.runtime.workqueue import backoff

LIST_PAGE = 10
"""FineTuneJobs in one page of kopf's list. Each may have 1.5 MB, and no thread runs while one is parsed."""
SERVER_SECONDS = 300
WORKER_IDLE_SECONDS = 0.1
"""kopf keeps a task for each object so long after its last event: in a burst, one for each job."""
STOP_LOOK_SECONDS = 0.5
log = logging.getLogger(__name__)


def watch_jobs(
    namespaces: Iterable[str],
    access: Callable[[], Access],
    seen: Callable[[Manifest, bool], None],
    stop: threading.Event,
) -> threading.Thread:
    """Starts to watch FineTuneJobs until `stop` is set.

    Args:
        namespaces: where; empty: everywhere.
        access: how to reach the API server, asked again whenever that is refused.
        seen: called in kopf's thread with a FineTuneJob and whether it is gone.
        stop: set to end the thread.
    """
    registry = _registry(access, seen)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_tell)

    def keep_watching() -> None:
        failures = 0
        while not stop.is_set():
            try:
                asyncio.run(_watch(registry, tuple(namespaces), stop))
            except Exception as error:  # noqa: BLE001 - whatever ended kopf, FineTuneJobs must be watched
                log.warning("the watch of FineTuneJobs ended (%r) and is begun again", error)
            failures += 1
            stop.wait(backoff(failures))

    thread = threading.Thread(target=keep_watching, name="kopf", daemon=True)
    thread.start()
    return thread


def _tell(record: logging.LogRecord) -> bool:
    """What kopf says, as what it is here: a broken watch is begun again, which is worth a warning at most."""
    if not record.name.startswith("kopf"):
        return True
    if record.levelno > logging.WARNING:
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.exc_info = None
    # It says that it takes no signals in a thread: __main__ takes them.
    return "signals are ignored" not in record.getMessage()


async def _watch(registry: kopf.OperatorRegistry, namespaces: tuple[str, ...], stop: threading.Event) -> None:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.chunk_size = LIST_PAGE
    settings.queueing.idle_timeout = WORKER_IDLE_SECONDS
    stopping = asyncio.Event()
    asked = asyncio.create_task(_pass_on(stop, stopping), name="stop")
    try:
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stopping,
        )
    finally:
        asked.cancel()


async def _pass_on(stop: threading.Event, stopping: asyncio.Event) -> None:
    """Tells kopf's loop of the stop.

    Given the thread's event itself, kopf waits for it in a thread of the loop's executor; and a loop whose
    kopf has failed does not end before its executor, so it would never be begun again.
    """
    while not stop.is_set():  # noqa: ASYNC110 - another thread's event cannot be awaited
        await asyncio.sleep(STOP_LOOK_SECONDS)
    stopping.set()


def _registry(access: Callable[[], Access], seen: Callable[[Manifest, bool], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        reached = access()
        return kopf.ConnectionInfo(
            server=reached.server,
            ca_path=reached.ca_file,
            token=reached.token,
            scheme="Bearer" if reached.token else None,
            certificate_path=reached.certificate_file,
            private_key_path=reached.key_file,
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def job_seen(event: kopf.RawEvent, **_: Any) -> None:
        seen(typed(KIND, dict(event["object"])), event["type"] == "DELETED")

    return registry
