"""When a cleanup Job may run: what it deletes cannot be had again."""

import pytest

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.runtime import cleanup
from finetune_operator.runtime.cache import Cache
from tests.operator import scenes
from tests.operator.apiserver import ApiServer

JOB = scenes.job_of()
CONFIGURED = scenes.settings()
RELEASED = ["release tickets-0b5c3-c1"]


def child(server: ApiServer, stage: str) -> Manifest:
    return server.put(scenes.child(JOB, {"stage": stage}, CONFIGURED))


def fine_tune_job(server: ApiServer, uid: str = scenes.UID) -> Manifest:
    return server.put({"kind": KIND, "metadata": {"name": "tickets", "namespace": "demo", "uid": uid}})


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def cache(server: ApiServer) -> Cache:
    """It knows of the cleanup Job alone."""
    cache = Cache()
    cache.put(child(server, "Cleanup"))
    return cache


async def look(server: ApiServer, cache: Cache) -> float | None:
    return await cleanup.look_after(scenes.UID, cache, server.cluster)


async def test_a_cleanup_is_released_at_once_and_once_when_its_run_is_gone(
    server: ApiServer, cache: Cache
) -> None:
    assert await look(server, cache) is None
    assert await look(server, cache) is None

    assert server.writes() == RELEASED
    assert server.objects["Job", "tickets-0b5c3-c1"]["spec"]["suspend"] is False


async def test_a_job_created_a_moment_ago_of_which_no_watch_has_told_is_not_swept(
    server: ApiServer, cache: Cache
) -> None:
    fine_tune_job(server)

    assert await look(server, cache) is None
    assert server.writes() == []


async def test_a_job_of_the_same_name_does_not_keep_the_cleanup_of_the_one_before_it(
    server: ApiServer, cache: Cache
) -> None:
    fine_tune_job(server, uid="another")

    await look(server, cache)

    assert server.writes() == RELEASED


async def test_a_job_whose_name_had_to_be_cut_for_the_label_is_found(server: ApiServer) -> None:
    job = scenes.job_of({"metadata": {"name": "t" * 200}})
    cache = Cache()
    cache.put(server.put(scenes.child(job, {"stage": "Cleanup"}, CONFIGURED)))
    server.put({"kind": KIND, "metadata": dict(job.metadata)})

    await look(server, cache)

    assert server.writes() == []


@pytest.mark.parametrize("known", [True, False])
async def test_it_waits_for_the_last_pod_also_where_no_watch_has_told_of_it(
    server: ApiServer, cache: Cache, known: bool
) -> None:
    made = scenes.child(JOB, {"stage": "Prepare"}, CONFIGURED)
    pod = server.put(scenes.pod(JOB, made, {"is": "Running"}))
    if known:
        cache.put(pod)

    assert await look(server, cache) == cleanup.LOOK_AGAIN_SECONDS
    assert server.writes() == []
    assert len(cache.children(scenes.UID, "Pod")) == 1

    del server.objects["Pod", pod["metadata"]["name"]]
    cache.remove(pod)
    await look(server, cache)
    assert server.writes() == RELEASED


@pytest.mark.parametrize("known", [True, False])
async def test_it_waits_for_the_last_job_that_may_still_make_pods(
    server: ApiServer, cache: Cache, known: bool
) -> None:
    train = child(server, "Train")
    if known:
        cache.put(train)

    assert await look(server, cache) == cleanup.LOOK_AGAIN_SECONDS
    assert server.writes() == []


async def test_pods_of_other_runs_and_of_the_cleanup_itself_are_not_waited_for(
    server: ApiServer, cache: Cache
) -> None:
    other = child(server, "Publish")
    other["metadata"]["labels"][LABEL_UID] = "another"
    server.put(other)
    cache.put(server.put(scenes.pod(JOB, scenes.child(JOB, {"stage": "Cleanup"}, CONFIGURED), {"code": 1})))

    await look(server, cache)

    assert server.writes() == RELEASED
