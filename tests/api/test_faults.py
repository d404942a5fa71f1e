"""What goes wrong around the operator, on a real API server: after each fault the same end."""

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import UID, Scene
from tests.api.kube import Kube, RefusedError, wait_for
from tests.api.proxy import Fault, Proxy, Request
from tests.api.rbac import chart_rules, grant, make_account, set_rules

pytestmark = pytest.mark.api
ROOT = Path(__file__).parents[2]
Record = Callable[[str, object], None]
SHORT_LEASE = {"durationSeconds": 4, "renewSeconds": 1}


def give_lease_free(kube: Kube, namespace: str) -> None:
    """What a killed process held would run out by itself; here nobody wants to wait for it."""
    if kube.find("Lease", namespace, "finetune-operator"):
        kube.delete("Lease", namespace, "finetune-operator")


@pytest.mark.parametrize("fault", ["kill before", "kill after"])
def test_killed_at_every_write(scene: Scene, proxy: Proxy, fault: Fault) -> None:
    """Each process lives for one write (of which it may never hear), until the job is done."""
    kube, namespace = scene.kube, scene.namespace
    operator = scene.start(proxy.kubeconfig)
    allowed = 1 if fault == "kill before" else 0
    left = allowed

    def decide(request: Request) -> Fault:
        nonlocal left
        if not request.is_write:
            return "pass"
        left -= 1
        return fault if left < 0 else "pass"

    proxy.decide, proxy.kill = decide, operator.kill
    uid = scene.make_job()
    stages = ["Prepare", "Train", "Publish"]
    kills = 0
    deadline = time.monotonic() + 400
    while scene.status().get("state") != "Succeeded":
        assert time.monotonic() < deadline
        if operator.running.poll() is not None:
            kills += 1
            give_lease_free(kube, namespace)
            left = allowed
            operator.start()
        for stage in stages[:1]:
            for pod in scene.kubelet.pods(uid, stage):
                scene.kubelet.run([pod])
                scene.kubelet.finish([pod])
                stages.remove(stage)
        time.sleep(0.05)
    assert kills >= 6
    proxy.decide = lambda _: "pass"
    assert scene.jobs_of(uid) == ["p1", "t1", "u1"]
    attempts = scene.attempts()
    assert [(a["number"], a["outcome"]) for a in attempts] == [(1, "Succeeded")] * 3


@pytest.mark.own_process
def test_a_standby_takes_over_from_a_killed_leader(scene: Scene, record_property: Record) -> None:
    leader = scene.start()
    wait_for("leader", leader.leads)
    standby = scene.start()
    uid = scene.make_job()
    scene.go_through(uid, "Prepare")
    scene.kubelet.await_pods(uid, "Train")
    wait_for("the standby waits", lambda: standby.metric("finetune_operator_leader") == 0)
    assert standby.healthy()
    leader.kill()
    killed = time.monotonic()
    scene.change_job(suspend=True)
    scene.await_state("Suspended", 18)
    record_property("takeover_seconds", round(time.monotonic() - killed, 1))
    assert scene.jobs_of(uid) == ["p1"]


def test_a_stopped_leader_gives_way_at_once(scene: Scene, record_property: Record) -> None:
    leader = scene.start()
    wait_for("leader", leader.leads)
    standby = scene.start()
    wait_for("the standby waits", lambda: standby.metric("finetune_operator_leader") == 0)
    asked = time.monotonic()
    assert leader.stop(3) == 0
    wait_for("the standby leads", standby.leads, 5)
    record_property("handover_seconds", round(time.monotonic() - asked, 1))


def test_a_standby_that_is_stopped_ends_at_once(scene: Scene) -> None:
    leader = scene.start()
    wait_for("leader", leader.leads)
    standby = scene.start()
    wait_for("the standby waits", lambda: standby.metric("finetune_operator_leader") == 0)
    assert standby.stop(3) == 0
    assert leader.leads()


def test_a_leader_that_slept_past_its_lease_ends(scene: Scene) -> None:
    first = scene.start(lease=SHORT_LEASE)
    first.allowed.append("this replica stops at once")
    wait_for("leader", first.leads)
    second = scene.start(lease=SHORT_LEASE)
    uid = scene.make_job()
    pods = scene.kubelet.await_pods(uid, "Prepare")
    first.signal(signal.SIGSTOP)
    scene.kubelet.run(pods)
    scene.kubelet.finish(pods)
    wait_for("the second leads", second.leads)
    scene.kubelet.await_pods(uid, "Train")
    first.signal(signal.SIGCONT)
    assert first.running.wait(5) == 3
    scene.go_through(uid, "Train", "Publish")
    attempts = scene.await_state("Succeeded")["attempts"]
    assert len(attempts) == 3
    assert scene.jobs_of(uid) == ["p1", "t1", "u1"]


