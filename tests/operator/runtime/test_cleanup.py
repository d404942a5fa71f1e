"""The cleanup of a deleted run: its start, its end, and its messages."""

import json
import logging
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from finetune_operator.names import KIND, LABEL_ROLE, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning.types import Event
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cleanup import REQUEUE_SECONDS, Cleaner
from tests.operator import scenes
from tests.operator.apiserver import ApiServer

JOB = scenes.job_of()
CONFIGURED = scenes.settings()
RECORD = "tickets-0b5c3-c1"
STARTED = [f"create NetworkPolicy {RECORD}", f"create Job {RECORD}"]
PREFIX = f"s3://models/.finetune-runs/demo/{scenes.UID}/"


def child(server: ApiServer, stage: str) -> Manifest:
    return server.put(scenes.child(JOB, {"stage": stage}, CONFIGURED))


def fine_tune_job(server: ApiServer, uid: str = scenes.UID) -> Manifest:
    return server.put({"kind": KIND, "metadata": {"name": "tickets", "namespace": "demo", "uid": uid}})


@dataclass
class Desk:
    """A cleaner whose cache knows the cleanup record alone."""

    server: ApiServer = field(default_factory=ApiServer)
    cache: Cache = field(default_factory=Cache)

    def __post_init__(self) -> None:
        self.cleaner = Cleaner(self.cache, self.server.cluster, CONFIGURED)
        self.cache.put(child(self.server, "Cleanup"))

    async def reconcile(self, seconds: float = 0) -> float | None:
        return await self.cleaner.reconcile(scenes.UID, scenes.NOW + timedelta(seconds=seconds))

    def end(self, condition: str, message: str = "") -> None:
        """The cleanup Job ends."""
        job = self.server.objects["Job", RECORD]
        job["status"] = {"conditions": [{"type": condition, "status": "True", "message": message}]}
        self.cache.put(self.server.put(job))

    def pod(self, **short: object) -> Manifest:
        """A pod of the cleanup Job."""
        pod = self.server.put(scenes.pod(JOB, self.server.objects["Job", RECORD], dict(short)))
        self.cache.put(pod)
        return pod

    def events(self) -> list[Event]:
        return self.server.posted


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_the_cleanup_starts_once_after_the_run_is_gone(desk: Desk) -> None:
    assert await desk.reconcile() == REQUEUE_SECONDS
    assert await desk.reconcile() == REQUEUE_SECONDS

    assert desk.server.writes() == STARTED


async def test_the_network_policy_of_the_cleanup_is_owned_by_the_record_and_selects_only_cleanup_pods(
    desk: Desk,
) -> None:
    await desk.reconcile()

    policy = desk.server.objects["NetworkPolicy", RECORD]
    owner = policy["metadata"]["ownerReferences"][0]
    assert owner["uid"] == desk.server.objects["ControllerRevision", RECORD]["metadata"]["uid"]
    selected = {LABEL_UID: scenes.UID, LABEL_ROLE: "cleanup"}
    assert policy["spec"]["podSelector"] == {"matchLabels": selected}
    pod_labels = desk.server.objects["Job", RECORD]["spec"]["template"]["metadata"]["labels"]
    assert selected.items() <= pod_labels.items()


async def test_a_new_job_that_the_cache_lacks_is_not_cleaned_up(desk: Desk) -> None:
    fine_tune_job(desk.server)

    assert await desk.reconcile() is None
    assert desk.server.writes() == []


async def test_a_new_job_of_the_same_name_does_not_delay_the_cleanup_of_the_old_job(desk: Desk) -> None:
    fine_tune_job(desk.server, uid="another")

    await desk.reconcile()

    assert desk.server.writes() == STARTED


async def test_a_job_with_a_truncated_name_in_the_label_is_found(desk: Desk) -> None:
    job = scenes.job_of({"metadata": {"name": "t" * 200}})
    desk.cache.remove(desk.server.objects["ControllerRevision", RECORD])
    desk.cache.put(desk.server.put(scenes.child(job, {"stage": "Cleanup"}, CONFIGURED)))
    desk.server.put({"kind": KIND, "metadata": dict(job.metadata)})

    await desk.reconcile()

    assert desk.server.writes() == []


async def test_a_record_restored_from_another_cluster_starts_no_cleanup(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "NAMESPACE_UID", "of-the-namespace-of-another-cluster")

    assert await desk.reconcile() is None
    assert await desk.reconcile() is None

    assert desk.server.writes() == []
    assert [record.message for record in caplog.records if PREFIX in record.message] == [
        (
            f"{PREFIX} is not deleted: ControllerRevision demo/{RECORD} was created in another namespace of"
            " this name, or in another cluster, where the run may be alive. Delete the ControllerRevision if"
            " it came with a restored backup."
        )
    ]


@pytest.mark.parametrize("known", [True, False])
async def test_the_cleanup_waits_for_the_last_pod_also_if_the_cache_lacks_the_pod(
    desk: Desk, known: bool
) -> None:
    made = scenes.child(JOB, {"stage": "Prepare"}, CONFIGURED)
    pod = desk.server.put(scenes.pod(JOB, made, {"is": "Running"}))
    if known:
        desk.cache.put(pod)

    await desk.reconcile()
    assert await desk.reconcile() == REQUEUE_SECONDS
    assert desk.server.writes() == []
    assert len(desk.cache.children(scenes.UID, "Pod")) == 1

    del desk.server.objects["Pod", pod["metadata"]["name"]]
    desk.cache.remove(pod)
    await desk.reconcile()
    assert desk.server.writes() == STARTED


