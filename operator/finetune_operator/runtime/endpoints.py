"""The HTTP endpoints of the operator: /metrics on one port, /healthz and /readyz on another."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@asynccontextmanager
async def serve(
    registry: CollectorRegistry,
    metrics_port: int,
    health_port: int,
    problem: Callable[[], str | None],
) -> AsyncIterator[None]:
    """Serves both ports until the context ends.

    Args:
        registry: the metrics of /metrics.
        metrics_port: port of /metrics.
        health_port: port of /healthz and /readyz.
        problem: returns why this process should be restarted; None: the process is healthy.
    """

    async def metrics(_: web.Request) -> web.Response:
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
        (metrics_port, [web.get("/metrics", metrics)]),
        (health_port, [web.get("/healthz", health), web.get("/readyz", ready)]),
    )
    runners = []
    try:
        for port, routes in sites:
            app = web.Application(client_max_size=1024)
            app.add_routes(routes)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, port=port).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
