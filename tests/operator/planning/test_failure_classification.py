"""Causes of failures that the golden cases do not show: single pods, and edge cases of gangs."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.objects import Manifest
from finetune_operator.planning.failure_classification import (
    Failing,
    Failure,
    Success,
    cause_of,
    end_of,
)
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


def end(
    *pods: Manifest, failing_for: float | None = None, first: str | None = None, **job: Any
) -> Success | Failure | InProgress:
    """The end of a gang whose first failed pod was observed some seconds ago."""
    made, there, expected = gang(*pods, **job)
    since = None if failing_for is None else scenes.NOW - timedelta(seconds=failing_for)
    return end_of(made, there, expected, now=scenes.NOW, collection=60, failing=Failing(since, first))


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
def test_without_a_message_the_status_of_the_pod_decides(
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
def test_disruptions_are_distinguished(why: str, failure: str | None, reason: str) -> None:
    found = cause(
        {
            "code": 137,
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": why}]},
        }
    )

    assert found
    assert (found.failure, found.reason) == (failure, reason)


def test_a_start_error_is_reported_with_its_message() -> None:
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
def test_invalid_messages_are_unreadable_and_raise_no_other_error(text: str) -> None:
    _, pods, expected = gang({"code": 0, "says": text})

    with pytest.raises(Unreadable):
        message_of(pods[0], expected)


@pytest.mark.parametrize(
    "field", [{"stage": "Prepare"}, {"attempt": 2}, {"configDigest": "sha256:" + "1" * 64}]
)
def test_messages_about_another_attempt_are_unreadable(field: Manifest) -> None:
    _, pods, expected = gang({"code": 0, "says": field})

    with pytest.raises(Unreadable, match="its message is of"):
        message_of(pods[0], expected)


def test_a_message_without_config_digest_can_report_a_failure_but_no_success() -> None:
    unread = {"configDigest": "sha256:" + "0" * 64, "class": "UserConfig", "reason": "ConfigInvalid"}
    found = cause({"code": 2, "says": unread})
    _, pods, expected = gang({"code": 0, "says": unread | {"class": "Success"}})

    assert found
    assert found.reason == "ConfigInvalid"
    with pytest.raises(Unreadable):
        message_of(pods[0], expected)


def test_a_readback_may_report_as_stage_readback() -> None:
    _, pods, expected = gang({"code": 0, "says": {"stage": "Readback"}})

    with pytest.raises(Unreadable):
        message_of(pods[0], expected)
    assert message_of(pods[0], replace(expected, readback=True)).stage is Stage.READBACK


def test_text_of_a_tenant_loses_control_characters() -> None:
    assert clean("a\x1b[31mb\r\nc\u202ed\u0000 \ud800e", 100) == "a [31mb c d e"
    assert clean("x" * 50, 10) == "xxxxxxx..."


def test_a_pod_that_stays_after_its_grace_period_is_a_lost_node() -> None:
    leaves = {"metadata": {"deletionTimestamp": "2026-01-01T11:57:00Z"}}

    found = cause(leaves)
    assert found
    assert found.reason == "NodeLost"
    assert cause({"metadata": {"deletionTimestamp": "2026-01-01T11:59:00Z"}}) is None


def test_a_job_has_not_ended_while_its_pods_run() -> None:
    assert end({"is": "Running"}, {"index": 1, "is": "Running"}) == InProgress("going")


def test_all_ended_closes_the_window_early() -> None:
    hang = {"code": 9, "says": {"class": "Hang", "reason": "NoHeartbeat", "message": "m"}}
    found = end(hang, {"index": 1, "code": 7}, status={"is": "Failed"})

    assert isinstance(found, Failure)
    assert found.failure is FailureClass.HANG


@pytest.mark.parametrize(
    ("seconds", "decided"), [(None, False), (0, False), (59, False), (61, True), (-7200, True)]
)
@pytest.mark.parametrize("at", ["2026-01-01T08:00:00Z", "2026-01-01T11:59:59Z", "2026-01-01T16:00:00Z"])
def test_the_window_lasts_a_minute_from_the_first_observation_for_all_clocks(
    seconds: float | None, decided: bool, at: str
) -> None:
    bug = {"code": 10, "at": at, "says": {"class": "Internal", "reason": "Bug", "message": "m"}}
    found = end(bug, {"index": 1, "is": "Running"}, failing_for=seconds)

    assert isinstance(found, Failure) is decided


def test_a_failed_job_without_pods_is_a_lost_pod() -> None:
    found = end(status={"is": "Failed"}, failing_for=61)

    assert isinstance(found, Failure)
    assert (found.failure, found.reason) == (None, "PodLost")


def test_a_job_that_is_observed_before_its_pod_is_waited_for() -> None:
    found = end({"is": "Running"}, status={"is": "Complete", "at": "2026-01-01T11:59:55Z"})

    assert isinstance(found, InProgress)
    assert found.kind == "going"


def test_success_needs_the_payload_of_its_stage() -> None:
    found = end({"code": 0, "says": {"payload": None}}, status={"is": "Complete"})

    assert isinstance(found, InProgress)
    assert found.kind == "lost"
    assert isinstance(end({"code": 0, "says": "success"}, status={"is": "Complete"}), Success)


def test_a_choice_for_another_number_of_processes_is_refused() -> None:
    made = scenes.child(JOB, {"stage": "Prepare", "status": {"is": "Complete"}}, CONFIGURED)
    config = config_of(made)
    assert config
    other = config.run.model_copy(update={"world": config.run.world.model_copy(update={"nodes": 3})})
    payload = scenes.payload(other, Stage.PREPARE)
    pods = [scenes.pod(JOB, made, {"code": 0, "says": {"payload": payload}})]
    expected = Expected(Stage.PREPARE, 1, config.run.digest(), config.run)

    found = end_of(made, pods, expected, now=scenes.NOW, collection=60, failing=Failing())

    assert isinstance(found, Failure)
    assert "chose for 3 processes where 2 are asked for" in found.message


@pytest.mark.parametrize("kind", ["Sidecar", "NativeSidecar"])
@pytest.mark.parametrize("name", ["istio-proxy", "vault-agent"])
def test_a_gang_has_succeeded_when_all_trainers_have_although_sidecars_keep_the_pods_alive(
    kind: str, name: str
) -> None:
    others = [{"name": name, "kind": kind}]
    first = {"code": 0, "says": "success", "others": others}

    assert isinstance(end(first, {"index": 1, "code": 0, "others": others}), Success)
    assert end(first, {"index": 1, "others": others}) == InProgress("going")
    assert end(first) == InProgress("going")


def test_a_pod_without_sidecars_is_in_progress_until_the_kubelet_ends_the_pod() -> None:
    ended = {"code": 0, "says": "success", "status": {"phase": "Running"}}
    second = {"index": 1, "code": 0}

    assert end(ended, second) == InProgress("going")
    assert isinstance(end(ended | {"status": {"phase": "Succeeded"}}, second), Success)


@pytest.mark.parametrize("code", [1, 137])
def test_a_sidecar_that_fails_does_not_make_a_success_a_failure(code: int) -> None:
    failed = {"phase": "Failed"}
    others = [{"name": "istio-proxy", "code": code}]
    pods = (
        {"code": 0, "says": "success", "others": others, "status": failed},
        {"index": 1, "code": 0, "others": others, "status": failed},
    )

    assert isinstance(end(*pods, status={"is": "Failed"}), Success)


def test_the_window_closes_early_when_all_trainers_have_ended_although_sidecars_run() -> None:
    others = [{"name": "istio-proxy"}]
    hang = {"code": 9, "says": {"class": "Hang", "reason": "RankSilent", "message": "m"}, "others": others}

    found = end(hang, {"index": 1, "code": 7, "others": others})

    assert isinstance(found, Failure)
    assert found.reason == "RankSilent"
    assert isinstance(end(hang, {"index": 1, "others": others}), InProgress)


def test_an_init_container_that_fails_is_named() -> None:
    others = [{"name": "istio-init", "kind": "Init", "code": 2, "message": "iptables: no permission"}]
    found = cause({"is": "Failed", "others": others})

    assert found
    assert found.reason == "InitContainerFailed"
    assert "istio-init" in found.message
    assert "exit code 2" in found.message
    assert "iptables: no permission" in found.message


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_clocks_of_nodes_do_not_choose_the_cause(hours: int) -> None:
    at = (scenes.NOW + timedelta(hours=hours)).isoformat()
    bug = {"class": "Internal", "reason": "Second", "message": "m"}
    diverged = {"class": "Numerical", "reason": "First", "message": "m"}
    second = {"code": 10, "at": at, "says": bug, "metadata": {"resourceVersion": "120"}}
    first = {"index": 1, "code": 6, "says": diverged, "metadata": {"resourceVersion": "99"}}

    found = end(second, first, status={"is": "Failed"})

    assert isinstance(found, Failure)
    assert found.reason == "First"


def test_the_pod_that_was_observed_to_fail_first_stays_the_cause() -> None:
    bug = {"class": "Internal", "reason": "First", "message": "m"}
    diverged = {"class": "Numerical", "reason": "Second", "message": "m"}
    first = {"code": 10, "says": bug, "metadata": {"resourceVersion": "120"}}
    second = {"index": 1, "code": 6, "says": diverged, "metadata": {"resourceVersion": "99"}}
    going = end(first, {"index": 1, "is": "Running"})
    assert isinstance(going, InProgress)
    assert going.pod == "tickets-0b5c3-t1-0-x"

    found = end(first, second, first=going.pod)

    assert isinstance(found, Failure)
    assert found.reason == "First"


def test_the_place_of_a_failure_is_that_of_the_pod_that_is_the_cause() -> None:
    bug = {"class": "Internal", "reason": "Bug", "message": "m", "place": "training/loop.py:212"}
    lost = {"class": "Communication", "reason": "PeerLost", "message": "m", "place": "Training"}

    found = end({"code": 7, "says": lost}, {"index": 1, "code": 10, "says": bug})

    assert isinstance(found, Failure)
    assert found.place == "training/loop.py:212"
