"""Who may name which Secret in a FineTuneJob: the chart's policy on a real API server, tried by two."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.cluster import NAMESPACE, OPERATOR, Cluster, installed

ROOT = Path(__file__).parents[2]
STORE = {"endpoint": "https://minio.storage.svc:9000"}
STORES = {
    # People may get the Secret s3 in team-a, and guests no Secret at all.
    "minio": {**STORE, "secretRef": {"name": "s3"}},
    "vault": {"endpoint": "https://vault.example", "secretRef": {"name": "vault-keys"}},
    "archive": {"endpoint": "https://archive.example"},
}
PROFILES = {
    "default": {},
    "minio": {"store": "minio"},
    "vault": {"store": "vault"},
    "archive": {"store": "archive"},
}
VALUES = (f"settings.stores={json.dumps(STORES)}", f"settings.profiles={json.dumps(PROFILES)}")
PLACES = ("spec", "spec.model", "spec.dataset", "spec.output")

pytestmark = pytest.mark.api


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
    def enforced(cluster: Cluster) -> bool:
        return bool(cluster.write("create", job("probe"), "guest", "--dry-run=server"))

    with installed(tmp_path_factory.mktemp("chart"), enforced, *VALUES) as cluster:
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


def with_storage(name: str, place: str, storage: dict[str, Any], profile: str = "default") -> dict[str, Any]:
    made = job(name, place)
    parent = made
    for key in place.split("."):
        parent = parent[key]
    parent["storage"] = storage
    made["spec"]["resources"]["profile"] = profile
    return made


def with_profile(name: str, profile: str) -> dict[str, Any]:
    made = job(name)
    del made["spec"]["storage"]
    made["spec"]["resources"]["profile"] = profile
    return made


def refusal(cluster: Cluster, made: dict[str, Any], user: str) -> str:
    return cluster.write("create", made, user, "--dry-run=server")


@pytest.mark.parametrize("place", PLACES)
def test_attack_the_keys_of_a_store_without_a_right_on_its_secret(cluster: Cluster, place: str) -> None:
    made = with_storage("store", place, {"store": "minio"})
    refused = refusal(cluster, made, "guest")
    assert (
        f'{place}.storage.store uses the Secret "s3", which guest may not get in namespace team-a' in refused
    )
    assert not refusal(cluster, made, "owner")
    assert 'uses the Secret "vault-keys", which owner' in refusal(
        cluster, with_storage("store", place, {"store": "vault"}), "owner"
    )


@pytest.mark.parametrize("place", PLACES)
def test_keys_of_ones_own_for_a_store_are_what_is_checked(cluster: Cluster, place: str) -> None:
    made = with_storage("own", place, {"store": "vault", "secretRef": {"name": "s3"}})
    assert not refusal(cluster, made, "owner")
    assert f'{place}.storage.secretRef names the Secret "s3"' in refusal(cluster, made, "guest")


def test_attack_the_keys_of_the_store_of_a_profile(cluster: Cluster) -> None:
    refused = refusal(cluster, with_profile("profile", "minio"), "guest")
    assert 'profile minio uses the Secret "s3", which guest may not get in namespace team-a' in refused
    assert "name in spec.storage a Secret that you may read" in refused
    assert not refusal(cluster, with_profile("profile", "minio"), "owner")
    assert 'profile vault uses the Secret "vault-keys"' in refusal(
        cluster, with_profile("profile", "vault"), "owner"
    )


@pytest.mark.parametrize("place", ["spec.model", "spec.dataset", "spec.output"])
def test_attack_the_keys_of_a_profile_for_two_roles_and_ones_own_for_the_third(
    cluster: Cluster, place: str
) -> None:
    foreign = {"endpoint": "https://tenant.example", "secretRef": {"name": "s3"}}
    made = with_storage("exfiltration", place, foreign, profile="vault")
    assert 'profile vault uses the Secret "vault-keys", which owner' in refusal(cluster, made, "owner")


def test_a_profile_whose_keys_no_role_uses_needs_no_right(cluster: Cluster) -> None:
    made = with_storage("default", "spec", {"store": "minio"}, profile="vault")
    assert not refusal(cluster, made, "owner")
    for place in ("model", "dataset", "output"):
        made["spec"][place]["storage"] = made["spec"]["storage"]
    del made["spec"]["storage"]
    assert not refusal(cluster, made, "owner")


def test_stores_and_profiles_without_keys_or_unknown_need_no_right(cluster: Cluster) -> None:
    for made in (
        with_profile("plain", "archive"),
        with_profile("plain", "unknown"),
        with_storage("plain", "spec", {"store": "archive"}),
        with_storage("plain", "spec", {"store": "unknown"}),
    ):
        assert not refusal(cluster, made, "guest")


def test_attack_a_profile_with_keys_by_an_update(cluster: Cluster) -> None:
    assert not cluster.write("create", with_profile("moving", "archive"), "guest")
    moved = cluster.write("apply", with_profile("moving", "minio"), "guest", "--dry-run=server")
    assert 'profile minio uses the Secret "s3", which guest' in moved


def test_any_change_of_the_spec_needs_the_right_and_others_do_not(cluster: Cluster) -> None:
    made = job("changing")
    assert not cluster.write("create", made, "owner")
    moved = copy.deepcopy(made)
    moved["spec"]["dataset"]["train"]["uri"] = "s3://datasets/somebody-elses/train.jsonl"
    assert "spec.storage.secretRef" in cluster.write("apply", moved, "guest", "--dry-run=server")
    assert not cluster.write("apply", moved, "owner", "--dry-run=server")
    labelled = ("label", "ftj", "changing", "team=a", f"--namespace={NAMESPACE}")
    cluster.done(*labelled, user="guest")


def test_the_policy_covers_the_namespaces_of_the_release(render: Callable[..., list[dict[str, Any]]]) -> None:
    """Stores of another release have other Secrets."""

    def bound(*values: str) -> Any:
        name = "finetune-operator-secret-access"
        (binding,) = (
            m for m in render(*values) if m["kind"].endswith("Binding") and m["metadata"]["name"] == name
        )
        return binding["spec"].get("matchResources")

    assert bound() is None
    (only,) = bound('watchNamespaces=["team-a","team-b"]')["namespaceSelector"]["matchExpressions"]
    assert only == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]}


def test_status_is_written_without_a_right_on_secrets(cluster: Cluster) -> None:
    assert not cluster.write("create", job("running"), "owner")
    patch = ("patch", "ftj", "running", f"--namespace={NAMESPACE}", "--subresource=status", "--type=merge")
    cluster.done(*patch, "--patch", '{"status":{"message":"in progress"}}', user="guest")


def test_operators_account_may_do_what_the_chart_says_and_not_read_secrets(cluster: Cluster) -> None:
    def may(*what: str, namespace: str = NAMESPACE) -> bool:
        asked = cluster.kubectl("auth", "can-i", *what, f"--namespace={namespace}", user=OPERATOR)
        return asked.stdout.strip() == "yes"

    assert may("create", "jobs.batch")
    assert may("update", "finetunejobs.finetune.dev", "--subresource=status")
    assert may("update", "leases.coordination.k8s.io/finetune-operator", namespace="finetune-system")
    assert not may("update", "leases.coordination.k8s.io/finetune-operator")
    assert not may("update", "finetunejobs.finetune.dev")
    for verb in ("get", "list", "watch", "create", "update", "delete"):
        assert not may(verb, "secrets")