def test_a_leader_whose_lease_cannot_be_renewed_ends_before_another_leads(scene: Scene, proxy: Proxy) -> None:
    cut_off = scene.start(proxy.kubeconfig, lease=SHORT_LEASE)
    cut_off.allowed.append("this replica stops at once")
    wait_for("leader", cut_off.leads)
    other = scene.start(lease=SHORT_LEASE)
    wait_for("the other waits", lambda: other.metric("finetune_operator_leader") == 0)
    proxy.decide = lambda request: 503 if "/leases" in request.path else "pass"
    assert cut_off.running.wait(5) == 3
    assert not other.leads()
    wait_for("the other leads", other.leads)


def test_broken_watches_are_resumed_at_once(scene: Scene, proxy: Proxy) -> None:
    operator = scene.start(proxy.kubeconfig, resyncSeconds=600)
    uid = scene.make_job()
    for stage in ("Prepare", "Train", "Publish"):
        pods = scene.kubelet.await_pods(uid, stage)
        proxy.cut_watches()
        scene.kubelet.run(pods)
        proxy.cut_watches()
        scene.kubelet.finish(pods)
    scene.await_state("Succeeded")
    assert (operator.metric("finetune_operator_watch_restarts_total") or 0) >= 8


def test_a_version_that_is_too_old_is_listed_again(scene: Scene, proxy: Proxy) -> None:
    operator = scene.start(proxy.kubeconfig, resyncSeconds=600)
    uid = scene.make_job()
    pods = scene.kubelet.await_pods(uid, "Prepare")
    refused = set()

    def once(request: Request) -> Fault:
        if request.watch and request.path not in refused:
            refused.add(request.path)
            return 410
        return "pass"

    proxy.decide = once
    proxy.cut_watches()
    wait_for("at least four refused watches", lambda: len(refused) >= 4)
    scene.kubelet.run(pods)
    scene.kubelet.finish(pods)
    scene.go_through(uid, "Train", "Publish")
    scene.await_state("Succeeded")
    assert operator.metric('finetune_operator_watch_restarts_total{cause="expired",resource="pods"}') == 1


def test_silent_watches_are_noticed_within_75_seconds(scene: Scene, proxy: Proxy) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start(proxy.kubeconfig, resyncSeconds=600)
    uid = scene.make_job()
    pods = scene.kubelet.await_pods(uid, "Prepare")
    scene.await_state("Pending")
    proxy.freeze_watches()
    scene.kubelet.run(pods)
    scene.kubelet.finish(pods)
    scene.make_job("unseen")
    frozen = time.monotonic()
    scene.kubelet.await_pods(uid, "Train", seconds=75)
    wait_for("unseen", lambda: kube.get("FineTuneJob", namespace, "unseen").get("status"), 75)
    assert time.monotonic() - frozen < 76


def test_conflicts_and_server_errors_are_outlasted(scene: Scene, proxy: Proxy) -> None:
    count = 0
    answers: list[Fault] = ["pass", "pass", 409, "pass", 503, "pass", "lose answer", "pass", 429]

    def decide(request: Request) -> Fault:
        nonlocal count
        count += request.is_write
        return answers[count % len(answers)] if request.is_write else "pass"

    proxy.decide = decide
    scene.start(proxy.kubeconfig)
    uid = scene.make_job()
    scene.go_through(uid, seconds=90)
    attempts = scene.await_state("Succeeded")["attempts"]
    assert len(attempts) == 3
    assert scene.jobs_of(uid) == ["p1", "t1", "u1"]


def test_a_status_that_others_write_too_is_put_right(scene: Scene, proxy: Proxy) -> None:
    """Somebody writes between the operator's reading and its writing, each time."""
    kube, namespace = scene.kube, scene.namespace

    def decide(request: Request) -> Fault:
        if request.method == "PUT" and request.path.endswith("/tickets/status"):
            stamp = {"metadata": {"annotations": {"stamp": str(time.monotonic())}}}
            if time.monotonic() < until:
                kube.merge("FineTuneJob", namespace, "tickets", stamp)
        return "pass"

    until = time.monotonic() + 6
    proxy.decide = decide
    scene.start(proxy.kubeconfig)
    uid = scene.make_job()
    scene.go_through(uid)
    assert len(scene.await_state("Succeeded", 40)["attempts"]) == 3


