"""Long work does not block the event loop, and the lag is measured."""

import asyncio
import contextlib
import json
import time
from typing import Any, cast

import pytest

from finetune_operator.names import KIND
from finetune_operator.runtime import metrics
from finetune_operator.runtime.api_client import Transport
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import PAGE, PAGE_BYTES, Cluster
from finetune_operator.runtime.event_loop import MEASURE_SECONDS, measure_lag
from tests.operator import scenes


class OnePage:
    """An API server whose only page is as large as the operator reads."""

    api = None

    def __init__(self, annotation: int) -> None:
        metadata = {"namespace": "demo", "resourceVersion": "1", "annotations": {"a": "x" * annotation}}
        job = json.dumps(scenes.BASE | {"metadata": metadata | {"name": "NUMBER", "uid": "NUMBER"}})
        count = min(PAGE, PAGE_BYTES // len(job))
        jobs = [job.replace("NUMBER", f"job-{number}") for number in range(count)]
        self.text = f'{{"metadata": {{"resourceVersion": "1"}}, "items": [{",".join(jobs)}]}}'

    async def read(self, *_: Any, **__: Any) -> str:
        return self.text


@pytest.mark.parametrize("annotation", [10, 30_000, 250_000, 1_500_000])
async def test_a_list_of_the_largest_pages_blocks_the_event_loop_for_less_than_100_ms(
    annotation: int,
) -> None:
    """CPU time, so that other processes on the machine do not count."""
    cluster, cache, longest = Cluster(cast("Transport", OnePage(annotation))), Cache(), 0.0

    async def look() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    shortest = 1.0
    for _ in range(3):  # a collection of the test run's own garbage may fall into one round
        longest = 0.0
        looking = asyncio.create_task(look())
        found, version = await cluster.list(KIND, None)
        await cache.replace(KIND, None, found, version)
        looking.cancel()
        shortest = min(shortest, longest)
    assert len(cache.runs()) == len(found) > 1
    assert shortest < 0.1


async def test_a_blocked_event_loop_shows_as_lag() -> None:
    def late() -> float:
        found = next(iter(metrics.EVENT_LOOP_LAG.collect())).samples
        return next(s.value for s in found if s.labels.get("le") == "+Inf") - next(
            s.value for s in found if s.labels.get("le") == "0.1"
        )

    before = late()
    measuring = asyncio.create_task(measure_lag())
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - the fault to measure
    await asyncio.sleep(2 * MEASURE_SECONDS)
    assert late() > before
    measuring.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await measuring
