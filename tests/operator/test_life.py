"""Whole lives of jobs on a cluster in memory: by the book, and with anything that may happen in between."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_operator.api import FineTuneJob, FineTuneJobStatus
from finetune_operator.names import State
from finetune_operator.objects import Manifest
from finetune_operator.planning.notifications import ENDS
from tests.operator import scenes
from tests.operator.miniature import Miniature, run_pods

FAILURES = [
    (2, {"class": "UserConfig", "reason": "BatchImpossible"}),
    (3, {"class": "UserData", "reason": "ColumnsMissing"}),
    (4, {"class": "OutOfMemory", "reason": "GpuMemoryExhausted"}),
    (5, {"class": "Storage", "reason": "StorageUnreachable"}),
    (7, {"class": "Communication", "reason": "PeerLost"}),
    (8, {"class": "Preempted", "reason": "Preempted"}),
    (9, {"class": "Hang", "reason": "NoHeartbeat"}),
    (10, {"class": "Internal", "reason": "Bug"}),
    (137, None),
    (143, None),
    (1, "not a message"),
    (0, None),
    (0, "[" * 4000),
    (3, {"contractVersion": "9.0"}),
]
ACTIONS = st.one_of(
    st.tuples(st.just("turn"), st.none() | st.integers(0, 8)),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("run"), st.none()),
    st.tuples(st.just("succeed"), st.none()),
    st.tuples(st.just("fail"), st.integers(0, len(FAILURES) - 1)),
    st.tuples(st.just("age"), st.sampled_from([1, 15, 61, 130, 400, 3700])),
    st.tuples(st.just("clock"), st.sampled_from([-3600, -86400 * 400])),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("epochs"), st.integers(1, 5)),
    st.tuples(st.just("ttl"), st.sampled_from(["1m", "1h"])),
    st.tuples(st.just("delete job"), st.none()),
    st.tuples(st.just("delete pod"), st.none()),
    st.tuples(st.just("lose finished pods"), st.none()),
    st.tuples(st.just("delete service"), st.none()),
    st.tuples(st.just("node dies"), st.none()),
)


LOST_AND_CHANGED: list[tuple[str, object]] = [
    ("turn", None),
    ("settle", None),
    ("run", None),
    ("succeed", None),
    ("settle", None),
    ("lose finished pods", None),
    ("epochs", 1),
]
QUIETLY: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
"""The same examples each time: a test run tells of a change. To search, raise max_examples without it."""


def test_a_life_without_faults_takes_at_most_25_writes() -> None:
    mini = Miniature(scenes.job_of())

    mini.reconcile()
    assert mini.writes == [
        "put NetworkPolicy tickets-0b5c3",
        "put ControllerRevision tickets-0b5c3-c1",
        "put Job tickets-0b5c3-p1",
        "status",
    ]

    go_on_fairly(mini)
    mini.age(601)
    mini.reconcile()

    assert state(mini) is State.SUCCEEDED
    assert sorted(mini.objects) == [("ControllerRevision", "tickets-0b5c3-c1")]
    assert len(mini.writes) <= 25, mini.writes


def test_after_the_end_nothing_is_written_any_more() -> None:
    mini = Miniature(scenes.job_of())
    go_on_fairly(mini)
    mini.age(601)
    mini.reconcile()
    before = list(mini.writes)

    for _ in range(5):
        mini.age(3600)
        mini.reconcile()

    assert mini.writes == before


def test_a_job_whose_pods_only_run_is_left_alone() -> None:
    mini = Miniature(scenes.job_of())
    mini.reconcile()
    mini.settle()
    run_pods(mini)
    mini.reconcile()
    before = list(mini.writes)

    for _ in range(5):
        mini.age(60)
        mini.reconcile()

    assert mini.writes == before


def test_killed_before_any_write_the_next_turn_comes_to_the_same_end() -> None:
    whole = Miniature(scenes.job_of())
    go_on_fairly(whole)
    for survived in range(8):
        mini = Miniature(scenes.job_of())
        go_on_fairly(mini, survived=survived)
        assert state(mini) is State.SUCCEEDED
        made = [w for w in mini.writes if w.startswith("put Job")]
        assert sorted(made) == sorted(w for w in whole.writes if w.startswith("put Job"))


@example([("turn", None), ("settle", None), ("run", None), ("node dies", None)])
@example(LOST_AND_CHANGED)
@settings(max_examples=300, **QUIETLY)
@given(st.lists(ACTIONS, max_size=60))
def test_whatever_happens_a_job_ends_or_waits_for_a_reason(actions: list[tuple[str, object]]) -> None:
    mini = Miniature(scenes.job_of())
    for action, argument in actions:
        happen(mini, action, argument)

    if mini.job.spec.suspend:
        mini.edit({"spec": {"suspend": False}})
    go_on_fairly(mini)

    if any(pod.get("stuck") for pod in mini.active_pods()) and state(mini) is State.WAITING:
        return  # with a clock far behind, a pod on a dead node is waited for, and that is said
    assert state(mini) in (State.SUCCEEDED, State.FAILED)
    mini.age(3601)
    mini.reconcile()
    quiet = list(mini.writes)
    mini.reconcile()
    mini.age(60)
    mini.reconcile()
    assert mini.writes == quiet
    assert {kind for kind, _ in mini.objects} <= {"ControllerRevision"}


@settings(max_examples=2, **QUIETLY)
@given(st.lists(st.integers(0, 300), min_size=200, max_size=200))
def test_two_hundred_preemptions_do_not_end_a_job(steps: list[int]) -> None:
    mini = Miniature(scenes.job_of())
    until_train(mini)
    for number, step in enumerate(steps, 1):
        assert mini.job.status
        assert mini.job.status.attempts[-1].number == number
        leave = {"class": "Preempted", "reason": "Preempted", "message": "m", "step": step}
        for pod in mini.active_pods():
            mini.end_pod(pod, 8, leave)
        mini.settle()
        for _ in range(3):
            mini.reconcile()
            mini.age(400)
        mini.reconcile()
        mini.settle()
        run_pods(mini)
        mini.reconcile()
    go_on_fairly(mini)

    assert state(mini) is State.SUCCEEDED
    dropped = status_of(mini).attempts_dropped
    assert dropped
    assert dropped.total + len(status_of(mini).attempts) == 203
    assert set(dropped.by_cause) == {"Preempted"}


def test_a_job_that_comes_no_further_ends_after_three_restarts() -> None:
    mini = Miniature(scenes.job_of())
    until_train(mini)
    hang = {"class": "Hang", "reason": "RankSilent", "message": "m", "step": 7}
    for _ in range(4):
        for pod in mini.active_pods():
            mini.end_pod(pod, 9, hang)
        mini.settle()
        for _ in range(3):
            mini.reconcile()
            mini.age(400)
        mini.reconcile()
        mini.settle()
        run_pods(mini)
        mini.reconcile()

    assert state(mini) is State.FAILED
    assert [a.step for a in status_of(mini).attempts] == [None, 7, 7, 7, 7]


def test_killed_before_any_write_a_job_that_reaches_its_active_deadline_ends_the_same() -> None:
    for survived in range(5):
        mini = Miniature(scenes.job_of({"spec": {"failurePolicy": {"activeDeadline": "10m"}}}))
        until_train(mini)
        mini.age(599)
        mini.reconcile()
        assert state(mini) is State.TRAINING
        mini.age(1)
        mini.reconcile(writes_left=survived)
        mini.reconcile()
        assert state(mini) is State.WAITING
        assert all(pod["metadata"].get("deletionTimestamp") for pod in mini.active_pods())
        mini.age(121)
        mini.reconcile(writes_left=survived)
        mini.reconcile()
        assert state(mini) is State.FAILED
        assert [a.reason for a in status_of(mini).attempts] == [None, "ActiveDeadlineExceeded"]
        assert [a.active_seconds for a in status_of(mini).attempts] == [0, 600]


def until_train(mini: Miniature) -> None:
    """Prepare succeeds, and all pods of Train run."""
    for _ in range(2):
        mini.reconcile()
        mini.settle()
        run_pods(mini)
        mini.reconcile()
        if status_of(mini).stage == "Prepare":
            succeed(mini)
            mini.settle()


NOTIFIED = {
    "notifications": {"targets": {"crm": {"url": "https://crm", "secretName": "crm", "allJobs": True}}}
}


def told(mini: Miniature) -> list[str]:
    """The events that status.notifications lists."""
    entries = status_of(mini).notifications or []
    assert len({entry.id for entry in entries}) == len(entries)
    assert all(entry.state == "Pending" for entry in entries)
    return [entry.event.value for entry in entries]


def test_notifications_of_a_whole_life_need_no_write_of_their_own() -> None:
    plain = Miniature(gated_job(0.8))
    notified = Miniature(gated_job(0.8), scenes.settings(NOTIFIED))
    go_on_fairly(plain)
    go_on_fairly(notified)

    assert told(notified) == ["Started", "GatePassed", "Succeeded"]
    assert notified.writes == plain.writes


@settings(max_examples=100, **QUIETLY)
@given(st.lists(ACTIONS, max_size=60))
def test_whatever_happens_the_start_and_the_end_are_notified_once(actions: list[tuple[str, object]]) -> None:
    mini = Miniature(scenes.job_of(), scenes.settings(NOTIFIED))
    for action, argument in actions:
        happen(mini, action, argument)
        if status_of(mini).completion_time:
            assert [event for event in told(mini) if event in ENDS][-1] == state(mini)
    if mini.job.spec.suspend:
        mini.edit({"spec": {"suspend": False}})
    go_on_fairly(mini)
    assert told(mini).count("Started") == 1
    failed = [a for a in status_of(mini).attempts if a.outcome == "Failed"]
    assert told(mini).count("AttemptFailed") == len(failed)


def test_a_gate_that_is_passed_costs_one_event() -> None:
    plain, gated = Miniature(scenes.job_of()), Miniature(gated_job(0.8))
    go_on_fairly(plain)
    go_on_fairly(gated)

    assert state(gated) is State.SUCCEEDED
    assert [w for w in gated.writes if w != "event GatePassed"] == plain.writes
    assert gated.writes.count("event GatePassed") == 1


def test_a_gate_that_is_not_passed_ends_the_job_and_nothing_is_published() -> None:
    mini = Miniature(gated_job(0.81))
    go_on_fairly(mini)

    assert state(mini) is State.GATE_FAILED
    assert mini.writes.count("event GateFailed") == 1
    assert not any("-u" in w for w in mini.writes if w.startswith("put Job"))
    training = status_of(mini).training
    assert training
    assert training.staging in (status_of(mini).message or "")

    for suspend in (True, False):
        mini.edit({"spec": {"suspend": suspend}})
        mini.reconcile()
        assert state(mini) is State.GATE_FAILED
    mini.age(601)
    mini.reconcile()
    assert sorted(mini.objects) == [("ControllerRevision", "tickets-0b5c3-c1")]
    before = list(mini.writes)
    mini.age(3600)
    mini.reconcile()
    assert mini.writes == before

    mini.edit({"spec": {"ttl": {"afterFinished": "1h"}}})
    mini.reconcile()
    assert mini.gone


def test_killed_before_any_write_a_gate_that_is_not_passed_ends_the_job_the_same() -> None:
    for survived in range(8):
        mini = Miniature(gated_job(0.81))
        go_on_fairly(mini, survived=survived)
        assert state(mini) is State.GATE_FAILED
        assert not any("-u" in w for w in mini.writes if w.startswith("put Job"))


def test_a_spec_changed_while_train_ends_is_trained_for_its_own_sake() -> None:
    """The API server admits the edit before the status says that Train pods have run."""
    mini = Miniature(gated_job(0.7))
    come_to_train(mini)
    run_pods(mini)
    succeed(mini)
    mini.settle()
    mini.edit({"spec": {"evaluation": {"gate": {"minimum": 0.79}}}})
    go_on_fairly(mini)

    assert state(mini) is State.SUCCEEDED
    assert [(a.stage, a.outcome, a.generation) for a in status_of(mini).attempts] == [
        ("Prepare", "Succeeded", 1),
        ("Train", "Succeeded", 1),
        ("Prepare", "Succeeded", 2),
        ("Train", "Succeeded", 2),
        ("Publish", "Succeeded", 2),
    ]


def test_a_train_attempt_whose_pods_wait_is_superseded_until_a_pod_has_run() -> None:
    mini = Miniature(scenes.job_of())
    come_to_train(mini)
    for cpu in (16, 4):
        mini.edit({"spec": {"resources": {"cpu": cpu}}})
        come_to_train(mini)
        assert status_of(mini).training_start_time is None
    run_pods(mini)
    mini.reconcile()
    started = status_of(mini).training_start_time
    go_on_fairly(mini)

    assert state(mini) is State.SUCCEEDED
    assert status_of(mini).training_start_time == started is not None
    train = [(a.number, a.outcome) for a in status_of(mini).attempts if a.stage == "Train"]
    assert train == [(1, "Superseded"), (2, "Superseded"), (3, "Succeeded")]


@settings(max_examples=100, **QUIETLY)
@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_nothing_is_published_past_a_gate(actions: list[tuple[str, object]]) -> None:
    mini = Miniature(gated_job(0.81))
    for action, argument in actions:
        happen(mini, action, argument)

    mini.edit({"spec": {"suspend": False}})
    go_on_fairly(mini)

    assert state(mini) in (State.GATE_FAILED, State.FAILED, State.WAITING)
    assert not any("-u" in w for w in mini.writes if w.startswith("put Job"))


@settings(max_examples=100, **QUIETLY)
@given(st.lists(ACTIONS, max_size=40))
def test_a_suspended_job_comes_to_rest_without_pods(actions: list[tuple[str, object]]) -> None:
    mini = Miniature(scenes.job_of())
    for action, argument in actions:
        happen(mini, action, argument)

    mini.edit({"spec": {"suspend": True}})
    for _ in range(6):
        mini.reconcile()
        mini.settle()
        mini.age(130)

    mini.reconcile()
    assert state(mini) in (State.SUSPENDED, State.SUCCEEDED, State.FAILED)
    assert [p for p in mini.active_pods() if not p.get("stuck")] == []


def come_to_train(mini: Miniature) -> None:
    """Until the pods of a Train attempt for the spec as it stands wait for a node."""
    for _ in range(20):
        mini.reconcile()
        mini.settle()
        newest = status_of(mini).attempts[-1]
        if newest.stage == "Train" and newest.generation == mini.job.metadata["generation"]:
            return
        run_pods(mini)
        mini.reconcile()
        succeed(mini)
        mini.settle()
        mini.age(15)
    raise AssertionError("Train never begins")


def gated_job(minimum: float) -> FineTuneJob:
    """A job whose tuned model scores 0.8."""
    return scenes.job_of({"spec": {"evaluation": {"gate": {"minimum": minimum}}}})


def happen(mini: Miniature, action: str, argument: Any) -> None:
    """One thing happens; where it cannot, nothing does."""
    pods = sorted(mini.active_pods(), key=lambda p: str(p["metadata"]["name"]))
    running = [p for p in pods if p["status"]["phase"] == "Running"]
    things: dict[str, Callable[[], object]] = {
        "turn": lambda: mini.reconcile(argument),
        "settle": mini.settle,
        "run": lambda: run_pods(mini),
        "succeed": lambda: succeed(mini),
        "fail": lambda: fail_pod(mini, running, argument),
        "age": lambda: mini.age(argument),
        "clock": lambda: mini.age(argument),
        "suspend": lambda: mini.edit({"spec": {"suspend": argument}}),
        "epochs": lambda: change_epochs(mini, argument),
        "ttl": lambda: mini.edit({"spec": {"ttl": {"podsAfterFinished": argument}}}),
        "delete job": lambda: delete_newest_job(mini),
        "delete pod": lambda: delete_pod(mini, pods),
        "lose finished pods": mini.lose_finished_pods,
        "delete service": lambda: mini.objects.pop(("Service", "tickets-0b5c3"), None),
        "node dies": lambda: lose_node(mini, running),
    }
    things[action]()


def fail_pod(mini: Miniature, running: list[Manifest], how: int) -> None:
    code, says = FAILURES[how]
    for pod in running[-1:]:
        mini.end_pod(pod, code, {"message": "m", **says} if isinstance(says, dict) else says)


def delete_pod(mini: Miniature, pods: list[Manifest]) -> None:
    for pod in pods[:1]:
        mini.delete_pod(pod)


def change_epochs(mini: Miniature, epochs: int) -> None:
    """What the API server admits until the status says that a Train pod has run."""
    if status_of(mini).training_start_time is None:
        mini.edit({"spec": {"training": {"epochs": epochs}}})


def delete_newest_job(mini: Miniature) -> None:
    jobs = [j for j in mini.jobs() if not j["spec"].get("suspend")]
    if jobs:
        mini.delete_job(jobs[-1]["metadata"]["name"])


def lose_node(mini: Miniature, running: list[Manifest]) -> None:
    for pod in running[:1]:
        pod["stuck"] = True
        mini.delete_pod(pod)


def go_on_fairly(mini: Miniature, survived: int | None = None) -> None:
    """From here on pods run and succeed, time passes, and nobody meddles."""
    for round_number in range(150):
        # Every second turn survives only so many writes.
        mini.reconcile(survived if round_number % 2 else None)
        if state(mini) in (State.SUCCEEDED, State.FAILED, State.GATE_FAILED):
            return
        mini.settle()
        if round_number % 3 == 1:
            run_pods(mini)
        if round_number % 3 == 2:
            succeed(mini)
            mini.settle()
        mini.age(65)


def succeed(mini: Miniature) -> None:
    for pod in mini.active_pods():
        if pod["status"]["phase"] == "Running" and not pod.get("stuck"):
            first = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0"
            mini.end_pod(pod, 0, "success" if first else None)


def state(mini: Miniature) -> State | None:
    return status_of(mini).state


def status_of(mini: Miniature) -> FineTuneJobStatus:
    return mini.job.status or FineTuneJobStatus()
