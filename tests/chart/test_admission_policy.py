"""Who may name which Secret in a FineTuneJob: the chart's policy on a real API server, tried by two."""

import copy
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries
from devcluster.controlplane import control_plane
from tests.chart.conftest import helm_template

ROOT = Path(__file__).parents[2]
NAMESPACE = "team-a"
STORE = {"endpoint": "https://minio.storage.svc:9000"}
POLICY_SECONDS = 60.0
PEOPLE = """
apiVersion: v1
kind: Namespace
metadata: {name: team-a}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: jobs, namespace: team-a}
rules:
  - apiGroups: [finetune.dev]
    resources: [finetunejobs, finetunejobs/status]
    verbs: [get, create, update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: jobs, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: jobs}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: guest}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: read-s3, namespace: team-a}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: [s3], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read-s3, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: read-s3}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}
"""
PLACES = ("spec", "spec.model", "spec.dataset", "spec.output")

pytestmark = pytest.mark.api


class Cluster:
    """kubectl, as one person or another."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, stdin: str = "", user: str = "") -> subprocess.CompletedProcess[str]:
        identity = [f"--as={user}"] if user else []
        return subprocess.run(
            [binaries.path("kubectl"), f"--kubeconfig={self.kubeconfig}", *identity, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def done(self, *arguments: str, stdin: str = "", user: str = "") -> str:
        said = self.kubectl(*arguments, stdin=stdin, user=user)
        assert said.returncode == 0, said.stderr
        return said.stdout

    def write(self, verb: str, job: dict[str, Any], user: str, *more: str) -> str:
        """Writes a job; returns the refusal, empty if there was none."""
        said = self.kubectl(verb, "-f", "-", *more, stdin=json.dumps(job), user=user)
        return said.stderr if said.returncode else ""


def job(name: str, place: str = "spec", names: str = "s3") -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(yaml.safe_load((ROOT / "examples/debian-sections.yaml").read_text()))
    made["metadata"] = {"name": name, "namespace": NAMESPACE}
    made["spec"].pop("storage")
    parent = made
    for key in place.split("."):
        parent = parent[key]
    parent["storage"] = {**STORE, "secretRef": {"name": names}}
    return made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with control_plane(tmp_path_factory.mktemp("chart")) as kubeconfig:
        cluster = Cluster(kubeconfig)
        cluster.done("create", "namespace", "finetune-system")
        cluster.done("apply", "--server-side", "-f", "-", stdin=helm_template())
        cluster.done("apply", "-f", "-", stdin=PEOPLE)
        cluster.done("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=60s")
        deadline = time.monotonic() + POLICY_SECONDS
        while not cluster.write("create", job("probe"), "guest", "--dry-run=server"):
            assert time.monotonic() < deadline, "the policy is not enforced"
            time.sleep(0.5)
        yield cluster


@pytest.mark.parametrize("place", PLACES)
def test_who_may_read_the_secret_may_name_it(cluster: Cluster, place: str) -> None:
    assert not cluster.write("create", job("mine", place), "owner", "--dry-run=server")


@pytest.mark.parametrize("place", PLACES)
def test_who_may_not_read_the_secret_is_told_which_and_what_to_do(cluster: Cluster, place: str) -> None:
    refusal = cluster.write("create", job("theirs", place), "guest", "--dry-run=server")
    assert f'{place}.storage.secretRef names the Secret "s3"' in refusal
    assert "guest may not get in namespace team-a" in refusal
    assert "ask its admin for a Role that allows get on this Secret" in refusal


def test_a_right_on_one_secret_is_none_on_another(cluster: Cluster) -> None:
    assert '"other"' in cluster.write("create", job("other", names="other"), "owner", "--dry-run=server")


def test_a_job_that_names_no_secret_needs_no_right(cluster: Cluster) -> None:
    made = job("plain")
    del made["spec"]["storage"]
    assert not cluster.write("create", made, "guest", "--dry-run=server")


def test_any_change_of_the_spec_needs_the_right_and_others_do_not(cluster: Cluster) -> None:
    made = job("changing")
    assert not cluster.write("create", made, "owner")
    moved = copy.deepcopy(made)
    moved["spec"]["dataset"]["train"]["uri"] = "s3://datasets/somebody-elses/train.jsonl"
    assert "spec.storage.secretRef" in cluster.write("apply", moved, "guest", "--dry-run=server")
    assert not cluster.write("apply", moved, "owner", "--dry-run=server")
    labelled = ("label", "ftj", "changing", "team=a", f"--namespace={NAMESPACE}")
    cluster.done(*labelled, user="guest")


def test_status_is_written_without_a_right_on_secrets(cluster: Cluster) -> None:
    assert not cluster.write("create", job("running"), "owner")
    patch = ("patch", "ftj", "running", f"--namespace={NAMESPACE}", "--subresource=status", "--type=merge")
    cluster.done(*patch, "--patch", '{"status":{"message":"in progress"}}', user="guest")


def test_operators_account_may_do_what_the_chart_says_and_not_read_secrets(cluster: Cluster) -> None:
    account = "system:serviceaccount:finetune-system:finetune-operator"

    def may(*what: str, namespace: str = NAMESPACE) -> bool:
        asked = cluster.kubectl("auth", "can-i", *what, f"--namespace={namespace}", user=account)
        return asked.stdout.strip() == "yes"

    assert may("create", "jobs.batch")
    assert may("update", "finetunejobs.finetune.dev", "--subresource=status")
    assert may("update", "leases.coordination.k8s.io/finetune-operator", namespace="finetune-system")
    assert not may("update", "leases.coordination.k8s.io/finetune-operator")
    assert not may("update", "finetunejobs.finetune.dev")
    for verb in ("get", "list", "watch", "create", "update", "delete"):
        assert not may(verb, "secrets")
