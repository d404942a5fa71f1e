"""What the chart allows the operator: no more than it does."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

Render = Callable[..., list[dict[str, Any]]]
INSTALLS = ((), ('watchNamespaces=["team-a","team-b"]',))
NO_CLUSTER_RULES = (INSTALLS[1][0], "crds.install=false", "admissionPolicy.enabled=false")
CLUSTER_SCOPED_RIGHTS = {"ClusterRole", "ClusterRoleBinding"}
OPERATOR_RULES = {
    ("finetune.dev", "finetunejobs"): {"get", "list", "watch", "delete"},
    ("finetune.dev", "finetunejobs/status"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("apps", "controllerrevisions"): {"get", "list", "watch", "create", "delete"},
    ("", "namespaces"): {"get"},
    ("", "pods"): {"list", "watch"},
    ("", "services"): {"get", "list", "watch", "create", "patch", "delete"},
    ("networking.k8s.io", "networkpolicies"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "events"): {"list"},
    ("events.k8s.io", "events"): {"create"},
}
LEASE_RULES = {("coordination.k8s.io", "leases"): {"create", "get", "update"}}


def roles(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (m for m in manifests if m["kind"] in {"Role", "ClusterRole"})


def granted(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    verbs: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                verbs.setdefault((group, resource), set()).update(rule["verbs"])
    return verbs


@pytest.mark.parametrize("values", INSTALLS)
def test_no_rule_has_a_wildcard(render: Render, values: tuple[str, ...]) -> None:
    for role in roles(render(*values)):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role["metadata"][
                "name"
            ]
            assert "nonResourceURLs" not in rule


@pytest.mark.parametrize("values", INSTALLS)
def test_no_rule_names_secrets_or_a_way_around(render: Render, values: tuple[str, ...]) -> None:
    forbidden = {"secrets", "pods/exec", "serviceaccounts", "serviceaccounts/token", "configmaps", "nodes"}
    escalations = {"escalate", "bind", "impersonate"}
    for role in roles(render(*values)):
        for (_, resource), verbs in granted(role).items():
            assert resource not in forbidden
            assert not verbs & escalations


def test_cluster_wide_install_grants_exactly_what_the_operator_does(render: Render) -> None:
    by_name = {role["metadata"]["name"]: role for role in roles(render())}
    assert granted(by_name["finetune-operator"]) == OPERATOR_RULES
    assert granted(by_name["finetune-operator-leader"]) == LEASE_RULES


def test_namespaced_install_has_no_cluster_wide_right(render: Render) -> None:
    manifests = render(*INSTALLS[1])
    assert not [m for m in manifests if m["kind"] in CLUSTER_SCOPED_RIGHTS]
    own = [role for role in roles(manifests) if role["metadata"]["name"] == "finetune-operator"]
    assert [role["metadata"]["namespace"] for role in own] == ["team-a", "team-b"]
    assert all(granted(role) == OPERATOR_RULES for role in own)


def test_an_installation_without_cluster_rules_renders_only_objects_of_namespaces(render: Render) -> None:
    """For people with rights in their namespaces only: a cluster-scoped object would be refused."""
    scraped = 'settings.metrics.scrapeNamespaces=["monitoring"]'
    on = ("metrics.serviceMonitor.create=true", "metrics.podMonitor.create=true", scraped, "replicas=2")
    manifests = render(*NO_CLUSTER_RULES, *on, "metrics.prometheusRule.create=true", tests=True)
    assert {m["kind"] for m in manifests} == {
        "ConfigMap",
        "Deployment",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }
    namespaces = {m["metadata"]["namespace"] for m in manifests}
    assert namespaces == {"finetune-system", "team-a", "team-b"}


def test_the_account_of_the_test_may_only_write_finetunejobs_and_read_the_lease(render: Render) -> None:
    def rights(*values: str) -> dict[str, Any]:
        found = [r for r in roles(render(*values, tests=True)) if "-check-" in r["metadata"]["name"]]
        return {role["metadata"]["name"].rpartition("-")[2]: granted(role) for role in found}

    lease = {("coordination.k8s.io", "leases"): {"get"}}
    jobs = ("finetune.dev", "finetunejobs")
    assert rights() == {"lease": lease, "jobs": {jobs: {"create"}}}
    with_job = rights('test.job={"task":"TextClassification"}', 'test.secretNames=["s3"]')
    assert with_job["jobs"] == {jobs: {"create", "get", "delete"}, ("", "secrets"): {"get"}}


@pytest.mark.parametrize("values", INSTALLS)
def test_every_binding_binds_the_operators_account_to_a_role_of_the_chart(
    render: Render, values: tuple[str, ...]
) -> None:
    manifests = render(*values)
    known = {(r["kind"], r["metadata"]["name"], r["metadata"].get("namespace")) for r in roles(manifests)}
    bindings = [m for m in manifests if m["kind"].endswith("RoleBinding")]
    assert bindings
    for binding in bindings:
        role = binding["roleRef"]
        assert (role["kind"], role["name"], binding["metadata"].get("namespace")) in known
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "finetune-operator", "namespace": "finetune-system"}
        ]


def test_leases_other_than_its_own_are_out_of_reach(render: Render) -> None:
    (leader,) = (r for r in roles(render()) if r["metadata"]["name"] == "finetune-operator-leader")
    assert leader["metadata"]["namespace"] == "finetune-system"
    for rule in leader["rules"]:
        assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["finetune-operator"]


def test_users_roles_grant_finetunejobs_but_not_their_status(render: Render) -> None:
    aggregated = [r for r in roles(render()) if r["metadata"]["name"].endswith(("-view", "-edit"))]
    assert len(aggregated) == 2
    assert all(set(granted(role)) == {("finetune.dev", "finetunejobs")} for role in aggregated)
    assert not [r for r in roles(render("rbac.aggregate=false")) if r["metadata"]["name"].endswith("-edit")]
