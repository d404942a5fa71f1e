"""The audit log of a whole life against the rules of the chart, in both directions; and no key is told."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import UID, Scene
from tests.api.kube import KINDS, Kube, wait_for
from tests.api.rbac import (
    Right,
    chart_rules,
    grant,
    is_allowed,
    make_account,
    rights_of_rules,
    rights_used,
)
from tests.api.test_metrics_access import bind, cluster_role, new_token, scrape

pytestmark = pytest.mark.api
CANARY = "canary7q"
DISCOVERY = re.compile(r"/version|/api(/v1)?|/apis(/[^/]+(/[^/]+)?)?")
"""Paths of the lists of groups and kinds, which every account may read (the ClusterRole system:discovery)."""
FOREIGN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ControllerRevision": ("apps/v1", "-c1", {"revision": 1, "data": {}}),
    "NetworkPolicy": ("networking.k8s.io/v1", "", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
    "Service": ("v1", "", {"spec": {"clusterIP": "None", "selector": {"a": "b"}}}),
    "Job": (
        "batch/v1",
        "-p1",
        {
            "spec": {
                "suspend": True,
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}},
            }
        },
    ),
}
"""Objects of somebody else under the names of a run: API version, end of the name, and content."""


def give_secret(kube: Kube, namespace: str) -> list[str]:
    """Creates the Secret of the job; returns what must be told nowhere."""
    values = {name: f"{CANARY}-{name}" for name in ("accessKey", "secretKey", "sessionToken")}
    secret = {"metadata": {"name": "s3"}, "stringData": values}
    kube.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    return [text for value in values.values() for text in (value, base64.b64encode(value.encode()).decode())]


def live(scene: Scene, uid: str, dump: Callable[[], None]) -> None:
    """A life in which the operator needs every right of the chart, from name conflicts to the cleanup."""
    kube, namespace, run = scene.kube, scene.namespace, f"tickets-{uid[:5]}"
    for kind in ("NetworkPolicy", "ControllerRevision", "Job"):
        wait_for(f"the conflict of the {kind}", lambda kind=kind: kind in scene.status().get("message", ""))  # type: ignore[misc]
        kube.delete(kind, namespace, run + FOREIGN[kind][1])
    wait_for("the operator reads why there is no pod", lambda: "quota" in str(scene.status()), 60)
    kube.delete("ResourceQuota", namespace, "none")
    scene.go_through(uid, "Prepare", seconds=90)
    wait_for("the conflict of the Service", lambda: "Service" in scene.status().get("message", ""))
    kube.delete("Service", namespace, run)
    scene.kubelet.run(scene.kubelet.await_pods(uid, "Train", seconds=90))
    scene.await_state("Training")
    changes = {"NetworkPolicy": {"spec": {"ingress": [{}]}}, "Service": {"spec": {"selector": {UID: "x"}}}}
    for kind, change in changes.items():
        before = kube.get(kind, namespace, run)["spec"]
        kube.merge(kind, namespace, run, change)

        def reverted(kind: str = kind, before: Any = before) -> bool:
            return bool(kube.get(kind, namespace, run)["spec"] == before)

        wait_for(f"the {kind} is reverted", reverted)
    dump()
    scene.change_job(suspend=True)
    scene.await_state("Suspended")
    scene.change_job(suspend=False)
    again = scene.kubelet.await_pods(uid, "Train", 2)
    scene.kubelet.run(again)
    scene.kubelet.finish(again)
    scene.go_through(uid, "Publish")
    scene.await_state("Succeeded")
    dump()
    wait_for("the ttl", lambda: kube.find("FineTuneJob", namespace, "tickets") is None)
    cleanup = scene.kubelet.await_pods(uid, "Cleanup", seconds=60)
    dump()
    scene.kubelet.run(cleanup)
    scene.kubelet.terminate(cleanup[0], 0)
    wait_for("the record goes", lambda: kube.find("ControllerRevision", namespace, f"{run}-c1") is None)


def test_every_right_of_the_chart_is_used_and_no_other_and_no_key_is_told(
    scene: Scene, control_plane_folder: Path, tmp_path: Path
) -> None:
    kube, namespace = scene.kube, scene.namespace
    values = give_secret(kube, namespace)
    rules = chart_rules(namespace, namespace)
    confined = make_account(kube, namespace, tmp_path)
    grant(kube, namespace, namespace, rules)
    of_metrics = cluster_role("-metrics-access")
    bind(kube, of_metrics, namespace, "op")
    uid = scene.make_job(ttl={"podsAfterFinished": "1s", "afterFinished": "6s"})
    for kind, (version, end, content) in FOREIGN.items():
        meta = {"name": f"tickets-{uid[:5]}{end}", "namespace": namespace}
        kube.create({"apiVersion": version, "kind": kind, "metadata": meta, **content})
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
    }
    kube.create(quota | {"spec": {"hard": {"pods": "0"}}})
    operator = scene.start(confined, resyncSeconds=3, metrics={"tls": True, "authentication": True})
    shown: dict[str, str] = {}

    def dump() -> None:
        shown[f"metrics {len(shown)}"] = scrape(operator, reader)[1]
        for kind in KINDS:
            shown[f"{kind} {len(shown)}"] = json.dumps(kube.list(kind, namespace))

    reader = new_token(kube, namespace, "prometheus")
    bind(kube, cluster_role("-metrics-reader"), namespace, "prometheus")
    live(scene, uid, dump)
    assert operator.stop() == 0

    log = (control_plane_folder / "audit.log").read_text()
    calls = [json.loads(line) for line in log.splitlines() if f"serviceaccount:{namespace}:op" in line]
    mine = [call for call in calls if call["user"]["username"] == f"system:serviceaccount:{namespace}:op"]
    assert [call["requestURI"] for call in mine if call["responseStatus"]["code"] in {401, 403}] == []
    assert {call["userAgent"] for call in mine if call["verb"] == "create"} == {"finetune-operator"}
    paths = {call["requestURI"].partition("?")[0] for call in mine if "objectRef" not in call}
    assert [path for path in paths if not DISCOVERY.fullmatch(path)] == []
    used = rights_used(mine)
    granted = rights_of_rules(rules + of_metrics["rules"])
    assert not used - granted
    assert not granted - used

    shown |= {"log": operator.log_file.read_text(), "settings": operator.settings_file.read_text()}
    shown["audit log"] = "\n".join(map(json.dumps, mine))
    assert any("finetune_operator_leader" in text for text in shown.values())
    assert all(f'"kind": "{kind}"' in str(shown) or kind in str(shown) for kind in KINDS)
    told = [(where, value) for where, text in shown.items() for value in [CANARY, *values] if value in text]
    assert told == []


def test_a_right_that_is_not_used_would_be_found() -> None:
    rules = [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]
    call = {"verb": "list", "objectRef": {"resource": "pods", "apiVersion": "v1"}}
    used: set[Right] = rights_used([call])
    assert used == {("list", "", "pods")}
    assert rights_of_rules(rules) - used == {
        ("get", "", "pods"),
        ("get", "", "pods/log"),
        ("list", "", "pods/log"),
    }


@pytest.mark.parametrize("what", ["secrets", "configmaps", "pods/exec", "pods/log", "serviceaccounts/token"])
def test_the_account_of_the_operator_is_refused_what_the_chart_does_not_grant(
    scene: Scene, tmp_path: Path, what: str
) -> None:
    kube, namespace = scene.kube, scene.namespace
    make_account(kube, namespace, tmp_path)
    grant(kube, namespace, namespace, chart_rules(namespace, namespace))
    for right in (("list", "", "pods"), ("create", "batch", "jobs")):
        assert is_allowed(kube, namespace, namespace, right)
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
        assert not is_allowed(kube, namespace, namespace, (verb, "", what))
