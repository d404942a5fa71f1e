"""The answers of a tenant's pod, and when they enqueue a run. Real HTTP on the loopback."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from finetune_operator.runtime import trainer_poller
from finetune_operator.runtime.trainer_poller import Poller, Target, ask, clamped, first_pod
from finetune_trainer.contract import Activity, Progress, Stage, signatures

KEY = signatures.draw_key()
TARGET = Target("127.0.0.1", KEY, Stage.TRAIN, 1)
Answer = Callable[[web.Request], Any]


@contextlib.asynccontextmanager
async def pod(answer: Answer, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> AsyncIterator[None]:
    """A pod that gives an answer to each request, and signs the answer with a key."""

    async def serve(request: web.Request) -> web.StreamResponse:
        given: web.StreamResponse = await answer(request)
        if isinstance(given, web.Response):
            nonce = request.headers[signatures.NONCE_HEADER]
            body = given.body if isinstance(given.body, bytes) else b""
            given.headers[signatures.SIGNATURE_HEADER] = signatures.sign_answer(key, nonce, body)
        return given

    app = web.Application()
    app.router.add_get("/progress", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(trainer_poller, "PROGRESS_PORT", runner.addresses[0][1])
    yield
    await runner.cleanup()


def said(**changes: Any) -> str:
    return json.dumps({"stage": "Train", "attempt": 1} | changes)


async def asked() -> Progress:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=0.5), auto_decompress=False
    ) as session:
        return await ask(session, TARGET)


async def test_a_valid_answer_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=said(step=3, totalSteps=10))

    async with pod(answer, monkeypatch):
        assert (await asked()).step == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        said(stage="Publish"),
        said(attempt=2),
        said(contractVersion="2.0"),
        said(step=-1),
        said(surprise=1),
        said(activity="Hacking"),
        said(percent=101),
        " " * 70_000 + said(),
    ],
    ids=lambda text: text.strip()[:40] + f" {len(text)}",
)
async def test_an_invalid_answer_is_rejected(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    async with pod(answer, monkeypatch):
        with pytest.raises(ValueError, match=r"\w"):
            await asked()


@pytest.mark.parametrize("status", [204, 302, 404, 500])
async def test_redirects_and_errors_are_not_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/secret"})

    async with pod(answer, monkeypatch):
        with pytest.raises(ValueError, match=str(status)):
            await asked()


async def test_an_answer_with_another_key_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=said(step=3))

    async with pod(answer, monkeypatch, key=signatures.draw_key()):
        with pytest.raises(ValueError, match="not signed"):
            await asked()


async def test_a_recorded_answer_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        recorded.setdefault(signatures.NONCE_HEADER, request.headers[signatures.NONCE_HEADER])
        return web.Response(text=said(step=3))

    async def replay(request: web.Request) -> web.Response:
        nonce = recorded[signatures.NONCE_HEADER]
        signature = signatures.sign_answer(KEY, nonce, said(step=3).encode())
        response = web.StreamResponse(headers={signatures.SIGNATURE_HEADER: signature})
        await response.prepare(request)
        await response.write(said(step=3).encode())
        return response  # type: ignore[return-value]

    async with pod(answer, monkeypatch):
        await asked()
    async with pod(replay, monkeypatch):
        with pytest.raises(ValueError, match="not signed"):
            await asked()


async def test_the_request_is_signed_and_the_key_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        nonce = request.headers[signatures.NONCE_HEADER]
        assert request.headers[signatures.SIGNATURE_HEADER] == signatures.sign_request(KEY, nonce)
        seen.append(f"{request.url} {request.headers}")
        return web.Response(text=said())

    async with pod(answer, monkeypatch):
        await asked()
        await asked()
    assert len(set(seen)) == 2, "each request has a nonce of its own"
    assert all(KEY not in text for text in seen)


async def test_a_slow_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with pod(answer, monkeypatch):
        with pytest.raises((TimeoutError, aiohttp.ClientError)):
            await asked()


async def test_a_compressed_answer_is_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        response = web.Response(text=said())
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async with pod(answer, monkeypatch):
        with pytest.raises(ValueError, match=r"\w"):
            await asyncio.wait_for(asked_accepting_gzip(), 2)


async def asked_accepting_gzip() -> Progress:
    async with aiohttp.ClientSession(auto_decompress=False, headers={"Accept-Encoding": "gzip"}) as session:
        return await ask(session, TARGET)


def test_numbers_are_bounded_for_the_api_server() -> None:
    wild = Progress(
        stage=Stage.TRAIN,
        attempt=1,
        step=2**70,
        total_steps=2**71,
        tokens_per_second=float("inf"),
        eta_seconds=float("inf"),
        heartbeat=9e18,
    )
    tame = clamped(wild, now=1000.0)
    assert tame.step == tame.total_steps == 2**53
    assert tame.tokens_per_second is None
    assert tame.eta_seconds is None
    assert tame.heartbeat == 1000.0


def test_a_step_is_at_most_the_total_steps() -> None:
    steps = {"step": 11, "checkpoint_step": 12, "resumed_from_step": 13}
    tame = clamped(Progress(stage=Stage.TRAIN, attempt=1, total_steps=10, **steps), 0.0)
    assert (tame.step, tame.checkpoint_step, tame.resumed_from_step) == (10, 10, 10)


async def test_a_new_activity_enqueues_at_once_and_progress_at_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, activity = 0, "Loading"

    async def answer(_: web.Request) -> web.Response:
        nonlocal step
        step += 1
        return web.Response(text=said(activity=activity, step=step))

    enqueued: list[str] = []
    poller = Poller(poll_seconds=0.01, status_seconds=60)
    poller.follow("run", TARGET)
    async with pod(answer, monkeypatch):
        task = asyncio.create_task(poller.run(enqueued.append))
        async with asyncio.timeout(5):
            while step < 5:  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.01)
            assert enqueued == ["run"]
            activity = "Training"
            while len(enqueued) < 2:  # noqa: ASYNC110 - same
                await asyncio.sleep(0.01)
        news = poller.news("run")
        assert news is not None
        assert news.activity is Activity.TRAINING
        poller.shown("run", news)
        assert poller.news("run") is None
        poller.follow("run", None)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    "odd",
    [said(step=10**400), said(heartbeat=-1e308), "[" * 60_000, '"\\ud800"', said() + "\0"],
    ids=["a step of 400 digits", "a heartbeat long ago", "deep", "half a character", "a byte too many"],
)
async def test_an_invalid_answer_of_one_pod_does_not_end_the_poller(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=odd.encode())

    await outlives(answer, monkeypatch)


async def test_an_unexpected_error_does_not_end_the_poller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=said())

    def clamp(*_: object) -> Progress:
        raise ArithmeticError("a bug")

    monkeypatch.setattr(trainer_poller, "clamped", clamp)
    await outlives(answer, monkeypatch)


async def outlives(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poller asks a pod with this answer again and again."""
    asked, enough = 0, asyncio.Event()

    async def count(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 3:
            enough.set()
        answered: web.Response = await answer(request)
        return answered

    poller = Poller(poll_seconds=0.01, status_seconds=60)
    poller.follow("run", TARGET)
    async with pod(count, monkeypatch):
        running = asyncio.create_task(poller.run(lambda _: None))
        waiting = asyncio.create_task(enough.wait())
        async with asyncio.timeout(5):
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), running.exception()
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)


