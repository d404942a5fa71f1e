"""A service account for the operator, with the Roles that the chart gives it."""

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from devcluster import binaries
from tests.api.kube import Kube, wait_for

ROOT = Path(__file__).parents[2]
Right = tuple[str, str, str]
"""Verb, API group, and resource with its subresource."""
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{}"


def chart_objects(home: str, values: str) -> list[Any]:
    """The objects of the chart, installed in `home` with values as for `helm --set`."""
    command: list[str | Path] = [
        binaries.path("helm"),
        "template",
        "finetune-operator",
        ROOT / "charts/finetune-operator",
    ]
    command += ["--skip-tests", "--namespace", home, "--set", values]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [o for o in yaml.safe_load_all(rendered) if o]


def chart_rules(home: str, namespace: str) -> list[Any]:
    """What the chart grants in a namespace to an operator that runs in `home` and watches that namespace."""
    objects = chart_objects(home, f"watchNamespaces={{{namespace}}}")
    roles = [o for o in objects if o["kind"] == "Role" and o["metadata"]["namespace"] == namespace]
    return [rule for role in roles for rule in role["rules"]]


@cache
def rights_of_the_operator() -> frozenset[Right]:
    """Every right that the chart grants the operator, with authenticated metrics."""
    objects = chart_objects(
        "finetune-system", "settings.metrics.tls=true,settings.metrics.authentication=true"
    )
    ends = ("", "-leader", "-metrics-access")
    names = {f"finetune-operator{end}" for end in ends}
    roles = [o for o in objects if o["kind"].endswith("Role") and o["metadata"]["name"] in names]
    return frozenset(rights_of_rules(rule for role in roles for rule in role["rules"]))


def new_token(kube: Kube, namespace: str, account: str) -> str:
    """A token of a new service account without any right."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    kube.call("POST", accounts, {"metadata": {"name": account}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token: str = kube.call("POST", f"{accounts}/{account}/token", request)["status"]["token"]
    return token


def make_account(kube: Kube, home: str, folder: Path) -> Path:
    """The kubeconfig of a new service account without any right."""
    config = yaml.safe_load(kube.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": new_token(kube, home, "op")}
    file = folder / "confined"
    file.write_text(yaml.safe_dump(config))
    return file


def grant(kube: Kube, home: str, namespace: str, rules: list[Any]) -> None:
    """Gives the account a Role in a namespace; returns when the API server's authorizer allows the rules."""
    set_rules(kube, namespace, rules)
    binding = {
        "metadata": {"name": "op"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "op"},
        "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": home}],
    }
    kube.call("POST", RBAC.format(namespace, "rolebindings"), binding)
    rule = next(rule for rule in rules if "resourceNames" not in rule)
    right = rule["verbs"][0], rule["apiGroups"][0], rule["resources"][0]
    wait_for(f"the Role in {namespace} is in force", lambda: is_allowed(kube, home, namespace, right))


def is_allowed(kube: Kube, home: str, namespace: str, right: Right) -> bool:
    """Whether the API server's authorizer allows the account a right in a namespace."""
    verb, group, name = right
    resource, _, subresource = name.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
    }
    spec = {"user": f"system:serviceaccount:{home}:op", "resourceAttributes": attributes}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(kube.call("POST", path, {"spec": spec})["status"]["allowed"])


def set_rules(kube: Kube, namespace: str, rules: list[Any]) -> None:
    """Replaces the rules of the account's Role in a namespace."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "op", "namespace": namespace},
        "rules": rules,
    }
    path = RBAC.format(namespace, "roles/op?fieldManager=t&force=true")
    kube.call("PATCH", path, role, "application/apply-patch+yaml")


def rights_of_rules(rules: Iterable[Any]) -> set[Right]:
    """Every right that the rules of a role grant; the names of objects do not count."""
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
    }


def rights_used(calls: Iterable[Any]) -> set[Right]:
    """The rights that calls of the audit log needed; calls without a resource do not count."""
    return {
        (call["verb"], about.get("apiGroup", ""), "/".join(filter(None, named)))
        for call in calls
        if (about := call.get("objectRef"))
        for named in [(about["resource"], about.get("subresource"))]
    }
