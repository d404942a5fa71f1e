"""The two ports of the operator, over real HTTP."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from devcluster.controlplane import free_ports
from finetune_operator.runtime.endpoints import serve


@asynccontextmanager
async def served(*ailments: str | None) -> AsyncIterator[tuple[int, int]]:
    """Ports of metrics and health; each request of the health takes the next problem."""
    registry, left = CollectorRegistry(), list(ailments)
    Gauge("jobs", "How many.", registry=registry).set(3)
    metrics_port, health_port = free_ports(2)
    async with serve(registry, metrics_port, health_port, lambda: left.pop(0)):
        yield metrics_port, health_port


async def ask(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_metrics_and_health_have_separate_ports() -> None:
    async with served(None) as (metrics, health):
        status, text = await ask(metrics, "/metrics")
        assert (status, "jobs 3.0" in text) == (200, True)
        assert await ask(health, "/healthz") == (200, "ok\n")
        assert (await ask(health, "/metrics"))[0] == 404
        assert (await ask(metrics, "/healthz"))[0] == 404


async def test_a_problem_fails_the_liveness_and_not_the_readiness() -> None:
    async with served("the last resync was completed 1300 s ago", None) as (_, health):
        assert await ask(health, "/readyz") == (200, "ok\n")
        assert await ask(health, "/healthz") == (503, "the last resync was completed 1300 s ago\n")
        assert await ask(health, "/healthz") == (200, "ok\n")


async def test_both_ports_are_closed_also_after_an_error() -> None:
    ports = (0, 0)
    with pytest.raises(ValueError, match="the work failed"):
        async with served() as ports:
            raise ValueError("the work failed")
    for port in ports:
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(port, "/metrics")


async def test_a_port_in_use_is_reported_and_the_other_port_is_closed() -> None:
    metrics_port, health_port = free_ports(2)
    with socket.create_server(("", health_port)), pytest.raises(OSError, match=str(health_port)):
        async with serve(CollectorRegistry(), metrics_port, health_port, lambda: None):
            raise AssertionError("it serves on a port that is taken")
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(metrics_port, "/metrics")


async def test_a_long_scrape_does_not_block_the_event_loop() -> None:
    registry, may_end = CollectorRegistry(), threading.Event()
    Gauge("slow", "Takes its time.", registry=registry).set_function(lambda: float(may_end.wait(5)))
    metrics_port, health_port = free_ports(2)
    async with serve(registry, metrics_port, health_port, lambda: None):
        scrape = asyncio.create_task(ask(metrics_port, "/metrics"))
        await asyncio.sleep(0)
        while not scrape.done():
            assert await ask(health_port, "/healthz") == (200, "ok\n")
            may_end.set()
        assert "slow 1.0" in (await scrape)[1]
