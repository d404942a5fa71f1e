"""Watched namespaces are independent: one that is deleted, forbidden or flooded costs the others nothing."""

import secrets
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.api.harness import Operator, Scene
from tests.api.kube import Kube, RefusedError, wait_for
from tests.api.rbac import chart_rules, grant, make_account

pytestmark = pytest.mark.api
FLOOD = 2000
Record = Callable[[str, object], None]


def make_namespace(kube: Kube, name: str) -> None:
    kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})


def delete_namespace(kube: Kube, name: str) -> None:
    """Returns when it is gone."""

    def gone() -> bool:
        try:
            kube.call("GET", f"/api/v1/namespaces/{name}")
        except RefusedError as error:
            return error.status == 404
        return False

    kube.call("DELETE", f"/api/v1/namespaces/{name}")
    wait_for(f"namespace {name} is gone", gone, 150)


@pytest.fixture
def other(kube: Kube) -> Iterator[str]:
    """A second namespace."""
    name = f"t-{secrets.token_hex(4)}"
    make_namespace(kube, name)
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def forbidden(kube: Kube) -> Iterator[str]:
    """A namespace in which nobody has a Role."""
    name = f"t-{secrets.token_hex(4)}"
    make_namespace(kube, name)
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


def in_namespace(scene: Scene, namespace: str) -> Scene:
    return replace(scene, namespace=namespace)


def is_healthy(operator: Operator, namespace: str) -> bool:
    return operator.metric(f'finetune_operator_scope_healthy{{namespace="{namespace}"}}') == 1


def is_sick(operator: Operator, namespace: str) -> bool:
    return operator.metric(f'finetune_operator_scope_healthy{{namespace="{namespace}"}}') == 0


def shows_jobs_of(operator: Operator, namespace: str) -> bool:
    labels = f'finetunejob="tickets",namespace="{namespace}",stage="Prepare",state="Pending"'
    return operator.metric(f"finetune_job_state{{{labels}}}") is not None


def seconds_to_the_first_job(scene: Scene, name: str) -> float:
    """From the moment that a FineTuneJob is created until the Job of its first stage exists."""
    started = time.monotonic()
    uid = scene.make_job(name)
    job = partial(scene.kube.find, "Job", scene.namespace, f"{name}-{uid[:5]}-p1")
    wait_for(f"the first Job of {name}", job, 120)
    return time.monotonic() - started


def test_a_deleted_and_a_forbidden_namespace_are_named_and_cost_the_others_nothing(
    scene: Scene, other: str, forbidden: str, tmp_path: Path
) -> None:
    kube, good, home = scene.kube, scene.namespace, scene.namespace
    account = make_account(kube, home, tmp_path)
    for namespace in (good, other):
        grant(kube, home, namespace, chart_rules(home, namespace))
    operator = scene.start(account, namespaces=[forbidden, other, good], resyncSeconds=2)
    process = operator.running
    deleted = in_namespace(scene, other)
    calm = max(seconds_to_the_first_job(scene, "tickets"), seconds_to_the_first_job(deleted, "tickets"))
    wait_for("the metric names the forbidden one", lambda: is_sick(operator, forbidden))
    wait_for("the others are healthy", lambda: is_healthy(operator, good) and is_healthy(operator, other))
    wait_for("its job is shown", lambda: shows_jobs_of(operator, other))

    delete_namespace(kube, other)  # and with it the Role: lists are forbidden
    wait_for("the metric names the deleted one", lambda: is_sick(operator, other), 60)
    wait_for("its runs are dropped", lambda: not shows_jobs_of(operator, other))
    assert is_healthy(operator, good)
    assert operator.healthy()
    assert seconds_to_the_first_job(scene, "while-others-are-sick") < max(5, 3 * calm)

    make_namespace(kube, other)
    grant(kube, home, other, chart_rules(home, other))
    grant(kube, home, forbidden, chart_rules(home, forbidden))
    for namespace in (other, forbidden):
        assert seconds_to_the_first_job(in_namespace(scene, namespace), "again") < 40 + 3 * calm
        wait_for("healthy again", partial(is_healthy, operator, namespace), 60)
    scene.change_job("while-others-are-sick", suspend=True)
    scene.await_state("Suspended", name="while-others-are-sick")
    assert process.poll() is None
    assert operator.healthy()
    for namespace in (other, forbidden):
        said = [
            line["message"] for line in operator.lines() if f"namespace {namespace} cannot" in line["message"]
        ]
        assert 1 <= len(said) <= 3
        assert "forbidden" in said[0] or "403" in said[0]


def test_a_deleted_namespace_that_lists_as_empty_is_dropped_and_picked_up_again(
    scene: Scene, other: str
) -> None:
    """The operator has rights in the whole cluster, so the API server answers with an empty list."""
    operator = scene.start(namespaces=[other, scene.namespace], resyncSeconds=2)
    calm = seconds_to_the_first_job(in_namespace(scene, other), "tickets")
    wait_for("its job is shown", lambda: shows_jobs_of(operator, other))
    delete_namespace(scene.kube, other)
    wait_for("its runs are dropped", lambda: not shows_jobs_of(operator, other))
    assert is_healthy(operator, other)
    make_namespace(scene.kube, other)
    assert seconds_to_the_first_job(in_namespace(scene, other), "again") < 10 + 3 * calm
    assert operator.healthy()


def test_a_flooded_namespace_does_not_delay_the_first_job_of_another(
    scene: Scene, other: str, record_property: Record
) -> None:
    # Few workers: the test is about the order of work, not about the share of the processors.
    settings = {"workers": 4, "lease": {"durationSeconds": 900, "renewSeconds": 5}}
    operator = scene.start(namespaces=[other, scene.namespace], **settings)
    wait_for("listed", lambda: is_healthy(operator, other) and is_healthy(operator, scene.namespace))
    calm = statistics.median(seconds_to_the_first_job(scene, f"alone-{number}") for number in range(5))

    # The operator sleeps while the flood is made: then all of the flood is waiting at once.
    operator.signal(signal.SIGSTOP)
    flooded = in_namespace(scene, other)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: flooded.make_job(f"flood-{number}", suspend=True), range(FLOOD)))
    operator.signal(signal.SIGCONT)
    depth = partial(operator.metric, "finetune_operator_queue_depth")
    wait_for("the flood", lambda: (depth() or 0) > FLOOD / 2, 120)
    during: list[float] = []
    depths: list[float] = []
    while len(during) < 8 and (waiting := depth() or 0) > 100:
        depths.append(waiting)
        during.append(seconds_to_the_first_job(scene, f"beside-{len(during)}"))
        assert operator.healthy()
    beside = statistics.median(during)
    figures = {
        "alone_seconds": round(calm, 3),
        "beside_seconds": round(beside, 3),
        "worst_seconds": round(max(during), 3),
        "ratio": round(beside / calm, 1),
        "measured": len(during),
        "queue_depths": depths,
    }
    print(figures)  # noqa: T201 - the figures are what the test is for
    for name, value in figures.items():
        record_property(name, value)
    assert len(during) >= 3
    assert beside <= 3 * calm + 1
    assert max(during) <= 10 * calm + 5  # in one queue without turns, the first waits for the whole flood
