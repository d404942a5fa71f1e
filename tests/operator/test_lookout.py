"""What is looked at besides the watches, and how often."""

import pytest

from finetune_operator import lookout
from finetune_operator.cache import Cache
from finetune_operator.lookout import Sight
from finetune_operator.observed import Manifest
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
def sight() -> Sight:
    return Sight(scenes.UID, "demo")


def prepare(server: ApiServer, **status: object) -> Manifest:
    return server.put(scenes.child(JOB, {"stage": "Prepare", "status": status}, scenes.settings()))


def its_pod(job: Manifest, **short: object) -> Manifest:
    owner = {"metadata": {"ownerReferences": [{"uid": job["metadata"]["uid"]}]}}
    return scenes.pod(JOB, job, owner | short)


@pytest.mark.parametrize(
    ("now", "phase"), [({"code": 0, "says": "success"}, "Succeeded"), ({"is": "Running"}, "Running")]
)
async def test_pods_that_are_behind_their_job_are_read_once_more_and_only_once(
    server: ApiServer, cache: Cache, sight: Sight, now: Manifest, phase: str
) -> None:
    job = prepare(server)
    cache.put(job)
    cache.put(server.put(its_pod(job, **{"is": "Running"})))
    await lookout.catch_up(sight, cache, server.cluster)
    assert server.calls == []

    cache.put(prepare(server, **{"is": "Complete"}))
    server.put(its_pod(job, **now))
    for _ in range(2):
        await lookout.catch_up(sight, cache, server.cluster)

    assert server.calls == ["list Pod"]
    assert [p["status"]["phase"] for p in cache.children(scenes.UID, "Pod")] == [phase]


async def test_events_about_what_hangs_are_asked_for_every_15_seconds_and_of_new_things_at_once(
    server: ApiServer, cache: Cache, sight: Sight, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("finetune_operator.lookout.time.monotonic", lambda: clock[0])
    job = prepare(server, startTime="2026-01-01T11:50:00Z")
    cache.put(job)
    about = job["metadata"]["uid"]
    server.events_of[about] = (scenes.event({"about": "x", "reason": "FailedCreate", "message": "m"}),)
    for seconds, asked in ((0, 1), (14, 1), (15, 2)):
        clock[0] = 1000.0 + seconds
        await lookout.ask_events(sight, cache, server.cluster, scenes.NOW)
        assert len(server.calls) == asked, seconds
    assert sight.again_in == lookout.ASK_AGAIN_SECONDS
    assert [e["reason"] for e in lookout.observed(sight, cache, None, None).events] == ["FailedCreate"]

    pod = server.put(its_pod(job, **{"is": "Creating"}))
    cache.put(pod)
    await lookout.ask_events(sight, cache, server.cluster, scenes.NOW)
    assert server.calls[2:] == [f"events {pod['metadata']['uid']}"]


async def test_events_are_forgotten_once_nothing_hangs(server: ApiServer, cache: Cache, sight: Sight) -> None:
    sight.events = {"x": ()}

    await lookout.ask_events(sight, cache, server.cluster, scenes.NOW)

    assert server.calls == []
    assert (sight.events, sight.again_in) == ({}, None)


async def test_a_stranger_is_looked_at_until_it_has_gone(
    server: ApiServer, cache: Cache, sight: Sight
) -> None:
    server.put({"kind": "Job", "metadata": {"name": "tickets-0b5c3-p1"}})
    await lookout.look_at_taken(sight, cache, server.cluster, "Job", "tickets-0b5c3-p1")
    assert lookout.observed(sight, cache, None, None).foreign == {("Job", "tickets-0b5c3-p1")}
    await lookout.look_at_foreign(sight, cache, server.cluster)
    assert sight.again_in == lookout.ASK_AGAIN_SECONDS

    del server.objects["Job", "tickets-0b5c3-p1"]
    await lookout.look_at_foreign(sight, cache, server.cluster)
    assert sight.again_in is None


async def test_a_strangers_place_taken_by_our_own_is_taken_into_the_cache(
    server: ApiServer, cache: Cache, sight: Sight
) -> None:
    sight.foreign.add(("Job", "tickets-0b5c3-p1"))
    prepare(server)

    await lookout.look_at_foreign(sight, cache, server.cluster)

    assert sight.foreign == set()
    assert cache.child(scenes.UID, "Job", "tickets-0b5c3-p1")


def test_what_may_not_be_read_comes_before_what_was_refused(cache: Cache, sight: Sight) -> None:
    assert lookout.observed(sight, cache, None, "create jobs: no").refused == "create jobs: no"
    cache.note_readable("Pod", "demo", "list pods: no")
    assert lookout.observed(sight, cache, None, "create jobs: no").refused == "list pods: no"
