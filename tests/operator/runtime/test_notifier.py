"""The notifier delivers to real HTTP and HTTPS servers: it retries, gives up, and delays no other target."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.planning.cloud_events import Notification
from finetune_operator.planning.types import DeliveryResult
from finetune_operator.runtime import metrics, notifier
from finetune_operator.runtime.notifier import Notifier
from finetune_operator.runtime.serving_certificate import self_signed
from finetune_operator.runtime.webhook import decode_key, sign
from finetune_operator.settings import NotificationTarget

RUN = "run"
KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()
PATIENCE = 20.0
"""Seconds until a test that waits for something fails."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """A server that notes each request and answers with the next of its statuses, at the end with 200."""

    answers: list[web.Response | Handler] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.received.append((dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if self.answers else web.Response()
        return answer if isinstance(answer, web.Response) else await answer(request)


@contextlib.asynccontextmanager
async def serve(
    *answers: web.Response | Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(answers))
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"{'https' if tls else 'http'}://localhost:{port}/hooks?tenant=a"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@dataclass
class Desk:
    """A notifier at work, and a clock that the test sets."""

    folder: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    enqueued: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    failures: list[int] = field(default_factory=list)
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    notifier: Notifier = field(init=False)

    @contextlib.asynccontextmanager
    async def work(self, **urls: str) -> AsyncIterator["Desk"]:
        targets = {
            name: NotificationTarget(url=url, secret_name=name, timeout_seconds=5)
            for name, url in urls.items()
        }
        for name in urls:
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / "signingKey").write_text(KEY)
        self.notifier = Notifier(targets, lambda: self.now, self.folder, self.pause)
        task = asyncio.create_task(self.notifier.run(self.enqueued.put_nowait))
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def pause(self, failures: int) -> float:
        self.failures.append(failures)
        self.failed.set()
        return 0.01

    def notify(self, *targets: str, run: str = RUN, name: str = "1-failed") -> None:
        event = {"specversion": "1.0", "id": f"{run}-{name}"}
        body = json.dumps(event).encode()
        self.notifier.deliver(
            run, [Notification(f"{run}-{name}", target, self.now, body) for target in targets]
        )

    async def ended(self, run: str = RUN) -> tuple[DeliveryResult, ...]:
        """Waits until the notifier enqueues a run; returns the results of the run."""
        assert await asyncio.wait_for(self.enqueued.get(), PATIENCE) == run
        return self.notifier.ended(run)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def problems(results: Iterable[DeliveryResult]) -> dict[str, str | None]:
    return {result.target: result.failure for result in results}


async def until(holds: Callable[[], bool]) -> None:
    """Lets the other tasks run until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the state of the notifier has no event
            await asyncio.sleep(0)


def count(target: str, result: str) -> float:
    return metrics.NOTIFICATIONS.labels(target=target, result=result)._value.get()


async def test_a_notification_is_signed_and_delivered_once(desk: Desk) -> None:
    async with serve() as receiver, desk.work(once=receiver.url):
        desk.notify("once")
        assert await desk.ended() == (DeliveryResult("run-1-failed", "once"),)
        desk.notify("once")  # the status does not show the result yet
        desk.notifier.recorded(RUN, desk.notifier.ended(RUN))
        assert desk.notifier.ended(RUN) == ()
        desk.notify("once", name="2-succeeded")
        await desk.ended()
    assert [json.loads(body)["id"] for _, body in receiver.received] == ["run-1-failed", "run-2-succeeded"]
    headers, body = receiver.received[0]
    timestamp = int(headers["webhook-timestamp"])
    assert timestamp == int(desk.now.timestamp())
    assert headers["webhook-id"] == "run-1-failed"
    assert headers["webhook-signature"] == sign([decode_key(KEY)], "run-1-failed", timestamp, body)
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"


async def test_a_failure_that_may_pass_is_repeated_with_the_same_id_and_body(desk: Desk) -> None:
    async with (
        serve(web.Response(status=500), web.Response(status=503)) as receiver,
        desk.work(again=receiver.url),
    ):
        desk.notify("again")
        assert problems(await desk.ended()) == {"again": None}
    assert desk.failures == [1, 2]
    assert len(receiver.received) == 3
    assert len({(headers["webhook-id"], body) for headers, body in receiver.received}) == 1
    assert (count("again", "retried"), count("again", "delivered")) == (2, 1)


