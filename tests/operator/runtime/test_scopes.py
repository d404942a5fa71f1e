"""The health of a scope in its metric and in the log."""

import asyncio
import logging

import pytest
from prometheus_client import REGISTRY

from finetune_operator.runtime.scopes import Scope, Scopes

REFUSAL = "list finetunejobs in namespace team: forbidden"


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def scope(clock: list[float], caplog: pytest.LogCaptureFixture) -> Scope:
    caplog.set_level(logging.INFO)
    return Scope("team", lambda: clock[0])


def healthy(namespace: str = "team") -> float | None:
    return REGISTRY.get_sample_value("finetune_operator_scope_healthy", {"namespace": namespace})


async def test_a_listed_scope_without_problems_is_healthy(scope: Scope) -> None:
    scope.note("list Pod", REFUSAL)
    assert healthy() == 0
    scope.note("list Pod", None)
    assert healthy() == 0  # not listed yet
    scope.start()
    assert healthy() == 1
    scope.note("watch Pod", "broken")
    scope.note("watch Job", "broken")
    scope.note("watch Pod", None)
    assert healthy() == 0
    scope.note("watch Job", None)
    assert healthy() == 1
    await scope.stop()
    assert healthy() == 0


def test_the_whole_cluster_is_the_scope_without_a_namespace() -> None:
    scopes = Scopes([])
    scopes.of("anything").start()
    assert healthy("") == 1
    assert scopes.of("anything") is scopes.of(None)
    assert [str(scope) for scope in scopes] == ["the cluster"]
    assert [str(scope) for scope in Scopes(["a", "b", "a"])] == ["namespace a", "namespace b"]


def test_a_problem_is_logged_once_a_minute_and_its_end_once(
    scope: Scope, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        scope.note("list FineTuneJob", REFUSAL)
        scope.note("watch FineTuneJob", "watch finetunejobs in namespace team: HTTP status 403")
    (line,) = caplog.messages
    assert line == f"namespace team cannot be listed or watched and is tried again: {REFUSAL}"
    clock[0] += 59
    scope.note("list FineTuneJob", REFUSAL)
    assert len(caplog.messages) == 1
    clock[0] += 1
    scope.note("list FineTuneJob", "it is gone")
    assert caplog.messages[1].endswith("it is gone")
    scope.note("list FineTuneJob", None)
    scope.note("watch FineTuneJob", None)
    assert caplog.messages[2:] == ["namespace team can be listed and watched again"]
    scope.note("watch FineTuneJob", None)
    assert len(caplog.messages) == 3


async def test_a_scope_stops_after_its_reconciles_end(scope: Scope) -> None:
    scope.start()
    with scope.reconciling(), scope.reconciling():
        stopping = asyncio.create_task(scope.stop())
        await asyncio.sleep(0)
        assert not scope.listed
        assert not stopping.done()
    await asyncio.wait_for(stopping, 5)
