"""The index of the failures that point to a node."""

from datetime import UTC, datetime
from typing import Any

from finetune_operator.names import KIND
from finetune_operator.planning.types import NodeFailure
from finetune_operator.runtime.cache import Cache

END = "2026-01-01T11:00:00Z"


def job(name: str, *nodes: str, version: int = 1, attempts: Any = None) -> dict[str, Any]:
    given = {"generation": 1, "configDigest": "", "specDigest": "", "startTime": END, "endTime": END}
    failed = [
        given
        | {"stage": "Train", "number": number, "job": f"{name}-t{number}", "outcome": "Failed"}
        | {"class": "Hang", "node": node}
        for number, node in enumerate(nodes, 1)
    ]
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": KIND, "metadata": meta, "status": {"attempts": failed if attempts is None else attempts}}


def failure(name: str, node: str) -> NodeFailure:
    return NodeFailure(node, f"uid-{name}", "ns", datetime(2026, 1, 1, 11, tzinfo=UTC))


def test_the_index_follows_the_jobs_of_the_cache() -> None:
    cache = Cache()
    cache.put(job("a", "n1"))
    cache.put(job("b"))
    assert cache.node_failures.all() == (failure("a", "n1"),)
    cache.put(job("b", "n2", version=2))
    cache.put(job("a", "n1", "n3", version=2))
    assert set(cache.node_failures.all()) == {failure("a", "n1"), failure("a", "n3"), failure("b", "n2")}
    cache.remove(job("a", version=3))
    assert cache.node_failures.all() == (failure("b", "n2"),)
    cache.forget("ns")
    assert cache.node_failures.all() == ()


def test_a_hang_of_a_gang_points_to_no_node() -> None:
    cache = Cache()
    cache.put(job("a", "n1") | {"spec": {"resources": {"nodes": 2}}})
    cache.put(job("b", "n2") | {"spec": {"resources": {"nodes": 1}}})
    assert cache.node_failures.all() == (failure("b", "n2"),)


def test_the_index_is_not_built_again_without_a_change() -> None:
    cache = Cache()
    cache.put(job("a", "n1"))
    before = cache.node_failures.all()
    cache.put(job("b", version=1))
    cache.put(job("a", "n1", version=2))
    assert cache.node_failures.all() is before


def test_an_invalid_status_has_no_failures() -> None:
    cache = Cache()
    for number, attempts in enumerate(("x", ["x"], [{"outcome": "Failed", "node": "n1"}])):
        cache.put(job(f"j{number}", attempts=attempts))
    assert cache.node_failures.all() == ()
