"""Each value of values.yaml changes what Helm renders: a value without a case here fails the first test."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.chart.conftest import RefusedValuesError
from tests.chart.test_values import CHART, values_table

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
SCRAPERS = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
DIGEST = "sha256:" + "b" * 64


@dataclass(frozen=True)
class Case:
    """A value other than the default, and what the value decides.

    Attributes:
        value: the other value.
        object: kind and end of the name of the object, such as `Deployment finetune-operator`.
        at: where in the object, with blanks between keys and numbers of items.
        expected: what is there with the value, and is not there with the default. None: the object is absent
            with the value.
        given: other values that the case needs, with and without the value.
    """

    value: Any
    object: str
    at: str
    expected: Any
    given: tuple[str, ...] = ()


POD = "spec template spec"
CONTAINER = f"{POD} containers 0"
OPERATOR = "Deployment finetune-operator"
CHECK = "Job finetune-operator-check"
POLICY = "NetworkPolicy finetune-operator"
PODS_SCRAPED = 'settings.metrics.scrapeNamespaces=["monitoring"]'
SCRAPED = (
    PODS_SCRAPED,
    "metrics.serviceMonitor.create=true",
    "metrics.podMonitor.create=true",
    "metrics.prometheusRule.create=true",
)
SIDECAR, GRAFANA = "dashboards.enabled=true", "dashboards.grafanaOperator.enabled=true"
FLEET_MAP = "ConfigMap finetune-operator-dashboard-fleet"
FLEET = "GrafanaDashboard finetune-operator-fleet"
JOB = {"task": "TextClassification"}


def on_pod(value: Any, key: str) -> Case:
    return Case(value, OPERATOR, f"{POD} {key}", value)


def setting(value: Any) -> Case:
    """A setting of the operator has the same name in the operator's settings file."""
    return Case(value, "settings", "", value)


