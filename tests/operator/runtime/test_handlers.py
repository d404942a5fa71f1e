"""kopf as it is used here: in a thread of its own, against an API server that speaks just enough."""

import asyncio
import json
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.objects import Manifest
from finetune_operator.runtime import handlers
from finetune_operator.runtime.api_client import Access

Seen = queue.Queue[tuple[str, bool]]
SECONDS = 30.0


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
    """One FineTuneJob is listed; what is put into `news` comes by the watch."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[Manifest | None] = asyncio.Queue()
        self.tokens: set[str | None] = set()
        self.written: list[str] = []
        self.refusals: list[int] = []
        """How the first questions are answered instead."""
        self.watches = 0
        self.limits: set[str | None] = set()
        """How many FineTuneJobs were asked for at once."""
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
            "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs": {
                "metadata": {"resourceVersion": "5"},
                "items": [a_job("listed", 5)],
            },
        }
        if request.path == "/apis" and self.refusals:
            return web.json_response({}, status=self.refusals.pop())
        if "watch" in request.query:
            return await self._watch(request)
        if request.path.endswith("/finetunejobs"):
            self.limits.add(request.query.get("limit"))
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
def plain_handlers() -> Iterator[None]:
    """Filters that are put onto the test run's own log handlers are taken off again."""
    yield
    for handler in logging.getLogger().handlers:
        handler.removeFilter(handlers._tell)


@pytest.fixture
async def watch(server: Server) -> AsyncIterator[Callable[..., tuple[Seen, threading.Thread]]]:
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def begin() -> tuple[Seen, threading.Thread]:
        seen: Seen = queue.Queue()

        def access() -> Access:
            return Access(f"http://127.0.0.1:{server.port}", None, "the-token", None, None)

        def take(job: Manifest, gone: bool) -> None:
            assert "annotations" not in job["metadata"]
            seen.put((job["metadata"]["name"], gone))

        threads.append(handlers.watch_jobs(["demo"], access, take, stop))
        return seen, threads[-1]

    yield begin
    stop.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, SECONDS)
        assert not thread.is_alive()


async def told(seen: Seen) -> tuple[str, bool]:
    return await asyncio.to_thread(seen.get, timeout=SECONDS)


async def test_jobs_are_seen_when_listed_when_changed_and_when_gone(
    server: Server, watch: Callable[..., tuple[Seen, threading.Thread]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen, thread = watch()
    assert await told(seen) == ("listed", False)
    await server.news.put({"type": "ADDED", "object": a_job("new", 6)})
    assert await told(seen) == ("new", False)
    await server.news.put({"type": "DELETED", "object": a_job("new", 7)})
    assert await told(seen) == ("new", True)

    assert server.tokens == {"Bearer the-token"}
    assert server.limits == {"10"}
    assert server.written == []  # no annotations, no finalizers, no events
    assert thread.is_alive()
    said = [
        r.getMessage() for r in caplog.records if r.name.startswith("kopf") and r.levelno >= logging.WARNING
    ]
    assert said == []


async def test_a_watch_that_ends_is_begun_again(
    server: Server, watch: Callable[..., tuple[Seen, threading.Thread]]
) -> None:
    seen, _ = watch()
    await told(seen)
    await server.news.put(None)
    await server.news.put({"type": "ADDED", "object": a_job("after", 6)})
    while (await told(seen))[0] != "after":
        pass
    assert server.watches == 2


async def test_kopf_is_begun_again_whatever_ended_it(
    watch: Callable[..., tuple[Seen, threading.Thread]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, ends = handlers._watch, [ValueError("a bug of kopf's"), ValueError("another")]

    async def ending(*arguments: Any) -> None:
        if ends:
            raise ends.pop()
        await real(*arguments)

    monkeypatch.setattr(handlers, "_watch", ending)
    seen, _ = watch()
    assert await told(seen) == ("listed", False)
    assert caplog.text.count("the watch of FineTuneJobs ended") == 2


@pytest.mark.parametrize(
    ("logger", "level", "shown"),
    [
        ("kopf.x", logging.ERROR, logging.WARNING),
        ("kopf.x", logging.INFO, logging.INFO),
        ("finetune_operator.x", logging.ERROR, logging.ERROR),
    ],
)
def test_what_kopf_calls_an_error_is_a_warning_without_a_traceback(
    logger: str, level: int, shown: int
) -> None:
    error = ValueError("x")
    record = logging.LogRecord(logger, level, "f", 1, "broken", (), (ValueError, error, None))

    assert handlers._tell(record)
    assert record.levelno == shown
    assert (record.exc_info is None) == (level > shown)


def test_only_the_one_sentence_about_signals_is_left_out() -> None:
    def kept(logger: str, message: str) -> bool:
        return handlers._tell(logging.LogRecord(logger, logging.WARNING, "f", 1, message, (), None))

    assert not kept("kopf._core.reactor.running", "OS signals are ignored: running not in the main thread.")
    assert kept("kopf._core.reactor.running", "Something else.")
    assert kept("finetune_operator.x", "OS signals are ignored: said by somebody else.")


@pytest.mark.parametrize("status", [403, 404, 503])
async def test_an_api_server_that_does_not_say_what_it_serves_is_asked_again(
    server: Server, watch: Callable[..., tuple[Seen, threading.Thread]], status: int
) -> None:
    server.refusals = [status]
    seen, _ = watch()
    assert await told(seen) == ("listed", False)