@pytest.mark.parametrize("kind", ["Job", "NetworkPolicy"])
def test_a_foreign_object_is_left_alone_and_waited_for(scene: Scene, kind: str) -> None:
    kube, namespace = scene.kube, scene.namespace
    uid = scene.make_job()
    run = f"tickets-{uid[:5]}"
    name = f"{run}-p1" if kind == "Job" else run
    pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}
    spec = (
        {"suspend": True, "template": pod} if kind == "Job" else {"podSelector": {"matchLabels": {"a": "b"}}}
    )
    version = "batch/v1" if kind == "Job" else "networking.k8s.io/v1"
    meta = {"name": name, "namespace": namespace}
    theirs = kube.create({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec})
    scene.start()
    status = scene.await_state("Waiting")
    assert "NameConflict" in {c["reason"] for c in status["conditions"]}
    assert name in status["message"]
    there = kube.get(kind, namespace, name)
    for untouched in ("uid", "generation", "labels", "annotations"):
        assert there["metadata"].get(untouched) == theirs["metadata"].get(untouched)
    kube.delete(kind, namespace, name)
    scene.go_through(uid, seconds=60)
    scene.await_state("Succeeded")


def test_children_deleted_or_edited_by_hand_are_made_again(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start()
    uid = scene.make_job()
    run = f"tickets-{uid[:5]}"
    scene.go_through(uid, "Prepare")
    scene.kubelet.run(scene.kubelet.await_pods(uid, "Train"))
    scene.await_state("Training")
    uids = {}
    for kind in ("NetworkPolicy", "Service"):
        uids[kind] = kube.get(kind, namespace, run)["metadata"]["uid"]
        kube.delete(kind, namespace, run)
    record = kube.get("ControllerRevision", namespace, f"{run}-c1")["metadata"]["uid"]
    kube.delete("ControllerRevision", namespace, f"{run}-c1")
    for kind, before in uids.items():
        found = wait_for(kind, partial(kube.find, kind, namespace, run))
        assert found["metadata"]["uid"] != before
    found = wait_for("the record", partial(kube.find, "ControllerRevision", namespace, f"{run}-c1"))
    assert found["metadata"]["uid"] != record
    kube.merge("NetworkPolicy", namespace, run, {"spec": {"ingress": [{}]}})
    wait_for("reverted", lambda: len(kube.get("NetworkPolicy", namespace, run)["spec"]["ingress"]) == 2)
    kube.delete("Job", namespace, f"{run}-t1")
    scene.kubelet.await_pods(uid, "Train", 2, seconds=40)
    attempts = scene.attempts()
    assert [(a["outcome"], a.get("reason")) for a in attempts][1] == ("Failed", "JobDeleted")


@pytest.fixture
def confined(kube: Kube, namespace: str, tmp_path: Path) -> Path:
    """The kubeconfig of a service account with nothing but a Role in the test's namespace."""
    kubeconfig = make_account(kube, namespace, tmp_path)
    grant(kube, namespace, namespace, chart_rules(namespace, namespace))
    return kubeconfig


def without(rules: list[Any], resource: str, verb: str) -> list[Any]:
    return [
        rule | {"verbs": [v for v in rule["verbs"] if v != verb]} if rule["resources"] == [resource] else rule
        for rule in rules
    ]


def test_a_role_in_its_namespace_is_all_that_it_needs(
    scene: Scene, confined: Path, control_plane_folder: Path
) -> None:
    namespace = scene.namespace
    operator = scene.start(confined)
    uid = scene.make_job(ttl={"podsAfterFinished": "1s", "afterFinished": "5s"})
    scene.go_through(uid)
    scene.await_state("Succeeded")
    wait_for("its removal", lambda: scene.kube.find("FineTuneJob", namespace, "tickets") is None)
    assert operator.stop() == 0
    calls = [json.loads(line) for line in (control_plane_folder / "audit.log").read_text().splitlines()]
    mine = [c for c in calls if c["user"]["username"] == f"system:serviceaccount:{namespace}:op"]
    assert len(mine) > 20
    assert [c["requestURI"] for c in mine if c["responseStatus"]["code"] == 403] == []
    beyond = [c["requestURI"] for c in mine if c.get("objectRef", {}).get("namespace", "") != namespace]
    assert [uri for uri in beyond if uri.count("/") > 3 or "namespaces" in uri] == []


@pytest.mark.parametrize(
    ("resource", "verb"), [("jobs", "create"), ("networkpolicies", "create"), ("pods", "list")]
)
def test_a_missing_permission_is_named_and_heals(
    scene: Scene, confined: Path, resource: str, verb: str
) -> None:
    kube, namespace = scene.kube, scene.namespace
    scene.start(confined, resyncSeconds=3)
    wait_for("lease", lambda: kube.find("Lease", namespace, "finetune-operator"))
    scene.make_job("first")
    scene.await_state("Pending", name="first")
    set_rules(kube, namespace, without(chart_rules(namespace, namespace), resource, verb))
    uid = scene.make_job()
    status = scene.await_state("Waiting")
    assert "PermissionDenied" in {c["reason"] for c in status["conditions"]}
    assert f"{verb} {resource}" in status["message"]
    set_rules(kube, namespace, chart_rules(namespace, namespace))
    pods = scene.kubelet.await_pods(uid, "Prepare", seconds=60)
    scene.kubelet.run(pods)
    scene.kubelet.finish(pods)
    scene.go_through(uid, "Train", "Publish")
    scene.await_state("Succeeded")


def test_an_admission_refusal_is_told_and_heals(scene: Scene) -> None:
    kube, namespace = scene.kube, scene.namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": namespace}}
    kube.create(quota | {"spec": {"hard": {"count/jobs.batch": "0"}}})
    wait_for("quota", lambda: kube.get("ResourceQuota", namespace, "q").get("status", {}).get("hard"))
    scene.start()
    uid = scene.make_job()
    status = scene.await_state("Waiting")
    assert "exceeded quota" in status["message"]
    assert "create jobs" in status["message"]
    kube.delete("ResourceQuota", namespace, "q")
    scene.go_through(uid, seconds=60)
    scene.await_state("Succeeded")


def test_unreadable_jobs_do_not_stop_fifty_others(scene: Scene, record_property: Record) -> None:
    kube, namespace = scene.kube, scene.namespace
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
    strict = kube.call("GET", path)["spec"]["versions"]
    loose = json.loads(json.dumps(strict))
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    loose[0]["schema"]["openAPIV3Schema"]["properties"] |= {"spec": anything}
    loose[0]["schema"]["openAPIV3Schema"].pop("x-kubernetes-validations")
    try:
        kube.call("PATCH", path, {"spec": {"versions": loose}}, "application/merge-patch+json")

        def make_poison() -> bool:
            try:
                scene.make_job("poison", task="Sorcery")
            except RefusedError:
                return False
            # The API server refuses even a status where a rule cannot be evaluated.
            scene.make_job("sealed", training={"epochs": {"of": "old"}})
            return True

        wait_for("the loose schema is served", make_poison)
    finally:
        kube.call("PATCH", path, {"spec": {"versions": strict}}, "application/merge-patch+json")

    def refuses_poison() -> bool:
        with pytest.raises(RefusedError) as refused:
            scene.make_job("poison", task="Sorcery")
        return refused.value.status == 422  # 409 while the loose schema is served

    # The API server must refuse the operator's first status, too.
    wait_for("the strict schema is served", refuses_poison)
    scene.start()
    started = time.monotonic()
    uids = [scene.make_job(f"good-{n}") for n in range(50)]
    made = time.monotonic()

    def all_there() -> bool:
        jobs = kube.list("Job", namespace, "finetune.dev/stage=Prepare")
        return {j["metadata"]["labels"][UID] for j in jobs} >= set(uids)

    wait_for("50 Prepare Jobs", all_there)
    record_property("fifty_jobs_seconds", round(time.monotonic() - started, 2))
    record_property("after_the_last_seconds", round(time.monotonic() - made, 2))
    status = scene.await_state("Waiting", name="poison")
    assert [c["type"] for c in status["conditions"]] == ["Succeeded", "Ready"]
    for condition in status["conditions"]:
        assert (condition["status"], condition["reason"]) == ("Unknown", "SpecInvalid")
        assert "spec.task" in condition["message"]

    def told() -> bool:
        events = kube.list("Event", namespace)
        return any(e["reason"] == "SpecInvalid" and e["regarding"]["name"] == "sealed" for e in events)

    wait_for("an Event about the sealed one", told)
    scene.change_job("poison", task="TextClassification")
    scene.change_job("sealed", training={"epochs": 2})
    scene.await_state("Pending", name="poison")
    scene.await_state("Pending", name="sealed")


def test_without_the_definition_it_waits_for_it(scene: Scene, proxy: Proxy) -> None:
    proxy.decide = lambda request: 404 if "finetune.dev" in request.path else "pass"
    operator = scene.start(proxy.kubeconfig)
    wait_for("it says so", lambda: "CustomResourceDefinition" in operator.log_file.read_text())
    proxy.decide = lambda _: "pass"
    scene.make_job()
    scene.await_state("Pending", 40)


@pytest.mark.own_process
def test_settings_that_cannot_be_used_are_named(scene: Scene) -> None:
    operator = scene.start(trainerImage=None, workers=0)
    operator.allowed.append("cannot be used")
    assert operator.running.wait(60) == 2
    said = operator.log_file.read_text()
    assert "trainerImage" in said
    assert "workers" in said