CASES = {
    "global.imageRegistry": Case(
        "reg.example", OPERATOR, f"{CONTAINER} image", "reg.example/finetune-operator:0.1.0"
    ),
    "global.requireDigests": Case(True, "refusal", "", "image.digest: global.requireDigests is true"),
    "nameOverride": Case(
        "tuner", "Deployment finetune-operator-tuner", "metadata name", "finetune-operator-tuner"
    ),
    "fullnameOverride": Case("tuner", "Deployment tuner", "metadata name", "tuner"),
    "image.repository": Case("other", OPERATOR, f"{CONTAINER} image", "other:0.1.0"),
    "image.tag": Case("9", OPERATOR, f"{CONTAINER} image", "finetune-operator:9"),
    "image.digest": Case(DIGEST, OPERATOR, f"{CONTAINER} image", f"finetune-operator@{DIGEST}"),
    "image.pullPolicy": Case("Always", OPERATOR, f"{CONTAINER} imagePullPolicy", "Always"),
    "imagePullSecrets": on_pod([{"name": "mirror"}], "imagePullSecrets"),
    "trainer.image.repository": Case("other", "settings", "trainerImage", "other:0.1.0"),
    "trainer.image.tag": Case("9", "settings", "trainerImage", "finetune-trainer:9"),
    "trainer.image.digest": Case(DIGEST, "settings", "trainerImage", f"finetune-trainer@{DIGEST}"),
    "trainer.slimImage.repository": Case("other", "settings", "slimTrainerImage", "other:0.1.0"),
    "trainer.slimImage.tag": Case("9", "settings", "slimTrainerImage", "finetune-trainer-slim:9"),
    "trainer.slimImage.digest": Case(
        DIGEST, "settings", "slimTrainerImage", f"finetune-trainer-slim@{DIGEST}"
    ),
    "trainer.imagePullSecrets": Case([{"name": "mirror"}], "settings", "imagePullSecrets", ["mirror"]),
    "watchNamespaces": Case(["team-a"], "settings", "namespaces", ["team-a"]),
    "replicas": Case(2, OPERATOR, "spec replicas", 2),
    "settings.clusterDomain": setting("cluster.example"),
    "settings.requireTls": setting(False),
    "settings.stores": setting({"s3": {"endpoint": "https://s3.example"}}),
    "settings.allowOtherEndpoints": setting(True),
    "settings.notifications.targets": setting({"crm": {"url": "https://crm.example", "secretName": "crm"}}),
    "settings.dns.ports": setting([5353]),
    "settings.dns.namespace": setting("dns"),
    "settings.dns.podLabels": Case({"app": "dns"}, "settings", "dns podLabels app", "dns"),
    "settings.podSecurity.runAsUser": setting(20001),
    "settings.podSecurity.runAsGroup": setting(20001),
    "settings.podSecurity.fsGroup": setting(20001),
    "settings.limitEphemeralStorage": setting(True),
    "settings.maxRestarts": setting(1),
    "settings.resyncSeconds": setting(60),
    "settings.pollSeconds": setting(20),
    "settings.statusSeconds": setting(60),
    "settings.workers": setting(4),
    "settings.metrics.perJob": setting(False),
    "settings.metrics.maxJobs": setting(5),
    "settings.metrics.finishedSeconds": setting(60),
    "settings.metrics.tls": setting(True),
    "settings.metrics.authentication": Case(
        True, "settings", "metrics authentication", True, ("settings.metrics.tls=true",)
    ),
    "settings.metrics.scrapeNamespaces": setting(["monitoring"]),
    "settings.lease.durationSeconds": setting(30),
    "settings.lease.renewSeconds": setting(4),
    "settings.deadlines.podsStart": setting(60),
    "settings.deadlines.prepare": setting(60),
    "settings.deadlines.train": setting(60),
    "settings.deadlines.publish": setting(60),
    "settings.deadlines.cleanup": setting(60),
    "settings.deadlines.rendezvous": setting(60),
    "settings.deadlines.stop": setting(60),
    "settings.deadlines.hang": setting(60),
    "settings.deadlines.collection": setting(30),
    "settings.profiles": Case({"gpu": {"scratch": "1Gi"}}, "settings", "profiles gpu scratch", "1Gi"),
    "crds.install": Case(False, "CustomResourceDefinition finetunejobs.finetune.dev", "", None),
    "rbac.create": Case(False, "ClusterRole finetune-operator", "", None),
    "rbac.aggregate": Case(False, "ClusterRole finetune-operator-edit", "", None),
    "serviceAccount.create": Case(
        False, "ServiceAccount finetune-operator", "", None, ('serviceAccount.name="finetune-operator"',)
    ),
    "serviceAccount.name": on_pod("other", "serviceAccountName"),
    "serviceAccount.annotations": Case(
        {"a": "b"}, "ServiceAccount finetune-operator", "metadata annotations", {"a": "b"}
    ),
    "serviceAccount.tokenSeconds": Case(
        600, OPERATOR, f"{POD} volumes 2 projected sources 0 serviceAccountToken expirationSeconds", 600
    ),
    "admissionPolicy.enabled": Case(
        False, "ValidatingAdmissionPolicy finetune-operator-secret-access", "", None
    ),
    "admissionPolicy.operator.enabled": Case(
        False, "ValidatingAdmissionPolicy finetune-operator-own-jobs", "", None
    ),
    "admissionPolicy.operator.imageRepositories": Case(
        ["mirror/trainer"],
        "ValidatingAdmissionPolicy finetune-operator-own-jobs",
        "spec variables 3 expression",
        "['finetune-trainer', 'finetune-trainer-slim', 'mirror/trainer']",
    ),
    "admissionPolicy.operator.secretNames": Case(
        ["s3-*"],
        "ValidatingAdmissionPolicy finetune-operator-own-jobs",
        "spec variables 4 expression",
        "['s3-*']",
    ),
    "networkPolicy.enabled": Case(False, POLICY, "", None),
    "networkPolicy.metricsFrom": Case(SCRAPERS, POLICY, "spec ingress 0 from 0", SCRAPERS[0]),
    "networkPolicy.apiServerPorts": Case([16443], POLICY, "spec egress 0 ports 0 port", 16443),
    "networkPolicy.apiServerCidrs": Case(
        ["10.0.0.10/32"], POLICY, "spec egress 0 to", [{"ipBlock": {"cidr": "10.0.0.10/32"}}]
    ),
    "networkPolicy.extraEgress": Case([{"to": SCRAPERS}], POLICY, "spec egress 4", {"to": SCRAPERS}),
    "metrics.tls.secretName": Case(
        "cert", OPERATOR, f"{POD} volumes 1 secret secretName", "cert", ("settings.metrics.tls=true",)
    ),
    "metrics.service.create": Case(False, "Service finetune-operator-metrics", "", None),
    "metrics.service.port": Case(9090, "Service finetune-operator-metrics", "spec ports 0 port", 9090),
    "metrics.service.annotations": Case(
        {"a": "b"}, "Service finetune-operator-metrics", "metadata annotations", {"a": "b"}
    ),
    "metrics.serviceMonitor.create": Case(
        True, "ServiceMonitor finetune-operator", "spec endpoints 0 port", "metrics"
    ),
    "metrics.serviceMonitor.interval": Case(
        "5s", "ServiceMonitor finetune-operator", "spec endpoints 0 interval", "5s", SCRAPED
    ),
    "metrics.serviceMonitor.labels": Case(
        {"release": "p"}, "ServiceMonitor finetune-operator", "metadata labels release", "p", SCRAPED
    ),
    "metrics.podMonitor.create": Case(
        True,
        "PodMonitor finetune-operator-trainers",
        "spec podMetricsEndpoints 0 port",
        "progress",
        (PODS_SCRAPED,),
    ),
    "metrics.podMonitor.interval": Case(
        "5s", "PodMonitor finetune-operator-trainers", "spec podMetricsEndpoints 0 interval", "5s", SCRAPED
    ),
    "metrics.podMonitor.labels": Case(
        {"release": "p"}, "PodMonitor finetune-operator-trainers", "metadata labels release", "p", SCRAPED
    ),
    "metrics.prometheusRule.create": Case(
        True, "PrometheusRule finetune-operator", "metadata name", "finetune-operator"
    ),
    "metrics.prometheusRule.runbooks": Case(
        "https://wiki.example", "PrometheusRule finetune-operator", "text", "https://wiki.example#", SCRAPED
    ),
    "metrics.prometheusRule.grafana": Case(
        "https://grafana.example",
        "PrometheusRule finetune-operator",
        "text",
        "https://grafana.example",
        SCRAPED,
    ),
    "metrics.prometheusRule.labels": Case(
        {"release": "p"}, "PrometheusRule finetune-operator", "metadata labels release", "p", SCRAPED
    ),
    "dashboards.enabled": Case(True, FLEET_MAP, "metadata name", "finetune-operator-dashboard-fleet"),
    "dashboards.namespace": Case("grafana", FLEET_MAP, "metadata namespace", "grafana", (SIDECAR,)),
    "dashboards.labels": Case({"team": "ml"}, FLEET_MAP, "metadata labels team", "ml", (SIDECAR,)),
    "dashboards.annotations": Case(
        {"grafana_folder": "ML"}, FLEET_MAP, "metadata annotations grafana_folder", "ML", (SIDECAR,)
    ),
    "dashboards.grafanaOperator.enabled": Case(True, FLEET, "metadata name", "finetune-operator-fleet"),
    "dashboards.grafanaOperator.instanceSelector": Case(
        {"matchLabels": {"dashboards": "ml"}},
        FLEET,
        "spec instanceSelector matchLabels dashboards",
        "ml",
        (GRAFANA,),
    ),
    "dashboards.grafanaOperator.folder": Case("ML", FLEET, "spec folder", "ML", (GRAFANA,)),
    "dashboards.grafanaOperator.allowCrossNamespaceImport": Case(
        False, FLEET, "spec allowCrossNamespaceImport", False, (GRAFANA,)
    ),
    "podDisruptionBudget.enabled": Case(
        False, "PodDisruptionBudget finetune-operator", "", None, ("replicas=2",)
    ),
    "resources.requests": Case({"cpu": "1"}, OPERATOR, f"{CONTAINER} resources requests cpu", "1"),
    "resources.limits": Case({"memory": "1Gi"}, OPERATOR, f"{CONTAINER} resources limits memory", "1Gi"),
    "podLabels": Case({"team": "ml"}, OPERATOR, "spec template metadata labels team", "ml"),
    "podAnnotations": Case({"team": "ml"}, OPERATOR, "spec template metadata annotations team", "ml"),
    "priorityClassName": on_pod("system-cluster-critical", "priorityClassName"),
    "nodeSelector": on_pod({"role": "system"}, "nodeSelector"),
    "tolerations": on_pod([{"key": "system", "operator": "Exists"}], "tolerations"),
    "affinity": on_pod({"nodeAffinity": {}}, "affinity"),
    "topologySpreadConstraints": on_pod(
        [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
        "topologySpreadConstraints",
    ),
    "extraEnv": Case(
        [{"name": "A", "value": "b"}], OPERATOR, f"{CONTAINER} env 2", {"name": "A", "value": "b"}
    ),
    "extraVolumes": Case(
        [{"name": "ca", "configMap": {"name": "ca"}}], OPERATOR, f"{POD} volumes 3 configMap name", "ca"
    ),
    "extraVolumeMounts": Case(
        [{"name": "ca", "mountPath": "/ca"}], OPERATOR, f"{CONTAINER} volumeMounts 3 mountPath", "/ca"
    ),
    "test.namespace": Case("team-a", "Role finetune-operator-check-jobs", "metadata namespace", "team-a"),
    "test.waitSeconds": Case(5, CHECK, f"{POD} containers 0 args 3", "--wait-seconds=5"),
    "test.job": Case(
        JOB, CHECK, f"{POD} containers 0 args 6", f"--job={json.dumps(JOB, separators=(',', ':'))}"
    ),
    "test.jobSeconds": Case(
        5, CHECK, f"{POD} containers 0 args 7", "--job-seconds=5", (f"test.job={json.dumps(JOB)}",)
    ),
    "test.secretNames": Case(["s3"], "Role finetune-operator-check-jobs", "rules 1 resourceNames", ["s3"]),
}
ABSENT = object()


def at(document: Any, path: str) -> Any:
    """The part of a document at a path; ABSENT if there is none."""
    for key in path.split():
        try:
            document = document[int(key) if isinstance(document, list) else key]
        except (KeyError, IndexError, TypeError):
            return ABSENT
    return document


def seen(render: Render, name: str, case: Case, *values: str) -> Any:
    """What the case looks at; ABSENT if the object or its part is not there."""
    manifests = render(*case.given, *values, tests=True)
    if case.object == "settings":
        (config,) = [m for m in manifests if m["kind"] == "ConfigMap"]
        return at(
            yaml.safe_load(config["data"]["settings.yaml"]),
            case.at or name.removeprefix("settings.").replace(".", " "),
        )
    found = [m for m in manifests if f"{m['kind']} {m['metadata']['name']}" == case.object]
    if not found:
        return ABSENT
    if case.expected is None:
        return "present"
    if case.at == "text":
        return case.expected if case.expected in json.dumps(found[0]) else ABSENT
    return at(found[0], case.at)


def refused(render: Render, case: Case, *values: str) -> Any:
    """What the case expects if Helm says so in a refusal; ABSENT otherwise."""
    try:
        render(*values)
    except RefusedValuesError as refusal:
        return case.expected if case.expected in str(refusal) else ABSENT
    return ABSENT


def test_every_value_has_a_case() -> None:
    paths = [path for path, _, _ in values_table().rows((CHART / "values.yaml").read_text())]
    assert sorted(CASES) == sorted(paths)


@pytest.mark.parametrize("name", CASES)
def test_the_value_decides(render: Render, name: str) -> None:
    case = CASES[name]
    wanted = ABSENT if case.expected is None else case.expected
    value = f"{name}={json.dumps(case.value)}"
    if case.object == "refusal":
        assert refused(render, case, value) == wanted
        assert refused(render, case) != wanted
    else:
        assert seen(render, name, case, value) == wanted
        assert seen(render, name, case) != wanted
