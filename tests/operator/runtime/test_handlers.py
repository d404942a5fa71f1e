"""kopf in the event loop of the test, with a small API server."""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from finetune_operator.objects import Manifest
from finetune_operator.runtime import handlers

DEMO = "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs"
OTHER = DEMO.replace("demo", "other")
SECONDS = 20.0


def a_job(name: str, version: int) -> Manifest:
    meta: Manifest = {
        "name": name,
        "namespace": "demo",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
    }
    meta["annotations"] = {"large": "x" * 200_000}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta}


class Server:
    """One FineTuneJob is listed in namespace demo; `news` comes by the watch of demo."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[Manifest | None] = asyncio.Queue()
        self.tokens: set[str | None] = set()
        self.written: list[str] = []
        self.refusals: dict[str, list[int]] = {}
        """Statuses that answer the next requests of a path, from the last; "watch": of the watch of demo."""
        self.watches = 0
        self.limits: set[str | None] = set()
        """How many FineTuneJobs were asked for at once."""
        self.lists = 0
        self.port = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization"))
        if request.method != "GET":
            self.written.append(f"{request.method} {request.path}")
        version = {"version": "v1alpha1", "groupVersion": "finetune.dev/v1alpha1"}
        both = {"namespaced": True, "verbs": ["list", "watch", "patch"]}
        namespaces = {"name": "namespaces", "singularName": "namespace", "kind": "Namespace"}
        jobs = {"name": "finetunejobs", "singularName": "finetunejob", "kind": "FineTuneJob"}
        group = {"name": "finetune.dev", "versions": [version], "preferredVersion": version}
        answers: dict[str, Any] = {
            "/api": {"versions": ["v1"]},
            "/api/v1": {"resources": [namespaces | both]},
            "/apis": {"groups": [group]},
            "/apis/finetune.dev/v1alpha1": {"resources": [jobs | both]},
            DEMO: {
                "metadata": {"resourceVersion": "5"},
                "items": [a_job("listed", 5)],
            },
        }
        watch = "watch" in request.query
        if refusals := self.refusals.get("watch" if watch else request.path):
            return web.json_response({"kind": "Status", "message": "no"}, status=refusals.pop())
        if watch:
            return await self._watch(request)
        if request.path.endswith("/finetunejobs"):
            self.limits.add(request.query.get("limit"))
        self.lists += request.path == DEMO
        if request.path not in answers:
            return web.json_response({}, status=404)
        return web.json_response(answers[request.path])

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        stream = web.StreamResponse()
        await stream.prepare(request)
        while (event := await self.news.get()) is not None:
            await stream.write(json.dumps(event).encode() + b"\n")
        return stream


class Replica:
    """An operator that leads at once and only listens."""

    def __init__(self, server: Server) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seen: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.notes: list[tuple[str | None, str | None]] = []
        self.lease = asyncio.Event()
        self.lease.set()
        self.waits = asyncio.Event()
        self.calls: list[str] = []
        self.tokens = iter(f"token-{number}" for number in range(1000))
        self.api = client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.port}"))
        self.api.configuration.refresh_api_key_hook = self.rotate

    def rotate(self, configuration: client.Configuration) -> None:
        configuration.api_key["BearerToken"] = f"Bearer {next(self.tokens)}"

    async def start(self) -> client.ApiClient:
        self.calls.append("start")
        self.waits.set()
        await self.lease.wait()
        return self.api

    async def stop(self) -> None:
        self.calls.append("stop")
        if not self.ended.done():
            self.ended.set_result(None)

    def job_seen(self, job: Manifest, *, gone: bool) -> None:
        self.seen.put_nowait((job["metadata"]["name"], gone))

    def note_watch(self, namespace: str | None, problem: str | None) -> None:
        self.notes.append((namespace, problem))

    async def told(self) -> tuple[str, bool]:
        return await asyncio.wait_for(self.seen.get(), SECONDS)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries take no time; the level that a run gives to a logger of kopf is taken back."""
    monkeypatch.setattr(handlers, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(handlers, "SERVED_RETRY_SECONDS", 0.01)
    logger = logging.getLogger("kopf._cogs.clients")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
async def replica(server: Server) -> AsyncIterator[Replica]:
    made = Replica(server)
    yield made
    await made.api.close()  # type: ignore[no-untyped-call]


@contextlib.asynccontextmanager
async def running(replica: Replica, *namespaces: str) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(handlers.run(replica, namespaces or ("demo",)))
    try:
        yield task
    finally:
        if not replica.ended.done():
            replica.ended.set_result(None)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(task, SECONDS)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions have no event
            await asyncio.sleep(0.01)


async def test_listed_changed_and_deleted_jobs_are_reported(
    server: Server, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(replica) as task:
        assert await replica.told() == ("listed", False)
        await server.news.put({"type": "ADDED", "object": a_job("new", 6)})
        assert await replica.told() == ("new", False)
        await server.news.put({"type": "DELETED", "object": a_job("new", 7)})
        assert await replica.told() == ("new", True)
        assert not task.done()
    assert server.limits == {"10"}
    assert server.written == []  # no annotations, no finalizers, no events
    assert replica.calls == ["start", "stop"]
    assert [r.getMessage() for r in caplog.records if r.name.startswith("kopf")] == []


async def test_each_request_carries_the_newest_token(server: Server, replica: Replica) -> None:
    async with running(replica):
        await replica.told()
        await until(lambda: server.watches == 1)
    assert {f"Bearer token-{number}" for number in range(4)} <= server.tokens
    assert None not in server.tokens


async def test_a_watch_that_ends_starts_again(server: Server, replica: Replica) -> None:
    async with running(replica):
        await replica.told()
        await server.news.put(None)
        await server.news.put({"type": "ADDED", "object": a_job("after", 6)})
        assert await replica.told() == ("after", False)
    assert server.watches == 2


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
async def test_a_refused_scope_is_recorded_and_does_not_affect_the_others(
    server: Server, replica: Replica, status: int
) -> None:
    server.refusals[OTHER] = [status] * 1000
    async with running(replica, "other", "demo") as task:
        assert await replica.told() == ("listed", False)
        # More than the retries of one request.
        await until(lambda: len(server.refusals[OTHER]) < 990)
        await server.news.put({"type": "ADDED", "object": a_job("new", 6)})
        assert await replica.told() == ("new", False)
        assert not task.done()
        notes = {problem for namespace, problem in replica.notes if namespace == "other"}
        assert len(notes) == 1
        assert f"list finetunejobs in namespace other: HTTP status {status}" in str(notes)
        assert {problem for namespace, problem in replica.notes if namespace == "demo"} == {None}


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500])
async def test_a_refused_watch_starts_again_with_a_list(
    server: Server, replica: Replica, status: int
) -> None:
    server.refusals["watch"] = [status] * 3
    async with running(replica):
        await replica.told()
        await server.news.put({"type": "ADDED", "object": a_job("new", 6)})
        while await replica.told() != ("new", False):
            pass
    assert server.lists == 2
    said = f"watch finetunejobs in namespace demo: HTTP status {status} "
    assert any(namespace == "demo" and str(problem).startswith(said) for namespace, problem in replica.notes)
    assert replica.notes[-1] == ("demo", None)


