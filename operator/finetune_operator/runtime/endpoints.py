"""The HTTP endpoints of the operator: /metrics on one port, /healthz and /readyz on another."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@asynccontextmanager
async def serve(
    registry: CollectorRegistry,
    metrics_port: int,
    health_port: int,
    problem: Callable[[], str | None],
    *,
    tls: ssl.SSLContext | None = None,
    decide: Callable[[str], Awaitable[HTTPStatus]] | None = None,
) -> AsyncIterator[None]:
    """Serves both ports until the context ends.

    Args:
        registry: the metrics of /metrics.
        metrics_port: port of /metrics.
        health_port: port of /healthz and /readyz.
        problem: returns why this process should be restarted; None: the process is healthy.
        tls: serves /metrics over TLS; None: over plain HTTP.
        decide: decides about the header Authorization of a request for /metrics; None: all requests may read.
    """

    async def metrics(request: web.Request) -> web.Response:
        decision = await decide(request.headers.get("Authorization", "")) if decide else HTTPStatus.OK
        if decision is not HTTPStatus.OK:
            return web.Response(status=decision, text=f"{decision.phrase}\n")
        # With many jobs this takes long.
        body = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        wrong = problem()
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    async def ready(_: web.Request) -> web.Response:
        # Only a rollout reads the readiness: a standby that waits for the Lease is ready.
        return web.Response(text="ok\n")

    sites = (
        (metrics_port, tls, [web.get("/metrics", metrics)]),
        (health_port, None, [web.get("/healthz", health), web.get("/readyz", ready)]),
    )
    runners = []
    try:
        for port, context, routes in sites:
            app = web.Application(client_max_size=1024)
            app.add_routes(routes)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, port=port, ssl_context=context).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
