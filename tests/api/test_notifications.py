"""Notifications on a real API server: the operator is a process, and the receiver is a real server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import Scene
from tests.api.kube import RefusedError, wait_for
from tests.api.test_life import Audit, writes
from tests.receiver import KEY, Receiver, receiving

pytestmark = pytest.mark.api


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def configured(folder: Path, receiver: Receiver, **changes: Any) -> dict[str, Any]:
    """Settings with the target crm, whose key is a file."""
    keys = folder / "notifications/crm"
    keys.mkdir(parents=True, exist_ok=True)
    (keys / "signingKey").write_text(KEY)
    target = {"url": receiver.url, "secretName": "crm", **changes}
    return {"requireTls": False, "notifications": {"targets": {"crm": target}}}


def states(scene: Scene) -> dict[str, str]:
    return {each["event"]: each["state"] for each in scene.status().get("notifications", ())}


def test_a_receiver_is_told_of_the_start_the_gate_and_the_end_of_a_job(
    scene: Scene, receiver: Receiver, audit: Audit
) -> None:
    operator = scene.start(**configured(scene.folder, receiver))
    receiver.statuses = [500]
    uid = scene.make_job(notifications=[{"target": "crm"}], evaluation={"gate": {"minimum": 0.4}})
    scene.go_through(uid)
    scene.await_state("Succeeded")
    expected = dict.fromkeys(("Started", "GatePassed", "Succeeded"), "Delivered")
    wait_for("all are delivered", lambda: states(scene) == expected)

    events = {event["type"].split(".")[3]: event for event in receiver.events()}
    assert len(receiver.received) == 4  # the first request was answered with 500
    assert {event["id"] for event in events.values()} == {
        f"{uid}-started",
        f"{uid}-1-gatepassed",
        f"{uid}-1-succeeded",
    }
    end = events["succeeded"]["data"]
    assert (end["namespace"], end["name"], end["phase"]) == (scene.namespace, "tickets", "Succeeded")
    assert end["metric"] == {"name": "macroF1", "baseline": 0.5, "tuned": 0.5, "delta": 0.5}
    assert end["report"] == scene.status()["report"]
    name = "finetune_operator_notifications_total"
    assert operator.metric(f'{name}{{result="delivered",target="crm"}}') == 3
    assert operator.metric(f'{name}{{result="retried",target="crm"}}') == 1
    assert operator.metric("finetune_operator_notifications_pending") == 0
    assert operator.stop() == 0
    # Without notifications at most 11, see test_life: one more for each event.
    assert writes(audit())["update finetunejobs/status"] <= 14


def test_a_killed_operator_delivers_after_its_restart_what_its_status_says(
    scene: Scene, receiver: Receiver
) -> None:
    changes = configured(scene.folder, receiver, allJobs=True, events=["Succeeded"])
    operator = scene.start(**changes)
    receiver.answers.clear()
    uid = scene.make_job()
    scene.go_through(uid)
    scene.await_state("Succeeded")
    wait_for("the request is under way", lambda: len(receiver.received) == 1)
    assert states(scene) == {"Succeeded": "Pending"}
    operator.kill()
    receiver.answers.set()

    scene.start(**changes)
    wait_for("it is delivered", lambda: states(scene) == {"Succeeded": "Delivered"}, 60)
    first, second = receiver.events()
    assert first == second
    assert first["id"] == f"{uid}-1-succeeded"


def test_an_unknown_target_fails_the_job_until_the_name_is_corrected(
    scene: Scene, receiver: Receiver
) -> None:
    scene.start(**configured(scene.folder, receiver))
    uid = scene.make_job(notifications=[{"target": "cmr", "events": ["Started"]}])
    status = scene.await_state("Failed")
    assert status["message"] == (
        "spec.notifications[0].target: there is no notification target 'cmr'. Name one of these: crm."
    )
    scene.change_job(notifications=[{"target": "crm", "events": ["Started"]}])
    scene.go_through(uid)
    scene.await_state("Succeeded")
    wait_for("the start is delivered", lambda: states(scene) == {"Started": "Delivered"})
    scene.change_job(notifications=[{"target": "other"}])  # notifications may be changed at any time


@pytest.mark.parametrize(
    ("notifications", "why"),
    [
        ([{"target": "a"}, {"target": "a"}], "Duplicate value"),
        ([{"target": "a", "events": ["Failed", "Failed"]}], "Duplicate value"),
        ([{"target": "a", "events": []}], "should have at least 1 items"),
        ([{"target": "a", "events": ["Ended"]}], "Unsupported value"),
        ([{"target": f"t{n}"} for n in range(9)], "must have at most 8 items"),
        ([{"target": "https://a.example"}], "should match"),
        ([{"target": "a", "url": "https://a.example"}], "unknown field"),
    ],
)
def test_the_api_server_refuses_notifications_that_name_no_target_or_an_event_twice(
    scene: Scene, notifications: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(RefusedError, match=why):
        scene.make_job(notifications=notifications)