@pytest.mark.parametrize("path", ["/apis", "/apis/finetune.dev/v1alpha1"])
@pytest.mark.parametrize("status", [403, 404, 503])
async def test_startup_waits_until_the_api_server_serves_jobs(
    server: Server, replica: Replica, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    server.refusals[path] = [status] * 5
    async with running(replica):
        assert await replica.told() == ("listed", False)
    assert caplog.text.count("does not serve finetunejobs.finetune.dev") == 1


async def test_an_error_of_the_operator_ends_kopf(replica: Replica) -> None:
    async with running(replica) as task:
        await replica.told()
        replica.ended.set_exception(ValueError("a bug"))
        with pytest.raises(ValueError, match="a bug"):
            await asyncio.wait_for(task, SECONDS)
    assert replica.calls == ["start", "stop"]


async def test_an_error_at_startup_ends_kopf(replica: Replica) -> None:
    async def start() -> client.ApiClient:
        raise ValueError("no kubeconfig")

    replica.start = start  # type: ignore[method-assign]
    async with running(replica) as task:
        with pytest.raises(Exception, match="handlers failed") as caught:
            await asyncio.wait_for(task, SECONDS)
    assert "no kubeconfig" in str(caught.value.__cause__)
    assert replica.calls == ["stop"]


async def stops_at_once(task: Awaitable[None]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 4)


async def test_sigterm_ends_the_wait_for_the_lease_at_once(replica: Replica) -> None:
    replica.lease.clear()
    async with running(replica) as task:
        await asyncio.wait_for(replica.waits.wait(), SECONDS)
        await stops_at_once(task)
    assert replica.calls == ["start", "stop"]
    assert replica.seen.empty()


async def test_sigterm_ends_the_watches_at_once(server: Server, replica: Replica) -> None:
    async with running(replica) as task:
        await replica.told()
        await until(lambda: server.watches == 1)
        await stops_at_once(task)
    assert replica.calls == ["start", "stop"]