async def test_a_new_key_is_used_at_the_next_request(desk: Desk) -> None:
    new = "whsec_" + base64.b64encode(b"n" * 32).decode()

    async def rotate(_: web.Request) -> web.StreamResponse:
        (desk.folder / "rotates" / "previousSigningKey").write_text(KEY)
        (desk.folder / "rotates" / "signingKey").write_text(new)
        return web.Response(status=500)

    async with serve(rotate) as receiver, desk.work(rotates=receiver.url):
        desk.notify("rotates")
        await desk.ended()
    before, after = (headers["webhook-signature"].split(" ") for headers, _ in receiver.received)
    assert len(before) == 1
    assert before[0] == after[1] != after[0]


async def test_a_target_without_a_key_gets_nothing_until_the_key_is_there(desk: Desk) -> None:
    async with serve() as receiver, desk.work(keyless=receiver.url):
        (desk.folder / "keyless" / "signingKey").unlink()
        desk.notify("keyless")
        await asyncio.wait_for(desk.failed.wait(), PATIENCE)
        assert receiver.received == []
        (desk.folder / "keyless" / "signingKey").write_text(KEY)
        assert problems(await desk.ended()) == {"keyless": None}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(desk: Desk, status: int) -> None:
    async with serve() as inner:
        answer = web.Response(status=status, headers={"Location": inner.url})
        async with serve(answer) as receiver, desk.work(redirects=receiver.url):
            desk.notify("redirects")
            (failure,) = problems(await desk.ended()).values()
        assert inner.received == []
    assert failure == (
        f"The target answered {status}. The operator follows no redirects: url must be the final address."
    )
    assert len(receiver.received) == 1


