"""Causes that the golden cases do not show: one pod at a time, and gangs at the edges."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.objects import Manifest
from finetune_operator.planning.failure_classification import Failure, Success, cause_of, end_of
from finetune_operator.planning.termination_messages import Expected, Unreadable, clean, message_of
from finetune_operator.planning.types import InProgress
from finetune_operator.rendering.jobs import config_of
from finetune_trainer.contract import FailureClass, Stage
from tests.operator import scenes

JOB = scenes.job_of()
CONFIGURED = scenes.settings()


def gang(*pods: Manifest, **job: Any) -> tuple[Manifest, list[Manifest], Expected]:
    made = scenes.child(JOB, {"stage": "Train", **job}, CONFIGURED)
    config = config_of(made)
    assert config
    expected = Expected(Stage.TRAIN, 1, config.run.digest(), config.run)
    return made, [scenes.pod(JOB, made, p) for p in pods], expected


def cause(short: Manifest) -> Failure | None:
    _, pods, expected = gang(short)
    return cause_of(pods[0], expected, scenes.NOW)


def end(*pods: Manifest, seconds_later: float = 0, **job: Any) -> Success | Failure | InProgress:
    made, there, expected = gang(*pods, **job)
    return end_of(made, there, expected, now=scenes.NOW + timedelta(seconds=seconds_later), collection=60)


@pytest.mark.parametrize(
    ("pod", "failure", "reason"),
    [
        ({"code": 2}, "UserConfig", "UserConfig"),
        ({"code": 4}, "OutOfMemory", "OutOfMemory"),
        ({"code": 9}, "Hang", "Hang"),
        ({"code": 1}, None, "TrainerDied"),
        ({"code": 137}, None, "TrainerDied"),
        ({"code": 139}, None, "TrainerDied"),
        ({"code": 143}, None, "TrainerDied"),
        ({"is": "Failed", "status": {"reason": "NodeLost"}}, None, "NodeLost"),
        ({"is": "Failed", "status": {"reason": "UnexpectedAdmissionError"}}, None, "TrainerDied"),
    ],
)
def test_without_a_message_kubernetes_own_words_decide(
    pod: Manifest, failure: str | None, reason: str
) -> None:
    found = cause(pod)

    assert found
    assert (found.failure, found.reason) == (failure, reason)
    assert found.pod == "tickets-0b5c3-t1-0-x"


@pytest.mark.parametrize(
    ("why", "failure", "reason"),
    [
        ("PreemptionByScheduler", "Preempted", "Preempted"),
        ("EvictionByEvictionAPI", "Preempted", "Preempted"),
        ("TerminationByKubelet", "Preempted", "Preempted"),
        ("DeletionByTaintManager", None, "NodeLost"),
        ("DeletionByPodGC", None, "NodeLost"),
    ],
)
def test_disruptions_are_told_apart(why: str, failure: str | None, reason: str) -> None:
    found = cause(
        {
            "code": 137,
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": why}]},
        }
    )

    assert found
    assert (found.failure, found.reason) == (failure, reason)


def test_an_image_that_cannot_be_started_says_why() -> None:
    text = 'exec: "python": executable file not found in $PATH'
    ended = {"exitCode": 128, "reason": "StartError", "message": text}
    found = cause(
        {"code": 128, "status": {"containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}]}}
    )

    assert found
    assert text in found.message


@pytest.mark.parametrize("pod", [{"is": "Running"}, {"is": "Creating"}, {"is": "Pending"}, {"code": 0}])
def test_pods_that_have_not_failed_have_no_cause(pod: Manifest) -> None:
    assert cause(pod) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "}",
        "[" * 4000,
        '{"a":' * 800,
        "null",
        '"x"',
        "\u0000",
        "9" * 4000,
        '{"contractVersion": 1}',
        "x" * 5000,
    ],
)
def test_poisoned_messages_are_unreadable_and_nothing_worse(text: str) -> None:
    _, pods, expected = gang({"code": 0, "says": text})

    with pytest.raises(Unreadable):
        message_of(pods[0], expected)


@pytest.mark.parametrize(
    "field", [{"stage": "Prepare"}, {"attempt": 2}, {"configDigest": "sha256:" + "1" * 64}]
)
def test_messages_about_something_else_are_not_believed(field: Manifest) -> None:
    _, pods, expected = gang({"code": 0, "says": field})

    with pytest.raises(Unreadable, match="its message is of"):
        message_of(pods[0], expected)


def test_a_trainer_that_cannot_read_its_config_is_believed_to_have_failed_and_nothing_more() -> None:
    unread = {"configDigest": "sha256:" + "0" * 64, "class": "UserConfig", "reason": "ConfigInvalid"}
    found = cause({"code": 2, "says": unread})
    _, pods, expected = gang({"code": 0, "says": unread | {"class": "Success"}})

    assert found
    assert found.reason == "ConfigInvalid"
    with pytest.raises(Unreadable):
        message_of(pods[0], expected)


def test_a_report_may_speak_in_its_own_name() -> None:
    _, pods, expected = gang({"code": 0, "says": {"stage": "Readback"}})

    with pytest.raises(Unreadable):
        message_of(pods[0], expected)
    assert message_of(pods[0], replace(expected, readback=True)).stage is Stage.READBACK


def test_text_of_a_tenant_loses_what_could_harm_a_reader() -> None:
    assert clean("a\x1b[31mb\r\nc\u202ed\u0000 \ud800e", 100) == "a [31mb c d e"
    assert clean("x" * 50, 10) == "xxxxxxx..."


def test_pod_that_never_leaves_tells_of_a_lost_node() -> None:
    leaves = {"metadata": {"deletionTimestamp": "2026-01-01T11:57:00Z"}}

    found = cause(leaves)
    assert found
    assert found.reason == "NodeLost"
    assert cause({"metadata": {"deletionTimestamp": "2026-01-01T11:59:00Z"}}) is None


def test_nothing_has_ended_while_pods_run() -> None:
    assert end({"is": "Running"}, {"index": 1, "is": "Running"}) == InProgress("going")


def test_all_ended_closes_the_window_early() -> None:
    hang = {"code": 9, "says": {"class": "Hang", "reason": "NoHeartbeat", "message": "m"}}
    found = end(hang, {"index": 1, "code": 7}, status={"is": "Failed"})

    assert isinstance(found, Failure)
    assert found.failure is FailureClass.HANG


def test_first_cause_by_time_wins() -> None:
    bug = {"class": "Internal", "reason": "Late", "message": "m"}
    diverged = {"class": "Numerical", "reason": "Early", "message": "m"}
    late = {"code": 10, "at": "2026-01-01T11:59:50Z", "says": bug}
    early = {"index": 1, "code": 6, "at": "2026-01-01T11:59:10Z", "says": diverged}
    found = end(late, early, status={"is": "Failed"})

    assert isinstance(found, Failure)
    assert found.reason == "Early"


@pytest.mark.parametrize(("seconds", "decided"), [(0, False), (29, False), (31, True), (-7200, True)])
def test_window_ends_after_a_minute_whatever_the_clock_does(seconds: float, decided: bool) -> None:
    bug = {"code": 10, "says": {"class": "Internal", "reason": "Bug", "message": "m"}}
    found = end(bug, {"index": 1, "is": "Running"}, seconds_later=seconds)

    assert isinstance(found, Failure) is decided


def test_failed_job_without_a_pod_to_ask_is_a_lost_pod() -> None:
    found = end(status={"is": "Failed", "at": "2026-01-01T11:50:00Z"})

    assert isinstance(found, Failure)
    assert (found.failure, found.reason) == (None, "PodLost")


def test_job_seen_complete_before_its_pod_is_waited_for() -> None:
    found = end({"is": "Running"}, status={"is": "Complete", "at": "2026-01-01T11:59:55Z"})

    assert isinstance(found, InProgress)
    assert found.kind == "going"


def test_success_needs_the_payload_of_its_stage() -> None:
    found = end({"code": 0, "says": {"payload": None}}, status={"is": "Complete"})

    assert isinstance(found, InProgress)
    assert found.kind == "lost"
    assert isinstance(end({"code": 0, "says": "success"}, status={"is": "Complete"}), Success)


def test_choice_for_another_number_of_processes_is_not_believed() -> None:
    made = scenes.child(JOB, {"stage": "Prepare", "status": {"is": "Complete"}}, CONFIGURED)
    config = config_of(made)
    assert config
    other = config.run.model_copy(update={"world": config.run.world.model_copy(update={"nodes": 3})})
    payload = scenes.payload(other, Stage.PREPARE)
    pods = [scenes.pod(JOB, made, {"code": 0, "says": {"payload": payload}})]
    expected = Expected(Stage.PREPARE, 1, config.run.digest(), config.run)

    found = end_of(made, pods, expected, now=scenes.NOW, collection=60)

    assert isinstance(found, Failure)
    assert "chose for 3 processes where 2 are asked for" in found.message
