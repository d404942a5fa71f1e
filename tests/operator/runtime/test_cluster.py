"""The page size of lists follows the size of the objects. Real HTTP."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from kubernetes.aio import client

from finetune_operator.names import KIND
from finetune_operator.runtime import cluster as module
from finetune_operator.runtime.api_client import Transport
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.runtime.server_clock import ServerClock


class Server:
    """Lists FineTuneJobs with annotations of so many bytes each."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.limits: list[int] = []
        """Of each request."""

    async def serve(self, request: web.Request) -> web.Response:
        begin, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        self.limits.append(limit)
        end = begin + limit
        items = [
            {"metadata": {"name": f"job-{number}", "annotations": {"large": "x" * self.sizes[number]}}}
            for number in range(begin, min(end, len(self.sizes)))
        ]
        more = {"continue": str(end)} if end < len(self.sizes) else {}
        return web.json_response({"metadata": {"resourceVersion": "7"} | more, "items": items})


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[Cluster]:
    app = web.Application()
    app.router.add_get("/{path:.*}", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    yield Cluster(Transport(api, lambda: 60.0, ServerClock()))
    await api.close()  # type: ignore[no-untyped-call]
    await runner.cleanup()


async def names(cluster: Cluster) -> list[str]:
    found, version = await cluster.list(KIND, "demo")
    assert version == "7"
    assert all("annotations" not in job["metadata"] for job in found)
    return [job["metadata"]["name"] for job in found]


async def test_small_objects_come_in_large_pages(server: Server, cluster: Cluster) -> None:
    server.sizes = [10] * 1001

    assert await names(cluster) == [f"job-{number}" for number in range(1001)]
    assert server.limits == [500, 500, 500]


async def test_large_objects_come_in_small_pages_also_in_the_next_list(
    server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 200_000)
    server.sizes = [3_000] * 120

    assert await names(cluster) == [f"job-{number}" for number in range(120)]
    assert server.limits == [500, 250, 125, 62, 32, 32]

    server.limits.clear()
    assert len(await names(cluster)) == 120
    assert server.limits == [32, 32, 32, 32]

    server.limits.clear()
    server.sizes = [10] * 1000
    assert len(await names(cluster)) == 1000
    assert server.limits == [32, 64, 128, 256, 500, 500]


async def test_an_object_larger_than_a_page_comes_alone(
    server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 10_000)
    server.sizes = [10, 1_000_000, 10]

    assert await names(cluster) == ["job-0", "job-1", "job-2"]