async def test_only_the_log_quotes_the_url_of_a_target_that_is_away(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as receiver:
        url = receiver.url
    async with desk.work(away=url):
        desk.now += timedelta(hours=2)
        old = Notification("run-1-failed", "away", desk.now - timedelta(hours=2), b"{}")
        desk.notifier.deliver(RUN, [old])
        (failure,) = problems(await desk.ended()).values()
    assert failure == "The request to the target failed: ClientConnectorError."
    assert "localhost" in caplog.text


async def test_the_proxy_of_the_environment_is_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as proxy, desk.work(proxied="http://target.invalid/hooks"):
        monkeypatch.setenv("http_proxy", proxy.url.partition("/hooks")[0])
        monkeypatch.setenv("no_proxy", "localhost")
        desk.notify("proxied")
        assert problems(await desk.ended()) == {"proxied": None}
    ((headers, _),) = proxy.received
    assert headers["Host"] == "target.invalid"


async def test_the_wait_of_a_busy_target_holds_all_its_requests(desk: Desk) -> None:
    busy = web.Response(status=429, headers={"Retry-After": "2"})
    async with serve(busy) as receiver, desk.work(busy=receiver.url):
        arrivals: list[float] = []
        clock = asyncio.get_running_loop().time

        async def note(_: web.Request) -> web.StreamResponse:
            arrivals.append(clock())
            return web.Response()

        receiver.answers += [note, note]
        started = clock()
        desk.notify("busy")
        await until(lambda: bool(desk.failures))
        desk.notify("busy", run="other")
        first = await asyncio.wait_for(desk.enqueued.get(), PATIENCE)
        second = await asyncio.wait_for(desk.enqueued.get(), PATIENCE)
        assert {first, second} == {RUN, "other"}
    assert all(arrival - started >= 2.0 for arrival in arrivals)
    assert len(arrivals) == 2


async def test_the_operator_gives_up_after_the_last_try_that_is_late_enough(desk: Desk) -> None:
    answers = [web.Response(status=500) for _ in range(100)]

    def pause(_: int) -> float:
        desk.now += timedelta(minutes=25)
        return 0.0

    async with serve(*answers) as receiver, desk.work(hopeless=receiver.url):
        desk.notifier._backoff = pause
        desk.notify("hopeless")
        assert problems(await desk.ended()) == {"hopeless": "The target answered 500."}
    assert len(receiver.received) == 4  # 0, 25, 50 and 75 minutes after the event
    assert count("hopeless", "failed") == 1


async def test_an_old_notification_is_tried_once_after_a_long_outage_of_the_operator(desk: Desk) -> None:
    async with serve() as receiver, desk.work(late=receiver.url):
        old = Notification("run-1-failed", "late", desk.now - timedelta(days=3), b"{}")
        desk.notifier.deliver(RUN, [old])
        assert problems(await desk.ended()) == {"late": None}
    assert len(receiver.received) == 1


async def test_a_target_that_hangs_delays_neither_other_targets_nor_the_run(desk: Desk) -> None:
    release, reached = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        reached.set()
        await release.wait()
        return web.Response()

    async with (
        serve(*[hang] * 20) as slow,
        serve() as quick,
        desk.work(slow=slow.url, quick=quick.url),
    ):
        for number in range(20):
            desk.notify("slow", run=f"slow-{number}")
        await asyncio.wait_for(reached.wait(), PATIENCE)
        desk.notify("quick")
        assert problems(await desk.ended()) == {"quick": None}
        assert len(slow.received) <= notifier.MAX_REQUESTS
        release.set()


async def test_the_results_of_one_event_are_recorded_together(desk: Desk) -> None:
    release = asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    async with serve(wait) as slow, serve() as quick, desk.work(slow=slow.url, quick=quick.url):
        desk.notify("slow", "quick")
        await until(lambda: bool(desk.notifier.ended(RUN)))
        assert desk.enqueued.empty()
        release.set()
        assert problems(await desk.ended()) == {"slow": None, "quick": None}
        assert desk.enqueued.empty()


async def test_a_target_that_is_down_does_not_hold_the_results_of_other_targets(desk: Desk) -> None:
    async with (
        serve(*[web.Response(status=500)] * 10_000) as down,
        serve() as up,
        desk.work(down=down.url, up=up.url),
    ):
        desk.notify("down", "up")
        results = await desk.ended()
        assert problems(results) == {"up": None}
        desk.notifier.recorded(RUN, results)
        assert desk.enqueued.empty()
        down.answers.clear()  # the target is back
        assert problems(await desk.ended()) == {"down": None}


async def test_tls_is_verified_with_the_authority_of_the_target(desk: Desk, tmp_path: Path) -> None:
    certificate, key = self_signed("localhost", 1)
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    async with serve(tls=context) as receiver, desk.work(secure=receiver.url):
        desk.notify("secure")
        await asyncio.wait_for(desk.failed.wait(), PATIENCE)
        assert receiver.received == []
        (desk.folder / "secure" / "ca.crt").write_bytes(certificate)
        assert problems(await desk.ended()) == {"secure": None}


async def test_more_notifications_than_the_limit_wait_in_the_status(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "MAX_PENDING", 1)
    async with serve() as receiver, desk.work(full=receiver.url):
        desk.notify("full")
        desk.notify("full", run="other")
        assert count("full", "deferred") == 1
        await desk.ended()
        assert desk.notifier.ended("other") == ()
        desk.notify("full", run="other")  # the next resync
        await desk.ended("other")
    assert len(receiver.received) == 2


async def test_the_notifications_of_a_deleted_run_are_delivered_and_their_results_dropped(desk: Desk) -> None:
    release = asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    async with serve(wait) as receiver, desk.work(gone=receiver.url):
        desk.notify("gone")
        desk.notifier.forget(RUN)
        release.set()
        desk.notify("gone", run="next")
        await desk.ended("next")
        await until(lambda: count("gone", "delivered") == 2)
        assert desk.notifier.ended(RUN) == ()
    assert len(receiver.received) == 2


async def test_the_gauges_show_what_is_pending(desk: Desk) -> None:
    def gauge(metric: Any) -> float:
        return float(next(s.value for s in metric.collect()[0].samples if s.labels["target"] == "shown"))

    async with serve() as receiver, desk.work(shown=receiver.url):
        (desk.folder / "shown" / "signingKey").unlink()
        desk.notify("shown")
        desk.now += timedelta(seconds=90)
        await until(lambda: bool(desk.failures))
        assert gauge(metrics.NOTIFICATIONS_PENDING) == 1
        assert gauge(metrics.NOTIFICATIONS_OLDEST_SECONDS) == 90
        (desk.folder / "shown" / "signingKey").write_text(KEY)
        await desk.ended()
        assert gauge(metrics.NOTIFICATIONS_PENDING) == gauge(metrics.NOTIFICATIONS_OLDEST_SECONDS) == 0
