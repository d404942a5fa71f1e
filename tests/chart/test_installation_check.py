"""`helm test`: the objects of the chart, and the check on a real API server with an operator.

The check runs as the account of its pod, with the rights that the chart gives to the account.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator import installation_check
from tests.api.harness import Operator
from tests.api.kube import wait_for
from tests.chart.cluster import Cluster, installed
from tests.chart.conftest import manifests, the
from tests.chart.test_admission_policy import job

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
NAME = "finetune-operator-check"
SPEC = {key: value for key, value in job("x")["spec"].items() if key != "resources"}
VALUES = (
    "replicas=2",
    'test.namespace="team-a"',
    "test.waitSeconds=3",
    'networkPolicy.metricsFrom=[{"podSelector":{}}]',
)
WITH_JOB = (*VALUES, f"test.job={json.dumps(SPEC)}", "test.jobSeconds=1", 'test.secretNames=["s3"]')


def arguments(*values: str) -> list[str]:
    """The arguments of the check."""
    job = the("Job", manifests(*values, tests=True))
    found: list[str] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


def hooks(rendered: list[Manifest]) -> list[Manifest]:
    return [m for m in rendered if "helm.sh/hook" in m["metadata"].get("annotations", {})]


def test_all_objects_of_the_test_are_hooks_that_helm_deletes(render: Render) -> None:
    added = [m for m in render(tests=True) if m not in render()]
    assert {m["kind"] for m in added} == {"ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "Job"}
    assert added == hooks(added)
    for manifest in added:
        annotations = manifest["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert "before-hook-creation" in annotations["helm.sh/hook-delete-policy"]
        if manifest["kind"] != "Job":
            assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]
            assert int(annotations["helm.sh/hook-weight"]) < 0, "the pod starts after its rights exist"


def test_the_job_runs_the_check_with_the_image_of_the_operator(render: Render) -> None:
    rendered = render(tests=True)
    containers = [
        the(kind, rendered)["spec"]["template"]["spec"]["containers"][0] for kind in ("Job", "Deployment")
    ]
    assert containers[0]["image"] == containers[1]["image"]
    assert containers[0]["command"] == ["python", "-m", installation_check.__name__]


def test_no_service_or_deployment_of_the_operator_selects_the_pod(render: Render) -> None:
    rendered = render(*VALUES, tests=True)
    labels = the("Job", rendered)["spec"]["template"]["metadata"]["labels"].items()
    for kind, path in (
        ("Service", ("spec", "selector")),
        ("Deployment", ("spec", "selector", "matchLabels")),
        ("PodDisruptionBudget", ("spec", "selector", "matchLabels")),
    ):
        selector: Any = the(kind, rendered)
        for key in path:
            selector = selector[key]
        assert not selector.items() <= labels, kind


def test_the_policies_let_the_pod_read_the_metrics(render: Render) -> None:
    rendered = render(*VALUES, tests=True)
    labels = the("Job", rendered)["spec"]["template"]["metadata"]["labels"].items()
    own = the("NetworkPolicy", rendered, "-check")["spec"]
    assert own["podSelector"]["matchLabels"].items() <= labels
    operator = the("NetworkPolicy", rendered, "finetune-operator")["spec"]
    assert any(
        peer.get("podSelector", {}).get("matchLabels", {"": ""}).items() <= labels
        for peer in operator["ingress"][0]["from"]
    )
    pods = the("Deployment", rendered)["spec"]["template"]["metadata"]["labels"].items()
    assert own["egress"][3]["to"][0]["podSelector"]["matchLabels"].items() <= pods


@pytest.mark.parametrize(
    ("values", "namespace"),
    [
        ((), "finetune-system"),
        (('watchNamespaces=["team-b","team-c"]',), "team-b"),
        (('watchNamespaces=["team-b"]', 'test.namespace="team-x"'), "team-x"),
    ],
)
def test_the_jobs_of_the_test_are_in_a_watched_namespace(
    render: Render, values: tuple[str, ...], namespace: str
) -> None:
    role = the("Role", render(*values, tests=True), "-check-jobs")
    assert role["metadata"]["namespace"] == namespace
    assert f"--namespace={namespace}" in arguments(*values)


def test_what_is_not_installed_is_not_checked() -> None:
    url = "http://finetune-operator-metrics.finetune-system.svc.cluster.local:8080/metrics"
    assert {f"--metrics-url={url}", "--admission-policy"} <= set(arguments())
    assert "--metrics-url" not in " ".join(arguments("metrics.service.create=false"))
    assert "--admission-policy" not in arguments("admissionPolicy.enabled=false")


def test_the_check_knows_how_the_metrics_are_served() -> None:
    assert "--metrics-need-token" not in arguments()
    secured = arguments("settings.metrics.tls=true", "settings.metrics.authentication=true")
    url = "https://finetune-operator-metrics.finetune-system.svc.cluster.local:8080/metrics"
    assert {f"--metrics-url={url}", "--metrics-need-token"} <= set(secured)


@dataclass(frozen=True)
class Installation:
    """The chart on an API server, an operator, and the check as the account of its pod."""

    cluster: Cluster
    operator: Operator
    kubeconfig: Path

    def check(self, *more: str, metrics: str = "", values: tuple[str, ...] = VALUES) -> tuple[int, str]:
        """The exit code and the log of the check, run with the arguments of the chart."""
        given = [each for each in arguments(*values) if not each.startswith("--metrics-url")]
        url = metrics or f"http://127.0.0.1:{self.operator.metrics_port}/metrics"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "finetune_operator.installation_check",
                *given,
                f"--metrics-url={url}",
                *more,
            ],
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr


def kubeconfig_of(cluster: Cluster, account: str, folder: Path) -> Path:
    """The kubeconfig of a service account of the chart."""
    token = cluster.done("create", "token", account, "--namespace=finetune-system").strip()
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    file = folder / account
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("check")

    def enforced(cluster: Cluster) -> bool:
        return bool(cluster.write("create", job("probe"), "guest", "--dry-run=server"))

    with installed(folder / "chart", enforced, *VALUES) as cluster:
        rights = [m for m in hooks(manifests(*WITH_JOB, tests=True)) if m["kind"] != "Job"]
        cluster.done("apply", "-f", "-", stdin=yaml.safe_dump_all(rights))
        config = next(m for m in manifests(*VALUES) if m["kind"] == "ConfigMap")
        settings = yaml.safe_load(config["data"]["settings.yaml"]) | {
            "lease": {"name": "finetune-operator", "durationSeconds": 5, "renewSeconds": 1}
        }
        operator = Operator(folder, kubeconfig_of(cluster, "finetune-operator", folder), settings).start()
        try:
            wait_for("the operator leads", operator.leads)
            yield Installation(cluster, operator, kubeconfig_of(cluster, NAME, folder))
        finally:
            operator.end()


@pytest.mark.api
def test_every_check_of_a_sound_installation_passes_with_the_rights_of_the_chart(
    installation: Installation,
) -> None:
    code, text = installation.check()
    assert code == 0, text
    messages = [json.loads(line)["message"] for line in text.splitlines()]
    assert [message.partition(":")[0] for message in messages] == [
        "definition",
        "leader",
        "accepted",
        "refused",
        "metrics",
        "admission policy",
    ]
    jobs = installation.cluster.done("get", "ftj", "-A", "-o", "name")
    assert not jobs, "the checks store nothing"


@pytest.mark.api
def test_metrics_that_are_not_served_are_reported(installation: Installation) -> None:
    code, text = installation.check(metrics="http://127.0.0.1:9/metrics")
    assert code == 1
    assert "metrics: failed: http://127.0.0.1:9/metrics cannot be read" in text


@pytest.mark.api
def test_a_policy_that_is_not_bound_is_reported(installation: Installation) -> None:
    binding = ("validatingadmissionpolicybinding", "finetune-operator-secret-access")
    saved = installation.cluster.done("get", *binding, "-o", "json")
    installation.cluster.done("delete", *binding)
    allowed = job("probe")
    wait_for(
        "the policy is not in force",
        lambda: not installation.cluster.write("create", allowed, "guest", "--dry-run=server"),
        60,
    )
    try:
        code, text = installation.check()
    finally:
        installation.cluster.done("create", "-f", "-", stdin=saved)
    assert code == 1
    assert "admission policy: failed: the API server accepts a FineTuneJob with a Secret" in text


@pytest.mark.api
def test_rights_that_are_missing_are_reported(installation: Installation) -> None:
    code, text = installation.check("--namespace=team-b")
    assert code == 1
    assert "accepted: failed: create finetunejobs in namespace team-b" in text
    assert "refused: failed: create finetunejobs in namespace team-b" in text


@pytest.mark.api
def test_a_job_that_does_not_finish_is_reported_and_stays(installation: Installation) -> None:
    code, text = installation.check(values=WITH_JOB)
    assert code == 1
    assert "has not finished after 1 s: Pending, Waiting for its pod to start." in text
    (name,) = installation.cluster.done("get", "ftj", "--namespace=team-a", "-o", "name").split()
    assert name.rpartition("/")[2] in text


@pytest.mark.api
def test_a_leader_that_hangs_is_reported(installation: Installation) -> None:
    # The last test: the operator stops when it finds its Lease expired.
    installation.operator.signal(signal.SIGSTOP)
    try:
        code, text = installation.check(metrics="http://127.0.0.1:9/metrics")
    finally:
        installation.operator.signal(signal.SIGCONT)
    assert code == 1
    assert "has not renewed the Lease finetune-operator for 5 s" in text
