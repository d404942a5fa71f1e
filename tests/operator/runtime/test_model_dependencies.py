"""The runs that a change of their base job enqueues."""

from typing import Any

import pytest

from finetune_operator.names import KIND, State
from finetune_operator.planning.types import BaseJob
from finetune_operator.runtime.cache import Cache

URI, DIGEST = "s3://models/demo/languages/v1/", "sha256:" + "b" * 64


def ended(succeeded: str) -> list[dict[str, Any]]:
    when = {"observedGeneration": 1, "lastTransitionTime": "2026-01-01T11:00:00Z", "reason": "x"}
    held = {"Finished": "True", "Succeeded": succeeded}
    return [{"type": kind, "status": status, **when} for kind, status in held.items()]


PUBLISHED = {"uri": URI, "digest": DIGEST}
SUCCEEDED = {"state": "Succeeded", "model": PUBLISHED, "conditions": ended("True")}
FAILED = {"state": "Failed", "conditions": ended("False")}


class Cluster:
    """FineTuneJobs in a cache, and whom they woke."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.enqueued: list[str] = []
        self.cache.model_dependencies.enqueue = self.enqueued.append
        self.version = 0

    def shows(self, name: str, status: Any = None, *, base: str = "", **meta: Any) -> dict[str, Any]:
        """What the API server tells of a job; `base`: the job that its spec names."""
        self.version += 1
        known = {"namespace": "demo", "name": name, "uid": f"uid-{name}", "generation": 1}
        model = {"fromJob": {"name": base}} if base else {"uri": "s3://models/minilm"}
        job = {
            "kind": KIND,
            "metadata": known | meta | {"resourceVersion": str(self.version)},
            "spec": {"model": model},
            **({"status": status} if status is not None else {}),
        }
        self.cache.put(job)
        return job

    def base(self) -> BaseJob | None:
        """What the job tickets sees of its base."""
        return self.cache.model_dependencies.of("uid-tickets")

    def shown(self) -> BaseJob:
        base = self.base()
        assert base
        return base

    def news(self) -> list[str]:
        """The runs that were enqueued since the last call."""
        found = sorted(self.enqueued)
        self.enqueued.clear()
        return found


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_run_is_enqueued_when_its_base_job_appears_changes_and_ends(cluster: Cluster) -> None:
    cluster.shows("tickets", base="languages")
    assert cluster.news() == []
    cluster.shows("languages")
    assert cluster.news() == ["uid-tickets"]
    cluster.shows("languages", {"state": "Training"})
    assert cluster.news() == ["uid-tickets"]
    cluster.shows("languages", SUCCEEDED)
    assert cluster.news() == ["uid-tickets"]
    assert cluster.base() == BaseJob("uid-languages", State.SUCCEEDED, "Succeeded", URI, DIGEST)


def test_a_run_is_enqueued_when_its_base_job_is_deleted_or_replaced(cluster: Cluster) -> None:
    cluster.shows("tickets", base="languages")
    first = cluster.shows("languages", SUCCEEDED)
    cluster.news()
    cluster.cache.remove(first)
    assert cluster.news() == ["uid-tickets"]
    assert cluster.base() is None
    cluster.shows("languages", uid="another")
    assert cluster.news() == ["uid-tickets"]


def test_a_late_deletion_of_a_replaced_base_job_changes_nothing(cluster: Cluster) -> None:
    cluster.shows("tickets", base="languages")
    old = cluster.shows("languages", SUCCEEDED)
    cluster.shows("languages", uid="another")
    cluster.news()
    cluster.cache.remove(old)
    assert cluster.news() == []
    assert cluster.shown().uid == "another"


def test_a_write_of_the_operator_enqueues_and_its_echo_does_not(cluster: Cluster) -> None:
    cluster.shows("tickets", base="languages")
    written = cluster.shows("languages", SUCCEEDED)
    assert cluster.news() == ["uid-tickets"]
    assert cluster.cache.put(written) is None
    assert cluster.news() == []


def test_progress_of_a_base_job_enqueues_nothing(cluster: Cluster) -> None:
    cluster.shows("tickets", base="languages")
    progress = {"percent": 10, "activity": "Training", "updated": "2026-01-01T12:00:00Z"}
    cluster.shows("languages", {"state": "Training", "progress": progress})
    cluster.news()
    cluster.shows("languages", {"state": "Training", "progress": progress | {"percent": 20}})
    assert cluster.news() == []


def test_only_runs_of_the_same_namespace_that_name_the_base_job_are_enqueued(cluster: Cluster) -> None:
    cluster.shows("tickets", base="languages")
    cluster.shows("moved", base="languages")
    cluster.shows("moved", base="dialects")
    cluster.shows("elsewhere", base="languages", namespace="other")
    cluster.cache.remove(cluster.shows("gone", base="languages"))
    cluster.shows("languages", SUCCEEDED)
    assert cluster.news() == ["uid-tickets"]
    cluster.shows("dialects")
    assert cluster.news() == ["uid-moved"]


async def test_a_list_enqueues_the_runs_whose_base_job_is_new_or_missing(cluster: Cluster) -> None:
    waiting = cluster.shows("tickets", base="languages")
    base = cluster.shows("languages", SUCCEEDED)
    cluster.news()
    await cluster.cache.replace(KIND, None, [waiting], "99")
    assert cluster.news() == ["uid-tickets"]
    other = {**base, "metadata": {**base["metadata"], "uid": "another", "resourceVersion": "100"}}
    await cluster.cache.replace(KIND, None, [waiting, other], "100")
    assert cluster.news() == ["uid-tickets"]


@pytest.mark.parametrize("state", ["Failed", "GateFailed"])
def test_a_failed_base_job_that_was_changed_may_still_succeed(cluster: Cluster, state: str) -> None:
    cluster.shows("tickets", base="languages")
    cluster.shows("languages", FAILED | {"state": state})
    assert cluster.shown().end == "Failed"
    cluster.shows("languages", FAILED, generation=2)
    assert cluster.shown().end is None


@pytest.mark.parametrize(
    "spec", [{}, {"model": None}, {"model": {"fromJob": None}}, {"model": {"fromJob": []}}]
)
def test_invalid_jobs_are_accepted(cluster: Cluster, spec: dict[str, Any]) -> None:
    cluster.shows("tickets", base="languages")
    job = cluster.shows("languages", {"state": "Dreaming"})
    cluster.cache.put({**job, "spec": spec, "metadata": {**job["metadata"], "resourceVersion": "50"}})
    assert cluster.base() == BaseJob("uid-languages", State.WAITING)
    assert cluster.cache.model_dependencies.of("uid-languages") is None


def test_of_thousands_of_jobs_only_the_dependent_runs_are_enqueued(cluster: Cluster) -> None:
    for number in range(5000):
        cluster.shows(f"waits-{number}", base=f"base-{number}")
    cluster.shows("last", base="base-4999")
    cluster.shows("base-4999", SUCCEEDED)
    assert cluster.news() == ["uid-last", "uid-waits-4999"]
