"""The life of a job, on a real API server with the real Job controller. There is no kubelet: what happens in
pods is written into their status by the test (the e2e suite runs real pods).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from finetune_trainer.contract import CheckpointRef, ExitCode, FailureClass, Progress, Stage, signatures
from tests.api.harness import DIGEST, UID, Operator, Scene, config_of, message_for
from tests.api.kube import KINDS, RefusedError, wait_for

pytestmark = pytest.mark.api
Audit = Callable[[], list[Any]]
WRITES = {"create", "update", "patch", "delete"}


def resource_of(call: Any) -> str:
    about = call["objectRef"]
    return str(about["resource"]) + (f"/{about['subresource']}" if "subresource" in about else "")


def writes(calls: list[Any]) -> Counter[str]:
    made = [call for call in calls if call["verb"] in WRITES and resource_of(call) != "leases"]
    return Counter(f"{call['verb']} {resource_of(call)}" for call in made)


def reads(calls: list[Any]) -> list[Any]:
    return [call for call in calls if call["verb"] == "get" and resource_of(call) != "leases"]


@pytest.mark.own_process
def test_a_job_is_prepared_trained_and_published(scene: Scene, audit: Audit) -> None:
    operator = scene.start()
    uid = scene.make_job(resources={"nodes": 2})
    scene.go_through(uid, nodes=2)
    status = scene.await_state("Succeeded")
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert conditions["Succeeded"] == conditions["Finished"] == conditions["Published"] == "True"
    assert [(a["stage"], a["number"], a["outcome"]) for a in status["attempts"]] == [
        ("Prepare", 1, "Succeeded"),
        ("Train", 1, "Succeeded"),
        ("Publish", 1, "Succeeded"),
    ]
    assert status["model"]["uri"].startswith("s3://tuned/support/")
    assert status["evaluation"]["tuned"]["primary"] == 0.5
    for model in ("majority", "baseline", "tuned"):
        labels = f'finetunejob="tickets",metric="macroF1",model="{model}",namespace="{scene.namespace}"'
        assert operator.metric(f"finetune_job_score{{{labels}}}") == 0.5
    assert operator.metric('finetune_operator_jobs{state="Succeeded"}') == 1
    assert operator.metric("finetune_jobs_finished_total") == 1
    for name in ("attempts_total", "stage_duration_seconds_count"):
        assert operator.metric(f"finetune_{name}") == 3
    # Pods that end before the operator sees them running have no time of their start.
    assert (operator.metric("finetune_queue_wait_seconds_count") or 0) in range(4)
    assert operator.stop() == 0
    made = writes(audit())
    assert made["create jobs"] == 3  # Prepare, Train, Publish
    assert made["create controllerrevisions"] == 1
    assert made["create networkpolicies"] == made["create services"] == 1
    assert made["create events"] == 3
    assert made["update finetunejobs/status"] <= 11
    assert [resource_of(call) for call in reads(audit())] == ["namespaces"]


def test_a_gate_that_is_not_passed_ends_the_job_before_publish(scene: Scene) -> None:
    operator = scene.start()
    uid = scene.make_job(evaluation={"gate": {"minimum": 0.6}})
    scene.go_through(uid, "Prepare", "Train")
    status = scene.await_state("GateFailed")
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert conditions["Evaluated"] == ("True", "Completed")
    for kind in ("GatePassed", "Published", "Succeeded"):
        assert conditions[kind] == ("False", "GateFailed")
    assert conditions["Finished"] == ("True", "GateFailed")
    assert status["training"]["staging"] in status["message"]
    assert "uri" not in status["model"]
    assert operator.metric('finetune_operator_jobs{state="GateFailed"}') == 1


def test_a_start_is_four_writes_and_one_read(scene: Scene, audit: Audit) -> None:
    operator = scene.start()
    wait_for("leader", operator.leads)
    before = len(audit())
    uid = scene.make_job()
    scene.kubelet.await_pods(uid, "Prepare")
    scene.await_state("Pending")
    calls = audit()[before:]
    assert sum(writes(calls).values()) == 4
    # The uid of the namespace, for the cleanup record.
    assert [resource_of(call) for call in reads(calls)] == ["namespaces"]


def test_nothing_is_written_while_nothing_happens(scene: Scene, audit: Audit) -> None:
    namespace = scene.namespace
    operator = scene.start(resyncSeconds=4)
    uid = scene.make_job()
    scene.go_through(uid, "Prepare")
    scene.kubelet.run(scene.kubelet.await_pods(uid, "Train"))
    scene.await_state("Training")
    scene.make_job("waits")
    wait_for("waits", lambda: scene.kubelet.kube.get("FineTuneJob", namespace, "waits").get("status"))
    time.sleep(3)  # lets what is under way end; after that, silence is what is tested
    before, reconciles = len(audit()), operator.metric("finetune_operator_reconciles_total") or 0
    time.sleep(20)
    assert writes(audit()[before:]) == {}
    assert (operator.metric("finetune_operator_reconciles_total") or 0) > reconciles
    assert operator.healthy()


def test_a_job_waits_for_the_one_whose_model_it_takes_and_then_no_longer_needs_it(scene: Scene) -> None:
    """No resync comes to its help: what happens to one job wakes the other."""
    scene.start(resyncSeconds=600)
    uid = scene.make_job(model={"fromJob": {"name": "languages"}})

    def waits_for(reason: str) -> bool:
        conditions = scene.status().get("conditions", ())
        return any(c["type"] == "Succeeded" and c["reason"] == reason for c in conditions)

    wait_for("the base is missing", lambda: waits_for("BaseJobMissing"))
    base = scene.make_job("languages")
    wait_for("the base is unfinished", lambda: waits_for("BaseJobUnfinished"))
    scene.go_through(base)
    pods = scene.kubelet.await_pods(uid, "Prepare", seconds=10)
    published = scene.await_state("Succeeded", name="languages")["model"]
    model = config_of(pods[0]).run.model
    assert model.parent
    assert (model.uri, model.parent.manifest) == (published["uri"], published["digest"])
    assert (model.parent.name, model.parent.uid) == ("languages", base)
    scene.kube.delete("FineTuneJob", scene.namespace, "languages")
    scene.go_through(uid)
    attempts = scene.await_state("Succeeded")["attempts"]
    assert [(a["stage"], a["outcome"]) for a in attempts] == [
        ("Prepare", "Succeeded"),
        ("Train", "Succeeded"),
        ("Publish", "Succeeded"),
    ]


def test_a_failed_gang_is_replaced_by_a_new_attempt(scene: Scene) -> None:
    scene.start()
    uid = scene.make_job(resources={"nodes": 2})
    scene.go_through(uid, "Prepare")
    pods = scene.kubelet.await_pods(uid, "Train", count=2)
    scene.kubelet.run(pods)
    scene.kubelet.finish(pods[:1], FailureClass.HANG)
    scene.kubelet.finish(pods[1:], FailureClass.COMMUNICATION)
    again = scene.kubelet.await_pods(uid, "Train", 2, count=2, seconds=60)
    scene.kubelet.run(again)
    scene.kubelet.finish(again)
    scene.go_through(uid, "Publish")
    attempts = scene.await_state("Succeeded")["attempts"]
    assert [(a["stage"], a["outcome"], a.get("class")) for a in attempts] == [
        ("Prepare", "Succeeded", None),
        ("Train", "Failed", "Hang"),
        ("Train", "Succeeded", None),
        ("Publish", "Succeeded", None),
    ]


def test_a_training_that_cannot_go_on_publishes_its_best_weights(scene: Scene) -> None:
    scene.start()
    uid = scene.make_job(failurePolicy={"onTrainFailure": "Finish", "maxRestarts": 0})
    scene.go_through(uid, "Prepare")
    (pod,) = scene.kubelet.await_pods(uid, "Train")
    scene.kubelet.bind([pod])
    scene.kubelet.run([pod])
    saved = {"step": 8, "checkpoint": CheckpointRef(step=7, digest=DIGEST)}
    said = message_for(pod, FailureClass.HANG).model_copy(update=saved)
    scene.kubelet.terminate(pod, int(ExitCode.of(FailureClass.HANG)), said.encode().decode())
    again = scene.kubelet.await_pods(uid, "Train", 2, seconds=60)
    assert config_of(again[0]).finish
    scene.kubelet.run(again)

    def says_why() -> bool:
        messages = [c["message"] for c in scene.status()["conditions"] if c["type"] == "Running"]
        return "Train makes no further steps: Train failed 1 time without progress" in messages[0]

    wait_for("the status says why", says_why)
    scene.kubelet.finish(again)
    scene.go_through(uid, "Publish")
    status = scene.await_state("Succeeded")
    assert "Training ended early at step 7 of 10. Train failed 1 time without progress" in status["message"]
    attempts = [(a["stage"], a["outcome"], "finishCause" in a) for a in status["attempts"]]
    assert attempts == [
        ("Prepare", "Succeeded", False),
        ("Train", "Failed", False),
        ("Train", "Succeeded", True),
        ("Publish", "Succeeded", False),
    ]


def test_a_job_with_the_longest_name_goes_through(scene: Scene) -> None:
    name = "2" + "x" * 199 + ".last" + "y" * 48
    assert len(name) == 253
    scene.start()
    uid = scene.make_job(name, resources={"nodes": 2})
    scene.go_through(uid, nodes=2)
    status = scene.await_state("Succeeded", name=name)
    assert f"/{name}/" in status["model"]["uri"]
    assert scene.jobs_of(uid) == ["p1", "t1", "u1"]


def test_train_goes_on_with_the_pods_that_find_a_node(scene: Scene) -> None:
    operator = scene.start()
    uid = scene.make_job(
        resources={"nodes": 4, "minNodes": 2, "gpusPerNode": 1}, failurePolicy={"shrinkAfter": "1m"}
    )
    scene.go_through(uid, "Prepare")
    first = scene.kubelet.await_pods(uid, "Train", 1, 4)
    scene.kubelet.bind(first[:3])
    scene.kubelet.run(first[:3])
    scene.kubelet.leave_unscheduled(first[3:], "0/3 nodes: Insufficient nvidia.com/gpu.")
    wait_for("the attempt is stopped", lambda: scene.attempts()[-1]["outcome"] == "Resized", seconds=90)
    scene.kubelet.remove(first[:3])
    pods = scene.kubelet.await_pods(uid, "Train", 2, 2)
    config = config_of(pods[0])
    assert config.chosen
    assert (config.world.nodes, config.chosen.world_size) == (2, 2)
    scene.kubelet.run(pods)

    def running() -> str:
        return next(c["message"] for c in scene.status()["conditions"] if c["type"] == "Running")

    wait_for("all pods run", lambda: running().endswith("Train goes on with 2 of 4 nodes."))
    labels = f'finetunejob="tickets",namespace="{scene.namespace}"'
    assert operator.metric(f"finetune_job_gpus{{{labels}}}") == 2
    scene.kubelet.finish(pods)
    scene.go_through(uid, "Publish")
    attempts = scene.await_state("Succeeded")["attempts"]
    assert [(a["stage"], a["outcome"], a.get("nodes")) for a in attempts] == [
        ("Prepare", "Succeeded", None),
        ("Train", "Resized", None),
        ("Train", "Succeeded", 2),
        ("Publish", "Succeeded", None),
    ]
    events = scene.kube.list("Event", scene.namespace)
    assert [e["type"] for e in events if e["reason"] == "CapacityLost"] == ["Warning"]


def test_a_train_attempt_that_no_node_takes_is_superseded_by_a_smaller_one(scene: Scene) -> None:
    scene.start()
    uid = scene.make_job(resources={"cpu": "500"})
    scene.go_through(uid, "Prepare")
    scene.kubelet.leave_unscheduled(scene.kubelet.await_pods(uid, "Train"), "0/3 nodes: Insufficient cpu.")
    scene.await_state("Waiting")
    assert "trainingStartTime" not in scene.status()

    scene.change_job(resources={"cpu": "2"})
    again = scene.kubelet.await_pods(uid, "Prepare", 2)
    scene.kubelet.run(again)
    scene.kubelet.finish(again)
    pods = scene.kubelet.await_pods(uid, "Train", 2)
    assert pods[0]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"
    scene.kubelet.run(pods)
    wait_for("training has started", lambda: scene.status().get("trainingStartTime"))
    with pytest.raises(RefusedError, match="training has started"):
        scene.change_job(resources={"cpu": "1"})

    scene.kubelet.finish(pods)
    scene.go_through(uid, "Publish")
    attempts = scene.await_state("Succeeded")["attempts"]
    assert [(a["stage"], a["number"], a["outcome"]) for a in attempts] == [
        ("Prepare", 1, "Succeeded"),
        ("Train", 1, "Superseded"),
        ("Prepare", 2, "Succeeded"),
        ("Train", 2, "Succeeded"),
        ("Publish", 1, "Succeeded"),
    ]


def test_a_suspended_job_stops_and_goes_on(scene: Scene) -> None:
    scene.start()
    uid = scene.make_job()
    scene.go_through(uid, "Prepare")
    scene.kubelet.run(scene.kubelet.await_pods(uid, "Train"))
    scene.await_state("Training")
    scene.change_job(suspend=True)
    scene.await_state("Suspended")
    scene.kubelet.await_pods(uid, "Train", count=0)
    scene.change_job(suspend=False)
    pods = scene.kubelet.await_pods(uid, "Train", 2)
    scene.kubelet.run(pods)
    scene.kubelet.finish(pods)
    scene.go_through(uid, "Publish")
    attempts = scene.await_state("Succeeded")["attempts"]
    assert [a["outcome"] for a in attempts] == ["Succeeded", "Suspended", "Succeeded", "Succeeded"]


def test_a_deleted_run_is_collected_and_cleaned_up(scene: Scene) -> None:
    """One job is deleted while the operator watches, one while it is down."""
    kube, namespace = scene.kube, scene.namespace
    operator = scene.start()
    uids = [scene.make_job(name) for name in ("watched", "unwatched")]
    for uid in uids:
        scene.go_through(uid, "Prepare")
        scene.kubelet.run(scene.kubelet.await_pods(uid, "Train"))
    kube.delete("FineTuneJob", namespace, "watched")
    assert operator.stop() == 0
    kube.delete("FineTuneJob", namespace, "unwatched")
    scene.start()
    for uid in uids:
        cleanup = scene.kubelet.await_pods(uid, "Cleanup", seconds=100)
        scene.kubelet.run(cleanup)
        scene.kubelet.terminate(cleanup[0], 0)
        for kind in ("Job", "Pod", "Service", "NetworkPolicy"):
            left = kube.list(kind, namespace, f"{UID}={uid}")
            assert not [o for o in left if o["metadata"]["labels"].get("finetune.dev/role") != "cleanup"]


def test_finished_pods_and_jobs_are_removed_after_their_ttl(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start()
    uid = scene.make_job(ttl={"podsAfterFinished": "1s", "afterFinished": "4s"})
    scene.go_through(uid)
    scene.await_state("Succeeded")
    wait_for("no pods", lambda: not kube.list("Pod", namespace, f"{UID}={uid}"))
    wait_for("no job", lambda: kube.find("FineTuneJob", namespace, "tickets") is None)


@pytest.fixture
def trainer() -> Iterator[dict[str, bytes]]:
    """A pod's /progress at 127.0.0.2: the dict has the answer, and the key that signs the answer."""
    answer = {"body": b"", "key": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if answer["body"] == b"elsewhere" else 200)
            self.send_header("Location", "http://127.0.0.2:8080/")
            key, nonce = answer["key"].decode(), self.headers[signatures.NONCE_HEADER]
            self.send_header(signatures.SIGNATURE_HEADER, signatures.sign_answer(key, nonce, answer["body"]))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.2", 8080), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield answer
    server.shutdown()
    server.server_close()
    thread.join()


