"""A reconcile of a gang of 1,024 pods is cheap: in requests, and in CPU time."""

import statistics
import time
from datetime import timedelta

import pytest

from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.notifier import Notifier
from finetune_operator.runtime.reconciler import Reconciler, dumped
from finetune_operator.runtime.trainer_poller import Poller
from tests.operator import scenes
from tests.operator.apiserver import ApiServer

NODES = 1024
SECONDS = 0.05
SLOW_MACHINE = 4
"""A machine under load, with coverage or without turbo, takes this much longer."""


async def gang(size: int, **pods: object) -> tuple[ApiServer, Reconciler]:
    """A Train attempt that has begun."""
    configured = scenes.settings({"profiles": {"default": {"max_nodes": size}}})
    spec = {"resources": {"nodes": size}}
    prepared = {"reached": "Prepare", "attempts": [{"stage": "Prepare", "number": 1, "outcome": "Succeeded"}]}
    job = scenes.job_of({"spec": spec, "status": prepared}, configured=configured)
    assert job.status
    server, cache = ApiServer(), Cache()
    cache.put(server.put(scenes.merged(scenes.BASE, {"spec": spec}) | {"status": dumped(job.status)}))
    now = scenes.NOW + timedelta(seconds=60)
    reconciler = Reconciler(
        cache, server.cluster, configured, Poller(10, 30), Notifier({}, lambda: now), lambda: now
    )
    while await reconciler.reconcile(scenes.UID) == 0.0:
        pass
    train = server.objects["Job", "tickets-0b5c3-t1"]
    owner = {"metadata": {"ownerReferences": [{"uid": train["metadata"]["uid"]}]}}
    for index in range(size):
        cache.put(server.put(scenes.pod(job, train, owner | {"index": index} | pods)))
    await reconciler.reconcile(scenes.UID)
    server.calls.clear()
    return server, reconciler


async def cpu_seconds(reconciler: Reconciler) -> float:
    taken = []
    for _ in range(7):
        begun = time.process_time()
        await reconciler.reconcile(scenes.UID)
        taken.append(time.process_time() - begun)
    return statistics.median(taken)


@pytest.mark.parametrize("state", ["Creating", "Running"])
async def test_the_cpu_time_of_a_reconcile_grows_at_most_with_the_pods(state: str) -> None:
    server, reconciler = await gang(NODES, **{"is": state})
    seconds = await cpu_seconds(reconciler)
    assert server.calls == []
    assert seconds < SECONDS * SLOW_MACHINE

    _, smaller = await gang(NODES // 8, **{"is": state})
    assert seconds < 8 * 2 * await cpu_seconds(smaller)


async def test_a_hanging_gang_costs_one_list_of_events() -> None:
    server, reconciler = await gang(NODES, **{"is": "Creating"})
    for memory in reconciler._memories.values():
        memory.read_state.events_read_at = float("-inf")
    await reconciler.reconcile(scenes.UID)
    assert [call for call in server.calls if call.startswith("events ")] == server.calls
    assert len(server.calls) == 1