def test_an_answer_that_comes_after_the_plan_is_still_to_be_shown() -> None:
    poller = Poller(poll_seconds=1, status_seconds=1)
    poller.follow("run", TARGET)
    followed = poller._followed["run"]
    first, second = (Progress(stage=Stage.TRAIN, attempt=1, step=step) for step in (1, 2))
    followed.answer = first
    assert poller.news("run") == first
    followed.answer = second  # while the status with the first is written

    poller.shown("run", first)

    assert poller.news("run") == second
    poller.shown("run", second)
    assert poller.news("run") is None


async def test_a_missing_answer_enqueues_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_poller, "PROGRESS_PORT", 1)
    enqueued: list[str] = []
    poller = Poller(poll_seconds=0.01, status_seconds=0)
    poller.follow("run", TARGET)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(poller.run(enqueued.append), 0.2)
    assert enqueued == []
    assert poller.news("run") is None


def a_pod(name: str, **changes: Any) -> Any:
    pod = {
        "metadata": {
            "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "batch.kubernetes.io/job-completion-index": "0",
                "finetune.dev/stage": "Train",
                "finetune.dev/attempt": "2",
            },
            "annotations": {"finetune.dev/progress-key": KEY},
            "ownerReferences": [{"uid": "job"}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }
    return pod | changes


SECOND = {"batch.kubernetes.io/job-completion-index": "1"}
JOB = {"metadata": {"uid": "job", "labels": {"finetune.dev/role": "run"}}}


def test_the_running_pod_of_index_0_of_the_newest_job_is_polled() -> None:
    assert first_pod([a_pod("a")], [JOB]) == Target("10.0.0.1", KEY, Stage.TRAIN, 2)


@pytest.mark.parametrize(
    "pod",
    [
        a_pod("a", status={"phase": "Pending"}),
        a_pod("a", status={"phase": "Running"}),
        a_pod("a", metadata=a_pod("a")["metadata"] | {"ownerReferences": [{"uid": "stranger"}]}),
        a_pod("a", metadata=a_pod("a")["metadata"] | {"annotations": {}}),
        a_pod(
            "a",
            metadata=a_pod("a")["metadata"] | {"labels": {"batch.kubernetes.io/job-completion-index": "1"}},
        ),
    ],
)
def test_no_other_pod_is_polled(pod: Any) -> None:
    assert first_pod([pod], [JOB]) is None


def test_the_pod_of_a_cleanup_is_not_polled() -> None:
    cleanup = {"metadata": {"uid": "job", "labels": {"finetune.dev/role": "cleanup"}}}
    assert first_pod([a_pod("a")], [cleanup]) is None
