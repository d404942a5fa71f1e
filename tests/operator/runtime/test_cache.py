"""The cache: the newest version wins, deleted objects stay deleted, lists replace."""

import asyncio
from typing import Any

import pytest

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.runtime.cache import Cache


def an(kind: str, name: str, version: int, *, run: str = "run", uid: str = "", namespace: str = "ns") -> Any:
    meta: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
    }
    if kind == KIND:
        meta["uid"] = run
    else:
        meta["labels"] = {LABEL_UID: run}
    return {"kind": kind, "metadata": meta}


@pytest.fixture
def cache() -> Cache:
    return Cache()


def versions(cache: Cache, kind: str = "Pod") -> list[str]:
    return [o["metadata"]["resourceVersion"] for o in cache.children("run", kind)]  # type: ignore[arg-type]


def test_put_returns_the_run_only_for_a_new_version(cache: Cache) -> None:
    assert cache.put(an("Pod", "a", 5)) == "run"
    assert cache.put(an("Pod", "a", 5)) is None
    assert cache.put(an("Pod", "a", 4)) is None
    assert cache.put(an("Pod", "a", 6)) == "run"
    assert versions(cache) == ["6"]


def test_a_new_object_of_the_same_name_replaces_the_old_object(cache: Cache) -> None:
    cache.put(an("Pod", "a", 9, uid="one"))
    assert cache.put(an("Pod", "a", 8, uid="two")) == "run"
    assert cache.remove(an("Pod", "a", 10, uid="one")) is None
    assert versions(cache) == ["8"]


def test_a_deleted_object_does_not_come_back_with_a_late_event(cache: Cache) -> None:
    cache.put(an("Pod", "a", 1))
    assert cache.remove(an("Pod", "a", 3)) == "run"
    assert cache.put(an("Pod", "a", 2)) is None
    assert cache.runs() == set()


async def test_a_list_removes_missing_objects_but_no_newer_objects(cache: Cache) -> None:
    cache.put(an("Pod", "old", 5))
    cache.put(an("Pod", "new", 20))
    cache.put(an("Job", "other-kind", 5))
    cache.put(an("Pod", "elsewhere", 5, namespace="other", run="other"))
    assert await cache.replace("Pod", "ns", [an("Pod", "listed", 7)], "10") == {"run"}
    assert [o["metadata"]["name"] for o in cache.children("run", "Pod")] == ["listed", "new"]
    assert cache.child("run", "Job", "other-kind")
    assert cache.children("other", "Pod")


async def test_an_unchanged_list_changes_no_run(cache: Cache) -> None:
    cache.put(an("Pod", "a", 5))
    assert await cache.replace("Pod", None, [an("Pod", "a", 5)], "10") == set()


def test_a_run_outlives_its_job(cache: Cache) -> None:
    cache.put(an(KIND, "tickets", 1))
    cache.put(an("Job", "tickets-c1", 2))
    assert cache.job("run")
    assert [job["metadata"]["name"] for job in cache.jobs()] == ["tickets"]
    cache.remove(an(KIND, "tickets", 3))
    assert cache.job("run") is None
    assert cache.runs() == {"run"}


def test_objects_without_the_label_belong_to_no_run(cache: Cache) -> None:
    stranger = an("Pod", "x", 1)
    del stranger["metadata"]["labels"]
    assert cache.put(stranger) is None
    assert cache.runs() == set()


async def test_a_long_list_gives_way_to_other_tasks(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.runtime.event_loop.WORK_SECONDS", 0.0)
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(cache.children("run", "Pod")))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await cache.replace("Pod", None, [an("Pod", f"p{number}", 1) for number in range(50)], "10")
    looking.cancel()
    assert len(set(seen)) >= 40


def test_a_refusal_to_read_concerns_only_its_namespace(cache: Cache) -> None:
    assert cache.note_readable("Pod", "a", "list pods: forbidden")
    assert not cache.note_readable("Pod", "a", "list pods: forbidden")
    assert cache.unreadable("a") == "list pods: forbidden"
    assert cache.unreadable("b") is None
    assert cache.note_readable("Pod", "a", None)
    assert cache.unreadable("a") is None
    cache.note_readable("Job", None, "list jobs: forbidden")
    assert cache.unreadable("b") == "list jobs: forbidden"


def test_the_number_of_remembered_deletions_is_bounded(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.runtime.cache.REMEMBERED_DELETIONS", 3)
    for number in range(10):
        cache.remove(an("Pod", f"p{number}", 1))
    assert len(cache._deleted) == 3


def test_the_namespace_of_a_run_is_that_of_its_job_or_of_any_child(cache: Cache) -> None:
    assert cache.namespace("run") is None
    cache.put(an("Pod", "a", 1, namespace="elsewhere"))
    assert cache.namespace("run") == "elsewhere"
    cache.put(an(KIND, "tickets", 2, namespace="team"))
    assert cache.namespace("run") == "team"


def test_objects_of_a_forgotten_namespace_are_accepted_again(cache: Cache) -> None:
    cache.put(an(KIND, "tickets", 1))
    cache.put(an("Pod", "a", 2))
    cache.put(an("Pod", "b", 3, run="other", namespace="other"))
    assert cache.forget("ns") == {"run"}
    assert cache.runs() == {"other"}
    assert cache.put(an("Pod", "a", 2)) == "run"
    assert cache.forget(None) == {"run", "other"}
    assert cache.runs() == set()
