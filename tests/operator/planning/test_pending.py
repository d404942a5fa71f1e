"""The Events to read, drift, and messages that the golden cases do not show."""

from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.names import Reason
from finetune_operator.objects import Manifest
from finetune_operator.planning import pending
from tests.operator import scenes

JOB = scenes.job_of()
FAILED = "MountVolume.SetUp failed for volume "


def prepare(**changes: Any) -> Manifest:
    return scenes.child(JOB, {"stage": "Prepare", **changes}, scenes.settings())


def hanging(text: str, reason: str = "FailedMount") -> pending.Waiting | None:
    job = prepare()
    pod = scenes.pod(JOB, job, {"is": "Creating"})
    event = scenes.event({"about": "tickets-0b5c3-p1-0", "reason": reason, "message": text})
    return pending.find_reason(job, [pod], [event])


@pytest.mark.parametrize(
    ("spec", "profile", "asks"),
    [
        ({"cpu": 4, "memory": "16Gi", "gpusPerNode": 8}, {}, "4 CPUs, 16Gi memory and 8 nvidia.com/gpu"),
        ({"cpu": 1, "memory": "1Gi"}, {}, "1 CPU and 1Gi memory"),
        (
            {"cpu": "500m", "memory": "1Gi"},
            {"nodeSelector": {"pool": "big", "arch": "amd64"}},
            "500m CPUs and 1Gi memory on nodes with pool=big and arch=amd64",
        ),
    ],
)
def test_a_pod_that_no_node_takes_says_how_much_it_requests(
    spec: dict[str, Any], profile: dict[str, Any], asks: str
) -> None:
    configured = scenes.settings({"profiles": {"default": profile}})
    asking = scenes.job_of({"spec": {"resources": spec}})
    job = scenes.child(asking, {"stage": "Train"}, configured)
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes."}
    pods = [scenes.pod(asking, job, {"is": "Pending", "status": {"conditions": [told]}})]
    waits = pending.find_reason(job, pods, [])

    assert waits
    assert waits.message == f"No node takes pod tickets-0b5c3-t1-0-x, which requests {asks}: 0/3 nodes."


def test_events_are_read_for_pods_that_wait_and_jobs_without_pods() -> None:
    job = prepare(status={"startTime": "2026-01-01T11:50:00Z"})
    creating = scenes.pod(JOB, job, {"is": "Creating"})
    running = scenes.pod(JOB, job, {"is": "Running"})

    assert pending.ask_about([job], [creating], scenes.NOW) == [[creating["metadata"]["uid"]]]
    assert pending.ask_about([job], [], scenes.NOW) == [[job["metadata"]["uid"]]]
    assert pending.ask_about([job], [running], scenes.NOW) == []


def test_no_events_are_read_for_a_job_before_its_start_or_with_counted_pods() -> None:
    untouched = prepare()
    counted = prepare(status={"startTime": "2026-01-01T11:50:00Z", "active": 1})

    assert pending.ask_about([untouched, counted], [], scenes.NOW) == []


def test_no_events_are_read_for_a_young_job_a_finished_job_or_a_cleanup() -> None:
    started = {"startTime": "2026-01-01T11:50:00Z"}
    young = prepare(made=(scenes.NOW - timedelta(seconds=2)).isoformat(), status=started)
    over = prepare(status={"is": "Complete"})
    cleanup = scenes.child(JOB, {"stage": "Cleanup"}, scenes.settings())

    assert pending.ask_about([young, over, cleanup], [], scenes.NOW) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            FAILED + '"storage-data" : secret "s3-keys" not found',
            Reason.SECRET_MISSING,
        ),
        (
            FAILED + '"config" : configmap "company-ca" not found',
            Reason.CONFIG_MAP_MISSING,
        ),
        (
            FAILED + '"config" : configmap references non-existent config key: ca.crt',
            Reason.KEY_MISSING,
        ),
        (
            FAILED + '"storage-data" : references non-existent secret key: accessKey',
            Reason.KEY_MISSING,
        ),
        (
            FAILED + '"storage-data" : failed to sync secret cache: timed out',
            Reason.VOLUME_FAILED,
        ),
    ],
)
def test_a_failed_mount_names_the_missing_object(text: str, reason: Reason) -> None:
    found = hanging(text)

    assert found
    assert found.reason is reason
    assert found.problem


def test_a_missing_key_is_reported_with_the_name_of_its_secret() -> None:
    found = hanging(FAILED + '"storage-data" : references non-existent secret key: accessKey')

    assert found
    assert "key accessKey in Secret s3-keys of namespace" in found.message


def test_a_missing_key_is_reported_with_the_name_of_its_config_map() -> None:
    found = hanging(FAILED + '"config" : configmap references non-existent config key: ca.crt')

    assert found
    assert "ConfigMap company-ca" in found.message


def test_the_newest_event_decides() -> None:
    job = prepare()
    pod = scenes.pod(JOB, job, {"is": "Creating"})
    about = "tickets-0b5c3-p1-0"
    events = [
        scenes.event({"about": about, "reason": "FailedMount", "message": text, "at": at})
        for text, at in (
            ('configmap "b" not found', "2026-01-01T11:59:59Z"),
            ('secret "a" not found', "2026-01-01T11:58:00Z"),
        )
    ]

    found = pending.find_reason(job, [pod], events)

    assert found
    assert found.reason is Reason.CONFIG_MAP_MISSING


def test_a_failed_sandbox_is_reported() -> None:
    found = hanging("Failed to create pod sandbox: no network", "FailedCreatePodSandBox")

    assert found
    assert found.reason is Reason.CONTAINER_CREATING
    assert "no network" in found.message


def test_a_refusal_by_a_webhook_is_reported_with_its_message() -> None:
    event = scenes.event(
        {
            "about": "tickets-0b5c3-p1",
            "reason": "FailedCreate",
            "message": "Error creating: admission webhook says no",
        }
    )
    found = pending.find_reason(prepare(), [], [event])

    assert found
    assert (found.reason, found.message) == (
        Reason.PODS_REFUSED,
        "The pods cannot be created: admission webhook says no",
    )


def test_an_unchanged_job_has_not_drifted() -> None:
    assert pending.find_drift(prepare()) is None
    assert pending.find_drift(prepare(spec={"parallelism": 0}))
    assert pending.find_drift(prepare(spec={"activeDeadlineSeconds": 5}))
