"""The requests for objects that are not watched, and their interval."""

import pytest

from finetune_operator.objects import Manifest
from finetune_operator.runtime import gather
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.gather import ReadState
from tests.operator import scenes
from tests.operator.apiserver import ApiServer

JOB = scenes.job_of()


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def read_state() -> ReadState:
    return ReadState(scenes.UID, "demo")


def prepare(server: ApiServer, **status: object) -> Manifest:
    return server.put(scenes.child(JOB, {"stage": "Prepare", "status": status}, scenes.settings()))


def its_pod(server: ApiServer, job: Manifest, **short: object) -> Manifest:
    owner = {"metadata": {"ownerReferences": [{"uid": job["metadata"]["uid"]}]}}
    return scenes.pod(JOB, server.objects["Job", job["metadata"]["name"]], owner | short)


@pytest.mark.parametrize(
    ("now", "phase"), [({"code": 0, "says": "success"}, "Succeeded"), ({"is": "Running"}, "Running")]
)
async def test_pods_that_lag_behind_their_job_are_read_again_once(
    server: ApiServer, cache: Cache, read_state: ReadState, now: Manifest, phase: str
) -> None:
    job = prepare(server)
    cache.put(job)
    cache.put(server.put(its_pod(server, job, **{"is": "Running"})))
    await gather.reread_pods(read_state, cache, server.cluster)
    assert server.calls == []

    cache.put(prepare(server, **{"is": "Complete"}))
    server.put(its_pod(server, job, **now))
    for _ in range(2):
        await gather.reread_pods(read_state, cache, server.cluster)

    assert server.calls == ["list Pod"]
    assert [p["status"]["phase"] for p in cache.children(scenes.UID, "Pod")] == [phase]


async def test_events_about_hanging_jobs_are_read_at_once_then_every_15_seconds(
    server: ApiServer, cache: Cache, read_state: ReadState, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("finetune_operator.runtime.gather.time.monotonic", lambda: clock[0])
    job = prepare(server, startTime="2026-01-01T11:50:00Z")
    cache.put(job)
    about = job["metadata"]["uid"]
    server.events_of[about] = (scenes.event({"about": "x", "reason": "FailedCreate", "message": "m"}),)
    for seconds, asked in ((0, 1), (14, 1), (15, 2)):
        clock[0] = 1000.0 + seconds
        await gather.read_events(read_state, cache, server.cluster, scenes.NOW)
        assert len(server.calls) == asked, seconds
    assert read_state.requeue_after == gather.REREAD_SECONDS
    assert [e["reason"] for e in gather.observed(read_state, cache, None, (), None).events] == [
        "FailedCreate"
    ]

    pod = server.put(its_pod(server, job, **{"is": "Creating"}))
    cache.put(pod)
    await gather.read_events(read_state, cache, server.cluster, scenes.NOW)
    assert server.calls[2:] == [f"events {pod['metadata']['uid']}"]


async def test_a_hanging_gang_costs_one_list_of_events_for_each_read(
    server: ApiServer, cache: Cache, read_state: ReadState, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("finetune_operator.runtime.gather.time.monotonic", lambda: clock[0])
    gang = scenes.job_of({"spec": {"resources": {"nodes": 5}}})
    job = server.put(scenes.child(gang, {"stage": "Train"}, scenes.settings()))
    cache.put(job)
    for index in range(5):
        pod = its_pod(server, job, **{"is": "Creating", "index": index, "metadata": {"uid": f"pod-{index}"}})
        cache.put(server.put(pod))

    async def ask() -> list[str]:
        server.calls.clear()
        clock[0] += gather.REREAD_SECONDS
        await gather.read_events(read_state, cache, server.cluster, scenes.NOW)
        return list(server.calls)

    assert [await ask() for _ in range(6)] == [[f"events pod-{index}"] for index in (0, 1, 2, 3, 4, 0)]
    server.events_of["pod-2"] = (scenes.event({"about": "x", "reason": "FailedMount", "message": "m"}),)
    server.events_of["pod-1"] = (scenes.event({"about": "x", "reason": "Pulling", "message": "m"}),)
    assert [await ask() for _ in range(4)] == [[f"events pod-{index}"] for index in (1, 2, 2, 2)]


async def test_events_are_forgotten_when_no_job_hangs(
    server: ApiServer, cache: Cache, read_state: ReadState
) -> None:
    read_state.events = {"x": ()}

    await gather.read_events(read_state, cache, server.cluster, scenes.NOW)

    assert server.calls == []
    assert (read_state.events, read_state.requeue_after) == ({}, None)


async def test_a_foreign_object_is_read_again_until_it_is_gone(
    server: ApiServer, cache: Cache, read_state: ReadState
) -> None:
    server.put({"kind": "Job", "metadata": {"name": "tickets-0b5c3-p1"}})
    await gather.read_conflicting(read_state, cache, server.cluster, "Job", "tickets-0b5c3-p1")
    assert gather.observed(read_state, cache, None, (), None).foreign == {("Job", "tickets-0b5c3-p1")}
    await gather.recheck_foreign(read_state, cache, server.cluster)
    assert read_state.requeue_after == gather.REREAD_SECONDS

    del server.objects["Job", "tickets-0b5c3-p1"]
    await gather.recheck_foreign(read_state, cache, server.cluster)
    assert read_state.requeue_after is None


async def test_a_foreign_object_replaced_by_the_runs_own_goes_into_the_cache(
    server: ApiServer, cache: Cache, read_state: ReadState
) -> None:
    read_state.foreign.add(("Job", "tickets-0b5c3-p1"))
    prepare(server)

    await gather.recheck_foreign(read_state, cache, server.cluster)

    assert read_state.foreign == set()
    assert cache.child(scenes.UID, "Job", "tickets-0b5c3-p1")


def test_a_refused_read_is_reported_before_a_refused_write(cache: Cache, read_state: ReadState) -> None:
    assert gather.observed(read_state, cache, None, (), "create jobs: no").refused == "create jobs: no"
    cache.note_readable("Pod", "demo", "list pods: no")
    assert gather.observed(read_state, cache, None, (), "create jobs: no").refused == "list pods: no"


async def test_jobs_created_together_share_one_read_of_their_namespace(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, tuple[float, str]] = {}
    clock = [0.0]
    monkeypatch.setattr("finetune_operator.runtime.gather.time.monotonic", lambda: clock[0])
    for seconds, reads in ((0.0, 1), (4.9, 1), (5.1, 2)):
        clock[0] = seconds
        state = ReadState("run", "demo")
        await gather.read_namespace(state, server.cluster, known)
        assert state.namespace_uid == scenes.NAMESPACE_UID
        assert len(server.calls) == reads
