"""The handlers of kopf: start, stop, and events of FineTuneJobs. The only module that imports kopf.

kopf starts and stops the operator, handles the signals, and watches FineTuneJobs. Each event enqueues a run.
kopf writes nothing: no finalizer, no annotation, no Event, no peering object.
"""

import asyncio
import itertools
import logging
import signal
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
import kopf
from kubernetes.aio import client
from yarl import URL

from finetune_operator.names import GROUP, KIND, PLURAL, VERSION
from finetune_operator.objects import Manifest
from finetune_operator.runtime.api_client import CONNECT_SECONDS, REQUEST_SECONDS, open_session, path
from finetune_operator.runtime.cluster import typed

PAGE = 10
"""FineTuneJobs in one page of a list. Each may have 1.5 MB, and parsing a page blocks the event loop."""
WATCH_SECONDS = 300
WORKER_IDLE_SECONDS = 0.1
"""kopf keeps a task for each object this long after the object's last event."""
RETRY_SECONDS = (1, 2, 4, 8, 15)
"""Pauses between the tries of one request. After the last try kopf lists the FineTuneJobs of the scope."""
SERVED_RETRY_SECONDS = 2.0
SERVED_LOG_EVERY = 30
"""Tries between two log lines: one line a minute."""
log = logging.getLogger(__name__)


class Operator(Protocol):
    """The interface that the handlers call."""

    ended: asyncio.Future[None]
    """Done when the operator cannot go on; the exception says why."""

    async def start(self) -> client.ApiClient:
        """Waits until this replica leads; returns the client of the API server."""

    async def stop(self) -> None:
        """Ends the work that `start` began, also if `start` failed or was cancelled."""

    def job_seen(self, job: Manifest, *, gone: bool) -> None:
        """Handles an event of a FineTuneJob; `gone`: the FineTuneJob was deleted."""

    def note_watch(self, namespace: str | None, problem: str | None) -> None:
        """Records why the FineTuneJobs of a scope cannot be listed or watched; None: they can."""


async def run(operator: Operator, namespaces: Sequence[str]) -> None:
    """Runs an operator until a signal, until the operator ends, or until kopf fails.

    Raises:
        Exception: the error that ended the operator or kopf; none after a signal.
    """
    # Each failed request is noted at its scope, and logged there with a limit.
    logging.getLogger("kopf._cogs.clients").setLevel(logging.CRITICAL)
    earlier = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=_registry(operator, namespaces),
        settings=_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=operator.ended,
    )
    # The image starts this process with SIGTERM blocked. kopf has installed its handler now, so a pending
    # SIGTERM is delivered to kopf.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    await kopf.run_tasks(tasks, ignored=earlier)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.error_backoffs = RETRY_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.chunk_size = PAGE
    settings.queueing.idle_timeout = WORKER_IDLE_SECONDS
    return settings


def _registry(operator: Operator, namespaces: Sequence[str]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    api: client.ApiClient

    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def start(**_: Any) -> None:
        nonlocal api
        try:
            api = await operator.start()
            await _wait_until_served(api)
        except BaseException:
            # kopf calls no cleanup handler after a startup that failed or was cancelled.
            await operator.stop()
            raise

    @kopf.on.cleanup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def stop(**_: Any) -> None:
        await operator.stop()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        session = open_session(api, _refusals_as_429(operator, api.configuration.host, namespaces))
        return kopf.AiohttpSession(server=api.configuration.host, aiohttp_session=session)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def job_seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.job_seen(typed(KIND, dict(event["object"])), gone=event["type"] == "DELETED")

    return registry


def _refusals_as_429(
    operator: Operator, server: str, namespaces: Sequence[str]
) -> aiohttp.ClientMiddlewareType:
    """Changes each refusal to 429 Too Many Requests, and records refused lists and watches at their scope.

    429 is the only refusal that never ends a watch of kopf: after the last try of a request, the watch starts
    again with a list. Any other refusal (403 in a namespace without a Role, 404 without the
    CustomResourceDefinition, 410) ends kopf, and with kopf the work on all other namespaces.
    """
    scopes = {URL(server + path(KIND, namespace)).path: namespace for namespace in namespaces or (None,)}

    async def send(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await handler(request)
        refused = response.status >= HTTPStatus.BAD_REQUEST
        if request.url.path in scopes:
            namespace = scopes[request.url.path]
            verb = "watch" if "watch" in request.url.query else "list"
            where = f" in namespace {namespace}" if namespace else ""
            problem = f"{verb} {PLURAL}{where}: HTTP status {response.status} {response.reason}"
            operator.note_watch(namespace, problem if refused else None)
        if refused:
            response.status = HTTPStatus.TOO_MANY_REQUESTS
        return response

    return send


async def _wait_until_served(api: client.ApiClient) -> None:
    """Waits until the API server serves FineTuneJobs: kopf reads the served resources only once."""
    async with open_session(api) as session:
        for attempt in itertools.count():
            groups = await _read(session, f"{api.configuration.host}/apis", "groups")
            resources = await _read(session, f"{api.configuration.host}/apis/{GROUP}/{VERSION}", "resources")
            if GROUP in groups and PLURAL in resources:
                return
            if attempt % SERVED_LOG_EVERY == 0:
                log.warning(
                    "the API server does not serve %s.%s, or does not say so at /apis; trying again",
                    PLURAL,
                    GROUP,
                )
            await asyncio.sleep(SERVED_RETRY_SECONDS)


async def _read(session: aiohttp.ClientSession, url: str, what: str) -> set[str]:
    """The groups or resources that the API server serves; empty if the request fails."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
    try:
        async with session.get(url, timeout=timeout) as response:
            answer = await response.json() if response.status == HTTPStatus.OK else {}
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return set()
    return {item["name"] for item in answer.get(what, ())}
