"""The start, the loss and the restart of each scope."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.runtime import list_and_watch
from finetune_operator.runtime.api_client import (
    ApiError,
    MissingError,
    RefusedError,
    SilentError,
    UnavailableError,
)
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster, WatchEvent
from finetune_operator.runtime.scopes import Scope


class QuietCluster:
    """Nothing happens in it: every watch of it is silent until it is broken off."""

    def __init__(self) -> None:
        self.watched = 0
        self.often = asyncio.Event()

    async def list(self, *_: object) -> tuple[list[Manifest], str]:
        return [], "7"

    async def watch(
        self, _kind: str, _namespace: str, _label: str, since: str, _: int
    ) -> AsyncIterator[WatchEvent]:
        assert since == "7"
        self.watched += 1
        if self.watched == 6:
            self.often.set()
            await asyncio.Event().wait()
        raise SilentError("watch jobs: nothing")
        yield


async def test_a_silent_watch_restarts_without_a_pause() -> None:
    cluster = QuietCluster()
    following = asyncio.create_task(
        list_and_watch.list_and_watch(cast("Cluster", cluster), Cache(), "Job", Scope(None), lambda _: None)
    )
    try:
        # Back-off would make these five pauses 15 s and more.
        await asyncio.wait_for(cluster.often.wait(), timeout=5)
    finally:
        following.cancel()


class Team:
    """An API server with namespaces that each hold one run; a namespace in `problems` is refused."""

    def __init__(self) -> None:
        self.problems: dict[str, ApiError] = {}
        self.unlisted: dict[tuple[str, str], ApiError] = {}
        self.unwatched: dict[tuple[str, str], ApiError] = {}
        self.lists: dict[str, int] = defaultdict(int)
        self.gone: set[str] = set()

    async def list(self, kind: str, namespace: str, _selector: str) -> tuple[list[Manifest], str]:
        self.lists[namespace] += kind == KIND
        if error := self.problems.get(namespace) or self.unlisted.get((namespace, kind)):
            raise error
        meta: dict[str, Any] = {"namespace": namespace, "name": "tickets", "resourceVersion": "5"}
        meta |= {"uid": f"run-{namespace}" if kind == KIND else f"{kind}-{namespace}"}
        meta |= {} if kind == KIND else {"labels": {LABEL_UID: f"run-{namespace}"}}
        found = [] if namespace in self.gone else [{"kind": kind, "metadata": meta}]
        return found, "7" if namespace in self.gone else "6"

    async def watch(
        self, kind: str, namespace: str, _label: str, _since: str, _seconds: int
    ) -> AsyncIterator[WatchEvent]:
        if error := self.problems.get(namespace) or self.unwatched.get((namespace, kind)):
            raise error
        await asyncio.Event().wait()
        yield


class Keeping:
    """Some scopes that are kept, and the runs that were enqueued."""

    def __init__(self, team: Team, *namespaces: str) -> None:
        self.team = team
        self.cache = Cache()
        self.scopes = {namespace: Scope(namespace) for namespace in namespaces}
        self.enqueued: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self, resync_seconds: float = 3600) -> AsyncIterator[None]:
        cluster = cast("Cluster", self.team)
        tasks = [
            asyncio.create_task(
                list_and_watch.keep(cluster, self.cache, scope, self.enqueued.append, resync_seconds)
            )
            for scope in self.scopes.values()
        ]
        yield
        assert not [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions have no event
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_and_watch, "backoff", lambda _failures: 0.005)


FORBIDDEN = RefusedError("list finetunejobs in namespace sick: forbidden")


@pytest.mark.parametrize(
    "problem", [FORBIDDEN, UnavailableError("away"), MissingError("list finetunejobs: not found")]
)
async def test_a_scope_starts_after_its_lists_and_waits_for_no_other_scope(problem: ApiError) -> None:
    keeping = Keeping(Team(), "sick", "well")
    keeping.team.problems["sick"] = problem
    async with keeping.running():
        await until(lambda: keeping.enqueued == ["run-well"])
        await until(lambda: keeping.team.lists["sick"] >= 5)
        assert keeping.scopes["well"].listed
        assert keeping.scopes["well"].problem is None
        assert not keeping.scopes["sick"].listed
        assert str(problem) in (keeping.scopes["sick"].problem or "")
        # A refusal is an answer; silence is none.
        assert bool(keeping.scopes["sick"].answered_at) == (not isinstance(problem, UnavailableError))

        del keeping.team.problems["sick"]
        await until(lambda: "run-sick" in keeping.enqueued)
        assert keeping.scopes["sick"].listed
        assert keeping.scopes["sick"].problem is None


async def test_a_scope_does_not_start_before_each_kind_was_listed() -> None:
    keeping = Keeping(Team(), "team")
    keeping.team.unlisted["team", "Pod"] = RefusedError("list pods in namespace team: forbidden")
    async with keeping.running():
        await until(lambda: keeping.team.lists["team"] >= 5)
        assert not keeping.scopes["team"].listed
        assert keeping.enqueued == []
        keeping.team.unlisted.clear()
        await until(lambda: keeping.enqueued == ["run-team"])


async def test_a_lost_scope_is_dropped_and_starts_again_later() -> None:
    keeping = Keeping(Team(), "sick", "well")
    async with keeping.running(resync_seconds=0.01):
        await until(lambda: {"run-sick", "run-well"} <= set(keeping.enqueued))
        keeping.team.problems["sick"] = FORBIDDEN
        await until(lambda: keeping.cache.runs() == {"run-well"})
        assert not keeping.scopes["sick"].listed
        keeping.enqueued.clear()
        await until(lambda: "run-well" in keeping.enqueued)
        # The same objects, with the same uids: the namespace was never deleted.
        keeping.team.problems.clear()
        await until(lambda: keeping.scopes["sick"].listed and "run-sick" in keeping.enqueued)
        assert keeping.cache.runs() == {"run-sick", "run-well"}
        await until(lambda: keeping.scopes["sick"].problem is None)


async def test_the_runs_of_a_lost_scope_are_enqueued_once_more() -> None:
    keeping = Keeping(Team(), "sick")
    async with keeping.running(resync_seconds=0.01):
        await until(lambda: keeping.enqueued != [])
        with keeping.scopes["sick"].reconciling():
            keeping.team.problems["sick"] = FORBIDDEN
            await until(lambda: not keeping.scopes["sick"].listed)
            keeping.enqueued.clear()
            assert keeping.cache.runs() == {"run-sick"}  # a reconcile reads from the cache
        await until(lambda: keeping.enqueued == ["run-sick"])
        assert keeping.cache.runs() == set()


async def test_the_runs_of_a_deleted_namespace_that_lists_as_empty_are_removed() -> None:
    keeping = Keeping(Team(), "gone", "well")
    async with keeping.running(resync_seconds=0.01):
        await until(lambda: {"run-gone", "run-well"} <= set(keeping.enqueued))
        keeping.team.gone.add("gone")
        await until(lambda: keeping.cache.runs() == {"run-well"})
        assert keeping.scopes["gone"].listed


async def test_a_refused_kind_of_children_does_not_stop_the_lists_of_the_others() -> None:
    keeping = Keeping(Team(), "team")
    async with keeping.running(resync_seconds=0.01):
        await until(lambda: "run-team" in keeping.enqueued)
        keeping.team.unlisted["team", "Job"] = RefusedError("list jobs in namespace team: forbidden")
        await until(lambda: keeping.cache.unreadable("team") is not None)
        keeping.team.gone.add("team")
        await until(lambda: not keeping.cache.children("run-team", "NetworkPolicy"))
        assert keeping.cache.children("run-team", "Job")
        assert keeping.scopes["team"].listed
        assert keeping.scopes["team"].problem == "list jobs in namespace team: forbidden"


async def test_a_watch_is_unhealthy_after_a_refusal_or_two_failures() -> None:
    keeping = Keeping(Team(), "team")
    scope = keeping.scopes["team"]
    keeping.team.unwatched["team", "Pod"] = RefusedError("watch pods in namespace team: forbidden")
    async with keeping.running():
        await until(lambda: scope.problem is not None)
        assert scope.problem == "watch pods in namespace team: forbidden"
        assert scope.listed
