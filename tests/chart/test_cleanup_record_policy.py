"""Who may create a cleanup record: the chart's policy on a real API server."""

from collections.abc import Iterator

import pytest
import yaml

from devcluster.controlplane import control_plane
from finetune_operator.rendering.cleanup_record import cleanup_record
from tests.api.kube import wait_for
from tests.chart.conftest import helm_template
from tests.chart.test_admission_policy import Cluster
from tests.operator import scenes

pytestmark = pytest.mark.api
OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"
RECORD = cleanup_record(scenes.job_of(), scenes.asked_of(scenes.job_of(), scenes.settings()), 1, "uid")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with control_plane(tmp_path_factory.mktemp("records")) as kubeconfig:
        cluster = Cluster(kubeconfig)
        cluster.done("create", "namespace", "demo")
        rights = ("--verb=create,update,get,list,delete", "--resource=controllerrevisions.apps", "-n", "demo")
        cluster.done("create", "role", "records", *rights)
        users = ("--user=admin-of-demo", f"--user={OPERATOR}")
        cluster.done("create", "rolebinding", "records", "--role=records", *users, "-n", "demo")
        policies = [
            manifest
            for manifest in yaml.safe_load_all(helm_template())
            if manifest and manifest["metadata"]["name"].endswith("-cleanup-records")
        ]
        assert len(policies) == 2
        cluster.done("apply", "-f", "-", stdin=yaml.safe_dump_all(policies))
        wait_for(
            "the policy is in force", lambda: not created(cluster, "admin-of-demo").endswith("created"), 60
        )
        yield cluster


def created(cluster: Cluster, user: str, **labels: str) -> str:
    """The last line of what kubectl says; nothing is kept."""
    meta = {**RECORD["metadata"], "labels": RECORD["metadata"]["labels"] | labels}
    text = yaml.safe_dump({**RECORD, "metadata": meta})
    answer = cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=text, user=user)
    lines = (answer.stdout + answer.stderr).replace(" (server dry run)", "").strip().splitlines()
    return lines[-1]


def test_the_operator_creates_records(cluster: Cluster) -> None:
    assert created(cluster, OPERATOR).endswith("created")


def test_nobody_else_creates_records(cluster: Cluster) -> None:
    message = created(cluster, "admin-of-demo")

    assert "only the fine-tuning operator creates ControllerRevisions" in message
    assert "not admin-of-demo" in message


def test_other_controller_revisions_are_nobodys_business(cluster: Cluster) -> None:
    assert created(cluster, "admin-of-demo", **{"finetune.dev/role": "other"}).endswith("created")
