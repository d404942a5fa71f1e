"""A reconcile carries out a plan: the order of the requests, and the reaction to refusals."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_operator.names import KIND
from finetune_operator.objects import Manifest
from finetune_operator.planning.cloud_events import Notification
from finetune_operator.planning.types import DeliveryResult, Event
from finetune_operator.runtime.api_client import ApiError, RefusedError, UnavailableError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.gather import REREAD_SECONDS
from finetune_operator.runtime.notifier import Notifier
from finetune_operator.runtime.reconciler import (
    CONFLICT_SECONDS,
    EVENTS_PER_HOUR,
    MAX_CREATING_RECONCILES,
    Reconciler,
)
from finetune_operator.runtime.trainer_poller import Poller
from finetune_operator.runtime.workqueue import RetryLaterError
from finetune_operator.settings import Settings
from finetune_trainer.contract import Activity, Progress, Stage
from tests.operator import scenes
from tests.operator.apiserver import ApiServer

RUN = scenes.UID
POLICY, RECORD = "NetworkPolicy tickets-0b5c3", "ControllerRevision tickets-0b5c3-c1"
PREPARE = "Job tickets-0b5c3-p1"
START = [f"create {POLICY}", f"create {RECORD}", f"create {PREPARE}", "status"]
UNREACHABLE = {"class": "Storage", "reason": "StorageUnreachable", "message": "Nobody answers."}


@dataclass
class Desk:
    """A reconciler before an API server in memory; the watches are as fast as `watch` is called."""

    server: ApiServer = field(default_factory=ApiServer)
    cache: Cache = field(default_factory=Cache)
    poller: Poller = field(default_factory=lambda: Poller(10, 30))
    notifier: Notifier = field(default_factory=lambda: Notifier({}, lambda: scenes.NOW))

    configured: Settings = field(default_factory=scenes.settings)

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(
            self.cache, self.server.cluster, self.configured, self.poller, self.notifier, lambda: scenes.NOW
        )

    def apply(self, **changes: Any) -> None:
        """Somebody applies the job."""
        there = self.server.objects.get((KIND, "tickets"), {})
        document = scenes.merged(scenes.BASE, changes) | {"status": there.get("status", {})}
        self.cache.put(self.server.put(document))

    def seen(self, obj: Manifest) -> Manifest:
        """Something is there, and a watch has told of it."""
        made = self.server.put(obj)
        self.cache.put(made)
        return made

    async def reconcile(self) -> float | None:
        """Reconciles, and again while a reconcile asks for the next one at once."""
        self.server.calls.clear()
        made = True
        while made:
            before = len(self.server.calls)
            requeue_after = await self.reconciler.reconcile(RUN)
            made = any(call.startswith(("create ", "apply ")) for call in self.server.calls[before:])
            assert requeue_after == 0.0 or not made
        return requeue_after

    @property
    def status(self) -> Manifest:
        status: Manifest = self.server.objects[KIND, "tickets"]["status"]
        return status

    def reason(self) -> str:
        """Of the condition Running."""
        return str(next(c["reason"] for c in self.status["conditions"] if c["type"] == "Running"))

    def refuse(self, *calls: str, error: type[ApiError] = RefusedError) -> None:
        """From now on these calls are refused, and no others."""

        def decide(what: str) -> None:
            if what in calls:
                raise error(f"{what}: forbidden")

        self.server.before = decide

    def prepare(self, pod: Manifest) -> None:
        """The pod of the Prepare Job that the first reconcile created."""
        job = self.server.objects["Job", "tickets-0b5c3-p1"]
        owner = {"metadata": {"ownerReferences": [{"uid": job["metadata"]["uid"]}]}}
        self.seen(scenes.pod(scenes.job_of(), job, owner | pod))


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.apply()
    return made


@pytest.fixture
async def begun(desk: Desk) -> Desk:
    await desk.reconcile()
    return desk


async def test_a_first_reconcile_creates_objects_then_writes_the_status_and_a_second_writes_nothing(
    desk: Desk,
) -> None:
    await desk.reconcile()
    assert desk.server.calls == ["get Namespace demo", *START]
    assert [a["job"] for a in desk.status["attempts"]] == ["tickets-0b5c3-p1"]

    await desk.reconcile()
    assert desk.server.writes() == []


async def test_the_status_is_durable_before_anything_is_deleted_and_events_come_last(begun: Desk) -> None:
    begun.prepare({"code": 5, "says": UNREACHABLE})

    await begun.reconcile()

    assert begun.server.writes() == ["status", f"delete {PREPARE}", "event StorageUnreachable"]
    assert begun.status["attempts"][0]["outcome"] == "Failed"
    assert begun.cache.child(RUN, "Job", "tickets-0b5c3-p1") is None


async def test_a_stale_reconcile_deletes_nothing_and_is_repeated(begun: Desk) -> None:
    begun.prepare({"code": 5, "says": UNREACHABLE})
    begun.server.put(begun.server.objects[KIND, "tickets"])  # somebody writes, and no watch has told of it

    assert await begun.reconcile() == CONFLICT_SECONDS
    assert begun.server.writes() == ["status"]
    await begun.reconcile()
    assert f"delete {PREPARE}" in begun.server.writes()


async def test_a_job_deleted_during_a_reconcile_is_forgotten(begun: Desk) -> None:
    begun.prepare({"code": 5, "says": UNREACHABLE})
    begun.server.put(begun.server.objects[KIND, "tickets"])

    def gone(what: str) -> None:
        if what == "get FineTuneJob tickets":
            begun.server.objects.pop((KIND, "tickets"), None)

    begun.server.before = gone
    assert await begun.reconcile() == CONFLICT_SECONDS
    assert begun.cache.job(RUN) is None


async def test_objects_created_before_a_kill_are_adopted(begun: Desk) -> None:
    again = Desk(server=begun.server)
    again.apply()  # the watches of the children have told of nothing

    await again.reconcile()

    assert again.server.names("ControllerRevision") == ["tickets-0b5c3-c1"]
    assert again.server.names("Job") == ["tickets-0b5c3-p1"]
    assert [a["number"] for a in again.status["attempts"]] == [1]


async def test_a_foreign_network_policy_of_the_same_name_prevents_pods(desk: Desk) -> None:
    desk.server.put({"kind": "NetworkPolicy", "metadata": {"name": "tickets-0b5c3"}})
    theirs = copy.deepcopy(desk.server.objects["NetworkPolicy", "tickets-0b5c3"])

    assert await desk.reconcile() == REREAD_SECONDS
    assert desk.server.names("Job") == []
    assert desk.reason() == "NameConflict"
    assert desk.server.objects["NetworkPolicy", "tickets-0b5c3"] == theirs

    del desk.server.objects["NetworkPolicy", "tickets-0b5c3"]
    await desk.reconcile()
    assert desk.server.writes() == START


async def test_a_refused_create_is_reported_and_retried(desk: Desk) -> None:
    desk.refuse(f"create {PREPARE}")

    with pytest.raises(RetryLaterError, match="forbidden"):
        await desk.reconcile()
    assert desk.reason() == "PermissionDenied"
    assert f"create {PREPARE}: forbidden" in desk.status["message"]
    assert desk.server.names("Job") == []

    desk.refuse()
    await desk.reconcile()
    assert desk.server.writes() == [f"create {PREPARE}", "status"]


async def test_a_refused_delete_is_reported_in_the_next_reconcile_and_retried(begun: Desk) -> None:
    begun.prepare({"code": 5, "says": UNREACHABLE})
    begun.refuse(f"delete {PREPARE}")

    assert await begun.reconcile() == 0.0
    with pytest.raises(RetryLaterError, match=f"delete {PREPARE}: forbidden"):
        await begun.reconcile()
    assert begun.reason() == "PermissionDenied"

    begun.refuse()
    assert await begun.reconcile() == 0.0
    await begun.reconcile()
    assert begun.reason() == "Retrying"
    assert begun.server.names("Job") == []


async def test_a_request_is_retried_after_the_wait_that_the_api_server_asks_for(desk: Desk) -> None:
    def busy(what: str) -> None:
        raise UnavailableError(f"{what}: slow down", seconds=7)

    desk.server.before = busy
    with pytest.raises(RetryLaterError, match="slow down") as later:
        await desk.reconcile()
    assert later.value.seconds == 7


async def test_unreadable_children_stop_all_decisions(desk: Desk) -> None:
    desk.cache.note_readable("Pod", "demo", "list pods: forbidden")

    await desk.reconcile()

    assert desk.server.writes() == ["status", "event PermissionDenied"]
    assert "list pods: forbidden" in desk.status["message"]


async def test_a_network_policy_edited_by_hand_is_applied_again(begun: Desk) -> None:
    policy = begun.server.objects["NetworkPolicy", "tickets-0b5c3"]
    begun.seen(policy | {"spec": policy["spec"] | {"ingress": [{}]}})

    await begun.reconcile()

    assert begun.server.writes() == [f"apply {POLICY}"]
    assert begun.server.objects["NetworkPolicy", "tickets-0b5c3"]["spec"] == policy["spec"]


async def test_a_change_that_others_always_undo_is_an_error_and_no_endless_loop(begun: Desk) -> None:
    opened = begun.server.objects["NetworkPolicy", "tickets-0b5c3"] | {"spec": {"ingress": [{}]}}
    for _ in range(MAX_CREATING_RECONCILES):
        begun.seen(opened)
        assert await begun.reconciler.reconcile(RUN) == 0.0
    begun.seen(opened)
    with pytest.raises(RuntimeError, match="after 5 reconciles the plan still creates or changes tickets"):
        await begun.reconciler.reconcile(RUN)


async def test_an_object_that_others_recreated_is_read_again_before_an_apply(begun: Desk) -> None:
    policy = begun.server.objects["NetworkPolicy", "tickets-0b5c3"]
    begun.seen(policy | {"spec": {}})
    begun.server.put(policy | {"metadata": policy["metadata"] | {"uid": "another"}})

    await begun.reconcile()

    assert begun.server.writes() == [f"apply {POLICY}"]
    known = begun.cache.child(RUN, "NetworkPolicy", "tickets-0b5c3")
    assert known
    assert known["metadata"]["uid"] == "another"


async def test_an_invalid_job_waits_for_its_correction(desk: Desk) -> None:
    desk.apply(spec={"task": "Sorcery"})

    assert await desk.reconcile() is None
    assert desk.server.writes() == ["status"]
    assert "spec.task" in desk.status["message"]

    desk.apply()
    await desk.reconcile()
    assert f"create {PREPARE}" in desk.server.writes()


async def test_an_event_explains_if_the_status_of_an_invalid_job_is_refused(desk: Desk) -> None:
    desk.apply(spec={"task": "Sorcery"})
    desk.refuse("status")

    assert await desk.reconcile() is None
    assert [e.reason for e in desk.server.posted] == ["SpecInvalid"]


async def test_one_reason_is_posted_at_most_ten_times_an_hour(desk: Desk, monkeypatch: Any) -> None:
    raw, clock = desk.server.objects[KIND, "tickets"], [5000.0]
    monkeypatch.setattr("finetune_operator.runtime.reconciler.time.monotonic", lambda: clock[0])
    await desk.reconcile()
    memory = desk.reconciler._memories[RUN]

    async def post(reason: str) -> None:
        await desk.reconciler._post_event(raw, memory, Event("Warning", reason, "m"), scenes.NOW)

    for _ in range(EVENTS_PER_HOUR + 5):
        await post("NodeLost")
    await post("Evicted")
    assert [e.reason for e in desk.server.posted] == ["NodeLost"] * EVENTS_PER_HOUR + ["Evicted"]

    clock[0] += 3601
    await post("NodeLost")
    assert len(desk.server.posted) == EVENTS_PER_HOUR + 2


async def test_a_refused_event_does_not_fail_the_reconcile(begun: Desk) -> None:
    begun.prepare({"code": 5, "says": UNREACHABLE})
    begun.refuse("event StorageUnreachable")

    assert await begun.reconcile() is not None
    assert begun.reason() == "Retrying"


async def test_a_running_pod_is_polled_until_its_job_is_deleted(begun: Desk) -> None:
    begun.prepare({"is": "Running"})
    await begun.reconcile()
    assert RUN in begun.poller._followed

    begun.apply(metadata={"deletionTimestamp": "2026-01-01T12:00:00Z"})
    assert await begun.reconcile() is None
    assert begun.server.writes() == []
    assert RUN not in begun.poller._followed
    assert RUN not in begun.reconciler._memories


async def test_progress_that_comes_while_the_status_is_written_is_shown_in_the_next_status(
    begun: Desk,
) -> None:
    begun.prepare({"is": "Running"})
    await begun.reconcile()
    followed = begun.poller._followed[RUN]
    loading, training = (
        Progress(stage=Stage.PREPARE, attempt=1, activity=activity)
        for activity in (Activity.LOADING, Activity.TRAINING)
    )
    followed.answer = loading

    def answer(what: str) -> None:
        if what == "status":
            followed.answer, followed.shown = training, False

    begun.server.before = answer
    await begun.reconcile()
    assert begun.status["progress"]["activity"] == "Loading"
    await begun.reconcile()
    assert begun.status["progress"]["activity"] == "Training"


async def test_a_run_whose_job_is_gone_is_cleaned_up(begun: Desk) -> None:
    for gone in ((KIND, "tickets"), ("Job", "tickets-0b5c3-p1"), ("NetworkPolicy", "tickets-0b5c3")):
        begun.cache.remove(begun.server.objects.pop(gone))

    begun.server.calls.clear()
    await begun.reconciler.reconcile(RUN)

    assert begun.server.writes() == [
        "create NetworkPolicy tickets-0b5c3-c1",
        "create Job tickets-0b5c3-c1",
    ]


TARGETS = {"crm": {"url": "https://crm.example/", "secretName": "crm"}}
NOTIFIED = {"spec": {"notifications": [{"target": "crm", "events": ["Started", "Failed"]}]}}


class Post(Notifier):
    """A notifier that notes what it is given, and delivers when the test says so."""

    def __init__(self) -> None:
        super().__init__({}, lambda: scenes.NOW)
        self.given: dict[str, Notification] = {}
        self.results: list[DeliveryResult] = []
        self.forgotten: list[str] = []

    def deliver(self, run: str, notifications: Iterable[Notification]) -> None:
        assert run == RUN
        self.given |= {notification.id: notification for notification in notifications}

    def ended(self, _run: str) -> tuple[DeliveryResult, ...]:
        return tuple(self.results)

    def recorded(self, _run: str, results: Iterable[DeliveryResult]) -> None:
        self.results = [result for result in self.results if result not in set(results)]

    def forget(self, run: str) -> None:
        self.forgotten.append(run)

    def succeed(self) -> None:
        """All notifications reach their targets."""
        self.results = [DeliveryResult(each.id, each.target) for each in self.given.values()]


def notified(server: ApiServer | None = None) -> tuple[Desk, Post]:
    """A new operator process before an API server."""
    post = Post()
    desk = Desk(
        server=server or ApiServer(),
        notifier=post,
        configured=scenes.settings({"notifications": {"targets": TARGETS}}),
    )
    desk.apply(**NOTIFIED)
    return desk, post


async def test_a_notification_is_in_the_status_before_it_is_delivered_and_costs_one_more_write() -> None:
    desk, post = notified()
    desk.refuse("status")
    with pytest.raises(RetryLaterError):
        await desk.reconcile()
    assert post.given == {}

    desk.refuse()
    await desk.reconcile()
    assert desk.server.writes() == ["status"]
    assert [(each["event"], each["state"]) for each in desk.status["notifications"]] == [
        ("Started", "Pending")
    ]
    assert list(post.given) == [f"{RUN}-started"]

    post.succeed()
    await desk.reconcile()
    assert desk.server.writes() == ["status"]
    assert [each["state"] for each in desk.status["notifications"]] == ["Delivered"]
    assert post.results == []
    await desk.reconcile()
    assert desk.server.writes() == []


async def test_an_operator_that_dies_before_the_delivery_leaves_it_to_the_next_one() -> None:
    """The process is killed after each write in turn: the same event is delivered, with the same content."""
    first, before = notified()
    await first.reconcile()
    second, after = notified(first.server)
    for obj in first.server.objects.values():
        second.cache.put(obj)
    assert after.given == {}
    await second.reconcile()
    assert second.server.writes() == []
    assert after.given == before.given != {}
    after.succeed()
    await second.reconcile()

    third, nothing = notified(first.server)
    for obj in first.server.objects.values():
        third.cache.put(obj)
    await third.reconcile()
    assert nothing.given == {}
    assert third.status["notifications"][0]["state"] == "Delivered"


async def test_the_results_of_a_deleted_job_are_forgotten() -> None:
    desk, post = notified()
    await desk.reconcile()
    assert post.forgotten == []
    desk.cache.remove(desk.server.objects.pop((KIND, "tickets")))
    await desk.reconciler.reconcile(RUN)
    assert post.forgotten == [RUN]