@pytest.mark.parametrize("known", [True, False])
async def test_the_cleanup_waits_for_the_last_job_that_may_create_pods(desk: Desk, known: bool) -> None:
    train = child(desk.server, "Train")
    if known:
        desk.cache.put(train)

    await desk.reconcile()
    assert await desk.reconcile() == REQUEUE_SECONDS
    assert desk.server.writes() == []


async def test_the_cleanup_does_not_wait_for_pods_of_other_runs_or_its_own_pods(desk: Desk) -> None:
    other = child(desk.server, "Publish")
    other["metadata"]["labels"][LABEL_UID] = "another"
    desk.server.put(other)

    await desk.reconcile()
    desk.pod(code=1)
    await desk.reconcile()

    assert desk.server.writes() == STARTED


async def test_a_completed_cleanup_deletes_its_record_and_posts_what_was_deleted(desk: Desk) -> None:
    await desk.reconcile()
    desk.end("Complete")

    assert await desk.reconcile() is None

    assert desk.server.writes()[2:] == ["event CleanedUp", f"delete ControllerRevision {RECORD}"]
    assert PREFIX in desk.events()[0].message
    assert desk.cache.children(scenes.UID, "ControllerRevision") == ()


async def test_a_completed_cleanup_job_is_deleted_while_a_sidecar_keeps_its_pod_alive(desk: Desk) -> None:
    await desk.reconcile()
    desk.pod(code=0, others=[{"name": "istio-proxy"}])

    await desk.reconcile()

    deletes = [call for call in desk.server.writes() if call.startswith("delete")]
    assert deletes == [f"delete Job {RECORD}", f"delete ControllerRevision {RECORD}"]


async def test_a_failed_cleanup_is_retried_and_names_the_folder_in_an_event_a_metric_and_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.reconcile()
    desk.pod(code=5, says="failure Storage StorageDenied")
    desk.end("Failed", "Job has reached the specified backoff limit")

    assert await desk.reconcile() is None
    assert await desk.reconcile() is None

    (event,) = desk.events()
    assert (event.type, event.reason) == ("Warning", "CleanupFailed")
    assert PREFIX in event.message
    assert "ControllerRevision demo/tickets-0b5c3-c1" in event.message
    assert [r.levelname for r in caplog.records if r.message == event.message] == ["WARNING"]
    labels = {"namespace": "demo", "prefix": PREFIX}
    assert REGISTRY.get_sample_value("finetune_operator_cleanup_failed", labels) == 1

    # Kubernetes removes the failed Job after its ttl.
    desk.cache.remove(desk.server.objects.pop(("Job", RECORD)))
    await desk.reconcile()
    assert desk.server.writes()[-1] == f"create Job {RECORD}"
    desk.end("Complete")
    await desk.reconcile()
    assert REGISTRY.get_sample_value("finetune_operator_cleanup_failed", labels) is None


async def test_a_waiting_cleanup_reports_a_missing_secret(desk: Desk) -> None:
    await desk.reconcile()
    job = desk.server.objects["Job", RECORD]
    job["metadata"]["uid"] = "uid-job"
    desk.cache.put(desk.server.put(job))
    pod = desk.pod(**{"is": "Creating"})
    uid = pod["metadata"]["uid"]
    missing = 'MountVolume.SetUp failed for volume "storage-output" : secret "s3-keys" not found'
    event = {"involvedObject": {"uid": uid}, "reason": "FailedMount", "message": missing, "metadata": {}}
    desk.server.events_of[uid] = (event,)

    assert await desk.reconcile(60) == REQUEUE_SECONDS
    assert await desk.reconcile(75) == REQUEUE_SECONDS

    (posted,) = desk.events()
    assert posted.reason == "SecretMissing"
    assert posted.message.startswith(f"The cleanup of {PREFIX} waits: Waiting for Secret demo/s3-keys")


async def test_a_queued_cleanup_is_reported_without_a_warning(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await desk.reconcile()
    job = desk.server.objects["Job", RECORD]
    job["spec"]["suspend"] = True
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "default"
    desk.cache.put(desk.server.put(job))

    assert await desk.reconcile(1) == REQUEUE_SECONDS

    (posted,) = desk.events()
    assert (posted.type, posted.reason) == ("Normal", "Queued")
    assert posted.message == (
        f"The cleanup of {PREFIX} waits: Job {RECORD} waits in queue default until Kueue admits the Job."
    )
    assert [r.levelname for r in caplog.records if r.getMessage() == posted.message] == ["INFO"]


async def test_a_foreign_object_with_the_name_of_the_cleanup_is_not_taken_over(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = desk.server.put({"kind": "Job", "metadata": {"name": RECORD, "namespace": "demo"}})

    await desk.reconcile()

    assert desk.server.objects["Job", RECORD]["metadata"] == theirs["metadata"]
    assert f"waits for the name {RECORD}: there is a Job demo/{RECORD} that is not of this run" in caplog.text


async def test_a_forged_record_is_logged_once_and_ignored(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    record = json.loads(json.dumps(desk.server.objects["ControllerRevision", RECORD]))
    record["data"]["run"]["runs"] = "s3://models/"
    desk.cache.put(desk.server.put(record))

    assert await desk.reconcile() is None
    assert await desk.reconcile() is None

    assert desk.server.calls == []
    assert len([r for r in caplog.records if "is not the record of the run" in r.message]) == 1