def await_polls(operator: Operator, count: int) -> None:
    before = operator.metric("finetune_operator_progress_polls_total") or 0
    name = "finetune_operator_progress_polls_total"

    def enough() -> bool:
        return (operator.metric(name) or 0) >= before + count

    wait_for("polls", enough)


def test_progress_is_asked_for_and_shown(scene: Scene, trainer: dict[str, bytes], audit: Audit) -> None:
    operator = scene.start(statusSeconds=3)
    uid = scene.make_job()
    scene.go_through(uid, "Prepare")
    pods = scene.kubelet.await_pods(uid, "Train")

    def says(**changes: Any) -> bytes:
        said = Progress(stage=Stage.TRAIN, attempt=1, **changes)
        return said.model_dump_json(by_alias=True).encode()

    key = pods[0]["metadata"]["annotations"]["finetune.dev/progress-key"]
    trainer.update(body=says(activity="Loading"), key=key.encode())
    scene.kubelet.run(pods, "127.0.0.2")

    def shown() -> Any:
        return scene.status().get("progress", {})

    wait_for("loading", lambda: shown().get("activity") == "Loading")
    trainer["body"] = says(activity="Training", percent=10, step=1, total_steps=10, loss=0.5, eta_seconds=90)
    wait_for("a milestone is shown at once", lambda: shown().get("activity") == "Training", 2.5)
    message = scene.status()["message"]
    assert message == "Training: step 1 of 10, loss 0.5, about 2 min left."
    before = len(audit())
    until = time.monotonic() + 10
    step = 1
    while time.monotonic() < until:
        step += 1
        trainer["body"] = says(activity="Training", step=step, total_steps=1000)
        time.sleep(0.25)
    assert 2 <= writes(audit()[before:])["update finetunejobs/status"] <= 4
    for lie in (
        b"elsewhere",
        b"x" * 1_000_000,
        b'{"stage":"Train","attempt":1,"step":-1}',
        b'{"stage":"Train","attempt":1,"tokensPerSecond":NaN,"etaSeconds":1e999}',
        says(activity="Saving", step=2**70, total_steps=2**71),
        says(activity="Done").replace(b'"attempt":1', b'"attempt":2'),
    ):
        trainer["body"] = lie
        await_polls(operator, 2)
    assert shown()["activity"] == "Saving"
    trainer.update(body=says(activity="Done"), key=b"the key of another pod")
    await_polls(operator, 2)
    assert shown()["activity"] == "Saving"
    assert operator.metric("finetune_trainer_step") == 2**53
    scene.kubelet.finish(pods)
    scene.go_through(uid, "Publish")
    scene.await_state("Succeeded")


def test_events_tell_of_milestones(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start()
    uid = scene.make_job()
    scene.go_through(uid)
    scene.await_state("Succeeded")

    def told() -> list[str] | None:
        events = kube.call("GET", KINDS["Event"].format(namespace))["items"]
        mine = [e["reason"] for e in events if e["regarding"].get("uid") == uid]
        return mine if len(mine) == 3 else None

    assert sorted(wait_for("three events", told)) == ["Evaluated", "Prepared", "Published"]
