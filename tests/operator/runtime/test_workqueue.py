"""The work queue: one worker for each key, no enqueue is lost, a failing key delays no other key."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from finetune_operator.runtime import workqueue
from finetune_operator.runtime.workqueue import RetryLaterError, WorkQueue, backoff

Work = Callable[[str], Awaitable[float | None]]


@contextlib.asynccontextmanager
async def running(
    work: Callable[[str], Awaitable[float | None]], workers: int = 2
) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, workers)
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions have no event
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 0.02)


async def test_a_key_enqueued_many_times_is_processed_once() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async with running(work) as queue:
        for _ in range(100):
            queue.enqueue("a")
        await until(lambda: done == ["a"])
        await asyncio.sleep(0.02)
    assert done == ["a"]


async def test_reconciles_that_send_no_request_give_way_to_other_tasks() -> None:
    done: list[str] = []
    most, seen = 0, 0

    async def work(key: str) -> None:
        done.append(key)

    async with running(work, workers=1) as queue:
        for number in range(200):
            queue.enqueue(str(number))
        while len(done) < 200:
            most, seen = max(most, len(done) - seen), len(done)
            await asyncio.sleep(0)
    assert most == 1


async def test_a_key_enqueued_while_it_is_processed_is_processed_once_more() -> None:
    gate = asyncio.Event()
    reconciles, at_work, most = 0, 0, 0

    async def work(_: str) -> None:
        nonlocal reconciles, at_work, most
        at_work += 1
        most = max(most, at_work)
        reconciles += 1
        await gate.wait()
        at_work -= 1

    async with running(work, workers=4) as queue:
        queue.enqueue("a")
        await until(lambda: reconciles == 1)
        queue.enqueue("a")
        queue.enqueue("a")
        gate.set()
        await until(lambda: reconciles == 2)
    assert most == 1


async def test_at_most_one_key_for_each_worker_is_processed_at_a_time() -> None:
    at_work, most, done = 0, 0, 0

    async def work(_: str) -> None:
        nonlocal at_work, most, done
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1
        done += 1

    async with running(work, workers=3) as queue:
        for number in range(50):
            queue.enqueue(str(number))
        await until(lambda: done == 50)
    assert most == 3


async def test_a_busy_key_does_not_starve_the_others() -> None:
    order: list[str] = []
    queue: WorkQueue

    async def work(key: str) -> None:
        order.append(key)
        if key == "busy" and len(order) < 50:
            queue.enqueue("busy")

    async with running(work, workers=1) as queue:
        queue.enqueue("busy")
        queue.enqueue("quiet")
        await until(lambda: "quiet" in order)
    assert order.index("quiet") <= 1


async def test_a_key_is_requeued_after_the_returned_seconds() -> None:
    reconciles = 0

    async def work(_: str) -> float | None:
        nonlocal reconciles
        reconciles += 1
        return 0.01 if reconciles < 3 else None

    async with running(work) as queue:
        queue.enqueue("a")
        await until(lambda: reconciles == 3)
        await asyncio.sleep(0.05)
        assert reconciles == 3
        assert not queue._entries


async def test_an_enqueue_comes_before_the_requeue_time() -> None:
    reconciles = 0

    async def work(_: str) -> float:
        nonlocal reconciles
        reconciles += 1
        return 60

    async with running(work) as queue:
        queue.enqueue("a")
        await until(lambda: reconciles == 1)
        queue.enqueue("a")
        await until(lambda: reconciles == 2)


@pytest.mark.parametrize("error", [ValueError("a bug"), RetryLaterError("refused")])
async def test_a_failing_key_is_retried_and_delays_no_other_key(error: Exception) -> None:
    tries: list[str] = []

    async def work(key: str) -> None:
        tries.append(key)
        if key == "poison":
            raise error

    async with running(work, workers=1) as queue:
        queue.enqueue("poison")
        for number in range(20):
            queue.enqueue(str(number))
        await until(lambda: tries.count("poison") >= 3)
    assert len(set(tries)) == 21


async def test_background_events_do_not_shorten_the_back_off_but_a_users_change_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 30.0)
    reconciles = 0

    async def work(_: str) -> None:
        nonlocal reconciles
        reconciles += 1
        raise RetryLaterError("refused")

    async with running(work) as queue:
        queue.enqueue("a")
        await until(lambda: reconciles == 1)
        await asyncio.sleep(0.01)
        queue.enqueue("a")
        await asyncio.sleep(0.05)
        assert reconciles == 1
        queue.enqueue("a", user_triggered=True)
        await until(lambda: reconciles == 2)


async def test_user_triggered_keys_go_first_and_background_keys_get_their_share() -> None:
    order: list[str] = []

    async def work(key: str) -> float | None:
        order.append(key)
        return 0.0 if key.startswith("new") and order.count(key) == 1 else None

    async with running(work, workers=1) as queue:
        for number in range(20):
            queue.enqueue(f"old {number}")
        for number in range(20):
            queue.enqueue(f"new {number}", user_triggered=True)
        await until(lambda: len(order) == 60)
    firsts = [order.index(f"new {number}") for number in range(20)]
    assert firsts == sorted(firsts)
    assert firsts[-1] == 20 + 20 // (workqueue.BACKGROUND_EVERY - 1) - 1
    follow_ups = [place for place, key in enumerate(order) if order[:place].count(key)]
    assert len(follow_ups) == 20
    assert min(follow_ups) > firsts[-1]


async def test_a_waiting_background_key_becomes_user_triggered() -> None:
    order: list[str] = []

    async def work(key: str) -> None:
        order.append(key)

    async with running(work, workers=1) as queue:
        for key in ("a", "b", "c"):
            queue.enqueue(key)
        queue.enqueue("c", user_triggered=True)
        queue.enqueue("c")
        await until(lambda: len(order) == 3)
        await asyncio.sleep(0.01)
    assert order == ["c", "a", "b"]


async def test_the_wait_that_the_api_server_asks_for_is_kept() -> None:
    reconciles = 0

    async def work(_: str) -> None:
        nonlocal reconciles
        reconciles += 1
        raise RetryLaterError("slow down", seconds=30)

    async with running(work) as queue:
        queue.enqueue("a")
        await until(lambda: reconciles == 1)
        await asyncio.sleep(0.1)
    assert reconciles == 1


def test_back_off_doubles_to_a_minute_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 1.0)
    assert 0.5 <= backoff(1) <= 1
    assert 4 <= backoff(4) <= 8
    assert all(30 <= backoff(failures) <= 60 for failures in (7, 20, 10_000))
    assert len({backoff(9) for _ in range(20)}) > 1


@pytest.mark.parametrize("user_triggered", [True, False])
async def test_a_key_waits_for_at_most_one_key_of_a_flooded_namespace(user_triggered: bool) -> None:
    order: list[str] = []

    async def work(key: str) -> None:
        order.append(key)

    async with running(work, workers=1) as queue:
        for number in range(2000):
            queue.enqueue(f"flood {number}", "flooded", user_triggered=user_triggered)
        for number in range(3):
            queue.enqueue(f"calm {number}", "calm", user_triggered=user_triggered)
        await until(lambda: len(order) == 2003)
    assert [order.index(f"calm {number}") for number in range(3)] == [1, 3, 5]
    floods = [key for key in order if key.startswith("flood")]
    assert floods == [f"flood {number}" for number in range(2000)]
    assert not queue._entries


async def test_a_user_triggered_key_leaves_the_background_queue() -> None:
    order: list[str] = []

    async def work(key: str) -> None:
        order.append(key)

    async with running(work, workers=1) as queue:
        queue.enqueue("a", "one")
        queue.enqueue("b", "one")
        queue.enqueue("c", "two")
        queue.enqueue("b", "one", user_triggered=True)
        assert len(queue) == 3
        await until(lambda: len(order) == 3)
    assert order == ["b", "a", "c"]
